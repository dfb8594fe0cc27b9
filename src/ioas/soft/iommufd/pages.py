"""`Pages`: memory that is mapped somewhere, and which of its pages are pinned on whose account.

Follows iopt_pages (drivers/iommu/iommufd/pages.c, 7.3). One MAP makes one `Pages`; areas made by COPY or by a split
share it, and accesses pin through it. A page is pinned once, from the moment something needs it until nothing does:
an IOAS without a domain pins nothing.

The kernel keeps two interval trees and finds a page's number in whichever place stores it. Here a `Pages` is a row
of pieces that are held, each with the number of claims on it; claims that cover part of a piece split it. Nearly
always there is a single piece.
"""

from __future__ import annotations

from errno import EPERM
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, AddressSpace, PinSource
from ioas.soft.memory import AccountMode, Held, Segment

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import System


class Owner:
    """On whose account pages are pinned: decided when they are mapped. Shared by the pages of one caller."""

    __slots__ = ("memory", "mode", "uid")

    def __init__(self, memory: AddressSpace, uid: int, mode: AccountMode) -> None:
        self.memory = memory
        self.uid = uid
        self.mode = mode


class _Piece:
    """Consecutive pages that are held, and how many claims there are on each of them."""

    __slots__ = ("claims", "first", "held")

    def __init__(self, first: int, held: Held, claims: int) -> None:
        self.first = first
        self.held = held
        self.claims = claims


