"""`Pages`: memory that is mapped somewhere, and which of its pages are pinned on whose account.

Follows iopt_pages (drivers/iommu/iommufd/pages.c, 7.3). One MAP makes one `Pages`; areas made by COPY or by a split
share it, and accesses pin through it. A page is pinned once, from the moment something needs it until nothing does:
an IOAS without a domain pins nothing.

The kernel keeps two interval trees and finds a page's frame in whichever place stores it. Here a `Pages` is a chain
of pieces that are held, each with the number of claims on it; a claim on part of a piece splits it. Nearly always there
is a single piece, and there may be a million `Pages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from errno import EOVERFLOW, EPERM
from typing import TYPE_CHECKING

from ioas.errors import KernelError, NoProcess, refuse
from ioas.host import PAGE_SHIFT, AddressSpace, PinSource
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.soft.memory import AccountMode, Held, Segment, Span

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
    """Consecutive pages that are held, how many claims there are on each of them, and the next piece above."""

    __slots__ = ("claims", "first", "held", "next")

    def __init__(self, first: int, held: Held, claims: int, following: _Piece | None) -> None:
        self.first = first
        self.held = held
        self.claims = claims
        self.next = following


class Pages:
    """`count` pages of `source` from its byte `start` (a multiple of 4096); page indices count from there.

    `memory` is the address space that `source` is, or None for a file. `writable` is whether the pages were
    mapped for writing: the pins then want write permission.
    """

    revoked = False
    """Whether devices no longer reach them, although they are mapped (DMA-BUFs)."""
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
        self._pieces: _Piece | None = None

    def __str__(self) -> str:
        kind = "file offset" if self.memory is None else "address"
        return f"{self.count} pages from {kind} {self.start:#x}"

    @property
    def of_file(self) -> bool:
        """Whether they are a memory file's, and so of no process in particular."""
        return self.memory is None

    @property
    def pinned(self) -> int:
        """How many pages are pinned now."""
        return sum(piece.held.pages for piece in self._chain())

    def claim(self, first: int, last: int, *, charge: bool = True) -> int:
        """Pin pages `first` to `last` (unless they are), until `release` with the same arguments; how many are new.

        Without `charge` they are to be charged afterwards (`charge`), or released uncharged.

        Raises KernelError, with nothing changed: EFAULT for memory that is not there, EINVAL beyond the end of a file,
        ENOMEM when the owner may not lock so much.
        """
        if self._pieces is None:
            count = last - first + 1
            self._pieces = _Piece(first, self._hold(first, count, charge), 1, None)
            return count
        self._cut(first)
        self._cut(last + 1)
        missing = self._hold_missing(first, last, charge)
        for piece in self._chain():
            if first <= piece.first <= last:
                piece.claims += 1
        for piece in missing:
            self._link(piece)
        return sum(piece.held.pages for piece in missing)

    def charge(self, count: int) -> None:
        """Charge the owner for `count` new pages. Raises KernelError(ENOMEM), with nothing charged."""
        if count:  # nothing new is not refused, whatever the limit is now
            owner = self.owner
            self.system.accounting.charge(owner.mode, owner.memory, owner.uid, count)

    def release(self, first: int, last: int, *, charged: bool = True) -> None:
        """Undo one `claim`: unpin what nothing else claims. Whoever used the pages has stopped."""
        released = 0
        before: _Piece | None = None
        piece = self._pieces
        while piece is not None and piece.first <= last:
            following = piece.next
            if piece.first >= first:
                piece.claims -= 1
            if piece.claims:
                before = piece
            else:
                released += piece.held.pages
                piece.held.release()
                if before is None:
                    self._pieces = following
                else:
                    before.next = following
            piece = following
        if released and charged:
            self._uncharge(released)

    def segments(self, first: int, last: int) -> list[Segment]:
        """The frames of pages `first` to `last`, which are claimed."""
        piece = self._pieces
        if piece is not None and piece.next is None:
            return piece.held.part(first - piece.first, last - first + 1)
        segments: list[Segment] = []
        for piece in self._chain():
            start = max(first, piece.first)
            end = min(last + 1, piece.first + piece.held.pages)
            if start < end:
                segments += piece.held.part(start - piece.first, end - start)
        return segments

    def spans(self, byte: int, length: int) -> Iterator[Span]:
        """Where `length` bytes from byte `byte` stand, all of them claimed."""
        for piece in self._chain():
            start = piece.first << PAGE_SHIFT
            low = max(byte, start)
            high = min(byte + length, start + (piece.held.pages << PAGE_SHIFT))
            if low < high:
                yield from piece.held.spans(low - start, high - low)

    def check_access(self) -> None:
        """Refuse (KernelError) accesses by software. Memory takes them."""

    def change_owner(self, owner: Owner) -> None:
        """`owner` has been charged for what is pinned: relieve the former one."""
        self._uncharge(self.pinned)
        self.owner = owner

    def read(self, byte: int, length: int, current: AddressSpace | None) -> bytes:
        """Copy `length` bytes from byte `byte` (counted from the first page).

        `current` is the caller's address space when the copy may be made in its context. Follows
        iopt_pages_rw_access (7.3): through the address space, or through the pins when nobody has it any more.
        Raises KernelError(EFAULT).
        """
        near = self._address_space(byte, length, current)
        if near is not None:
            with suppress(NoProcess):
                return near.read(self.start + byte, length)
        with _Temporary(self, byte, length) as spans:
            return b"".join([span.read() for span in spans])

    def write(self, byte: int, data: Buffer, current: AddressSpace | None) -> None:
        """Copy `data` to byte `byte`; as `read`. Raises EPERM for pages that were not mapped for writing."""
        if not self.writable:
            raise refuse(EPERM, f"{self} were mapped for reading only", "address", self.start)
        view = memoryview(data).cast("B")
        near = self._address_space(byte, len(view), current)
        if near is not None:
            with suppress(NoProcess):
                near.write(self.start + byte, view)
                return
        with _Temporary(self, byte, len(view)) as spans:
            done = 0
            for span in spans:
                span.write(view[done : done + span.length])
                done += span.length

    def _address_space(self, byte: int, length: int, current: AddressSpace | None) -> AddressSpace | None:
        """The address space to copy through: the caller's own, or another's within one page."""
        if self.memory is None:
            return None
        one_page = byte >> PAGE_SHIFT == (byte + length - 1) >> PAGE_SHIFT
        return self.memory if self.memory is current or one_page else None

    def _chain(self) -> Iterator[_Piece]:
        piece = self._pieces
        while piece is not None:
            yield piece
            piece = piece.next

    def _hold(self, first: int, count: int, charge: bool) -> Held:
        """Pin and charge. The kernel counts after pinning too, for only then it knows how many are new."""
        start = self.start + (first << PAGE_SHIFT)
        if self.memory is not None and start + (count << PAGE_SHIFT) > ULONG_MAX:  # gup_fast_fallback looks first
            raise refuse(EOVERFLOW, "the pages end where addresses end", "address", start)
        held = self.system.memory.hold(self.source, start, count, self.writable)
        if charge:
            try:
                self.charge(count)
            except KernelError:
                held.release()
                raise
        return held

    def _hold_missing(self, first: int, last: int, charge: bool) -> list[_Piece]:
        """Hold what no piece covers of `first` to `last`, all or nothing."""
        missing: list[_Piece] = []
        try:
            for start, end in self._uncovered(first, last):
                missing.append(_Piece(start, self._hold(start, end - start, charge), 1, None))
        except KernelError:
            for piece in missing:
                piece.held.release()
                if charge:
                    self._uncharge(piece.held.pages)
            raise
        return missing

    def _uncovered(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The (start, end) page ranges of `first` to `last` that no piece covers."""
        position = first
        for piece in self._chain():
            if piece.first > last:
                break
            if piece.first > position:
                yield position, piece.first
            position = max(position, piece.first + piece.held.pages)
        if position <= last:
            yield position, last + 1

    def _link(self, new: _Piece) -> None:
        """Put a piece into its place in the chain."""
        before: _Piece | None = None
        for piece in self._chain():
            if piece.first > new.first:
                break
            before = piece
        if before is None:
            new.next, self._pieces = self._pieces, new
        else:
            new.next, before.next = before.next, new

    def _cut(self, index: int) -> None:
        """Let no piece straddle the border before page `index`."""
        for piece in self._chain():
            if piece.first < index < piece.first + piece.held.pages:
                self.system.failures.point("piece of pins")
                piece.held, above = piece.held.split(index - piece.first)
                piece.next = _Piece(index, above, piece.claims, piece.next)
                return

    def _uncharge(self, count: int) -> None:
        owner = self.owner
        self.system.accounting.uncharge(owner.mode, owner.memory, owner.uid, count)


class _Temporary:
    """Where bytes stand, for a copy: pins what is not pinned for the while, uncharged (iopt_pages_rw_slow, 7.3)."""

    def __init__(self, pages: Pages, byte: int, length: int) -> None:
        self._pages = pages
        self._byte = byte
        self._length = length
        self._first = byte >> PAGE_SHIFT
        self._last = byte + length - 1 >> PAGE_SHIFT

    def __enter__(self) -> list[Span]:
        """One for each piece that a single copy reaches."""
        self._pages.claim(self._first, self._last, charge=False)
        return list(self._pages.spans(self._byte, self._length))

    def __exit__(self, *exception: object) -> None:
        self._pages.release(self._first, self._last, charged=False)