class Pages:
    """`count` pages of `source` from its byte `start` (a multiple of 4096); page indices count from there.

    `memory` is the address space that `source` is, or None for a file. `writable` is whether the pages were
    mapped for writing: the pins then want write permission.
    """

    __slots__ = ("_pieces", "count", "memory", "owner", "source", "start", "system", "writable")

    def __init__(
        self,
        system: System,
        owner: Owner,
        source: PinSource,
        memory: AddressSpace | None,
        start: int,
        count: int,
        writable: bool,
    ) -> None:
        self.system = system
        self.owner = owner
        self.source = source
        self.memory = memory
        self.start = start
        self.count = count
        self.writable = writable
        self._pieces: list[_Piece] = []

    def __str__(self) -> str:
        kind = "file offset" if self.memory is None else "address"
        return f"{self.count} pages from {kind} {self.start:#x}"

    @property
    def pinned(self) -> int:
        """How many pages are pinned now."""
        return sum(piece.held.pages for piece in self._pieces)

    def claim(self, first: int, last: int, *, charge: bool = True) -> None:
        """Pin pages `first` to `last` (unless they are), until `release` with the same arguments.

        Raises KernelError, with nothing changed: EFAULT for memory that is not there, EINVAL beyond the end of a
        file, ENOMEM when the owner may not lock so much.
        """
        if not self._pieces:
            held = self._hold(first, last - first + 1)
            if charge:
                self._charge([held])
            self._pieces.append(_Piece(first, held, 1))
            return
        self._cut(first)
        self._cut(last + 1)
        missing = self._hold_missing(first, last)
        if charge and missing:
            self._charge([piece.held for piece in missing])
        for piece in self._pieces:
            if first <= piece.first <= last:
                piece.claims += 1
        if missing:
            self._pieces.extend(missing)
            self._pieces.sort(key=_first)

    def release(self, first: int, last: int, *, charged: bool = True) -> None:
        """Undo one `claim`: unpin what nothing else claims. Whoever used the pages has stopped."""
        kept: list[_Piece] = []
        released = 0
        for piece in self._pieces:
            if first <= piece.first <= last:
                piece.claims -= 1
                if not piece.claims:
                    released += piece.held.pages
                    piece.held.release()
                    continue
            kept.append(piece)
        self._pieces = kept
        if released and charged:
            self._uncharge(released)

    def segments(self, first: int, last: int) -> list[Segment]:
        """The frames of pages `first` to `last`, which are claimed."""
        pieces = self._pieces
        if len(pieces) == 1:
            piece = pieces[0]
            return piece.held.part(first - piece.first, last - first + 1)
        segments: list[Segment] = []
        for piece in pieces:
            start = max(first, piece.first)
            end = min(last + 1, piece.first + piece.held.pages)
            if start < end:
                segments += piece.held.part(start - piece.first, end - start)
        return segments

    def read(self, byte: int, length: int, current: AddressSpace | None) -> bytes:
        """Copy `length` bytes from byte `byte` (counted from the first page).

        `current` is the caller's address space when the copy may be made in its context. Follows
        iopt_pages_rw_access (7.3): through the address space where that is possible, else through the pins.
        Raises KernelError(EFAULT).
        """
        near = self._address_space(byte, length, current)
        if near is not None:
            try:
                return near.read(self.start + byte, length)
            except KernelError:
                if near is current:
                    raise
        with _Temporary(self, byte, length) as address_of:
            return b"".join(self.system.memory.read(at, size) for at, size in address_of)

    def write(self, byte: int, data: Buffer, current: AddressSpace | None) -> None:
        """Copy `data` to byte `byte`; as `read`. Raises EPERM for pages that were not mapped for writing."""
        if not self.writable:
            raise refuse(EPERM, f"{self} were mapped for reading only", "address", self.start)
        view = memoryview(data).cast("B")
        near = self._address_space(byte, len(view), current)
        if near is not None:
            try:
                near.write(self.start + byte, view)
                return
            except KernelError:
                if near is current:
                    raise
        with _Temporary(self, byte, len(view)) as address_of:
            for at, size in address_of:
                self.system.memory.write(at, view[:size])
                view = view[size:]

    def _address_space(self, byte: int, length: int, current: AddressSpace | None) -> AddressSpace | None:
        """The address space to copy through: the caller's own, or another's within one page."""
        if self.memory is None:
            return None
        one_page = byte >> PAGE_SHIFT == (byte + length - 1) >> PAGE_SHIFT
        return self.memory if self.memory is current or one_page else None

    def change_owner(self, owner: Owner) -> None:
        """`owner` has been charged for what is pinned: relieve the former one."""
        self._uncharge(self.pinned)
        self.owner = owner

    def _hold(self, first: int, count: int) -> Held:
        return self.system.memory.hold(self.source, self.start + (first << PAGE_SHIFT), count, self.writable)

    def _hold_missing(self, first: int, last: int) -> list[_Piece]:
        """Hold what no piece covers of `first` to `last`, all or nothing."""
        missing: list[_Piece] = []
        try:
            for start, end in self._uncovered(first, last):
                missing.append(_Piece(start, self._hold(start, end - start), 1))
        except KernelError:
            _release_all(missing)
            raise
        return missing

    def _uncovered(self, first: int, last: int) -> list[tuple[int, int]]:
        """The (start, end) page ranges of `first` to `last` that no piece covers."""
        holes: list[tuple[int, int]] = []
        position = first
        for piece in self._pieces:
            if piece.first > last:
                break
            if piece.first > position:
                holes.append((position, piece.first))
            position = max(position, piece.first + piece.held.pages)
        if position <= last:
            holes.append((position, last + 1))
        return holes

    def _cut(self, index: int) -> None:
        """Let no piece straddle the border before page `index`."""
        for number, piece in enumerate(self._pieces):
            if piece.first < index < piece.first + piece.held.pages:
                left, right = piece.held.split(index - piece.first)
                piece.held = left
                self._pieces.insert(number + 1, _Piece(index, right, piece.claims))
                return

    def _charge(self, holds: list[Held]) -> None:
        """Charge for what has just been held; let go of it when the owner may not lock so much.

        The kernel counts after pinning as well, for the same reason: only then it knows how many are new.
        """
        owner = self.owner
        count = sum(held.pages for held in holds)
        try:
            self.system.accounting.charge(owner.mode, owner.memory, owner.uid, count)
        except KernelError:
            for held in holds:
                held.release()
            raise

    def _uncharge(self, count: int) -> None:
        owner = self.owner
        self.system.accounting.uncharge(owner.mode, owner.memory, owner.uid, count)


class _Temporary:
    """Physical addresses for a copy: pins what is not pinned for the while, uncharged (iopt_pages_rw_slow, 7.3)."""

    def __init__(self, pages: Pages, byte: int, length: int) -> None:
        self._pages = pages
        self._byte = byte
        self._length = length
        self._first = byte >> PAGE_SHIFT
        self._last = byte + length - 1 >> PAGE_SHIFT

    def __enter__(self) -> list[tuple[int, int]]:
        pages = self._pages
        pages.claim(self._first, self._last, charge=False)
        offset = self._byte % PAGE_SIZE
        left = self._length
        spans: list[tuple[int, int]] = []
        for run, first, count in pages.segments(self._first, self._last):
            for index in range(first, first + count):
                size = min(PAGE_SIZE - offset, left)
                spans.append(((run.pfn(index) << PAGE_SHIFT) + offset, size))
                offset = 0
                left -= size
        return spans

    def __exit__(self, *exception: object) -> None:
        self._pages.release(self._first, self._last, charged=False)


def _first(piece: _Piece) -> int:
    return piece.first


def _release_all(pieces: list[_Piece]) -> None:
    for piece in pieces:
        piece.held.release()
