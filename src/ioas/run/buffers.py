"""Memory of the program that the kernel keeps pinned for us: registered buffers of a ring (`ioas.run.uring`).

A thread of the program has to register them itself, so the thread whose call is being served is made to
(`ioas.run.visit`). It gets the ring's descriptor for a moment, registers the ring itself, and closes the
descriptor; from then on it names the ring by an index that no program can see, and one call is enough for each buffer.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from errno import EBADF, EFAULT, EINVAL, ENOMEM
from typing import TYPE_CHECKING, NamedTuple

from sortedcontainers import SortedDict

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT
from ioas.run import uring
from ioas.run.kernel import Transfer
from ioas.run.listener import Call, Gone, Listener
from ioas.run.ptrace import QuietStops
from ioas.run.status import read_status
from ioas.run.uring import Ring
from ioas.run.visit import Unavailable, Visit

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.run.tracer import Tracer

_NR_CLOSE, _NR_MUNMAP = 3, 11
_MAP_FIXED, _MAP_NOREPLACE = 0x10, 0x100000
_LAST_NUMBER, _FIRST_NUMBER = 1023, 32
_INDICES_KEPT = 1024
_PROVEN_AT_MOST = 16
"""Pages of which it is found out whether they are the same as before: that takes some ten transfers for each."""
_numbers = itertools.count(1)


class Memory(NamedTuple):
    """What pages are part of."""

    key: Hashable
    certain: bool
    """A page of it, once pinned, is the same whenever it is pinned: page 3 of a file. Not so what is at an address."""


class RegisteredBuffer:
    """Pages that stay what they are (implements `ioas.host.Backing`); a holder of a pin. Made by `Buffers`."""

    def __init__(self, owner: Buffers, ring: Ring, slot: int, address: int, pages: range, of: Memory) -> None:
        """`address`: where the buffer was registered; `pages`: the indices of its pages within what `of` names."""
        self.key: Hashable = of.key if of.certain else ("pinned", next(_numbers))
        self.of = of
        self.pages = pages
        self.users = 1
        self._owner = owner
        self._ring = ring
        self._slot = slot
        self._shift = address - (pages.start << PAGE_SHIFT)

    def read(self, offset: int, length: int) -> bytes:
        """Read. Raises KernelError(EFAULT) outside of the buffer."""
        return self._ring.read(self._slot, offset + self._shift, length)

    def write(self, offset: int, data: Buffer) -> None:
        """Write; raises as `read`."""
        self._ring.write(self._slot, offset + self._shift, data)

    def drop(self) -> None:
        """One user less; without users the pages are unpinned."""
        self._owner.drop(self)

    def proves(self, other: RegisteredBuffer) -> bool:
        """Whether `other`, which was registered at the same addresses, has the very pages; no where that is unclear.

        The thread that registered `other` stands, and is the only one of its process.
        """
        if self._ring is not other._ring or len(other.pages) > _PROVEN_AT_MOST:
            return False
        at = [(page << PAGE_SHIFT) + other._shift for page in other.pages]
        return all(self._ring.same_page(self._slot, other._slot, address) for address in at)

    def unpin(self) -> None:
        """Let go of the pages. Called by the last user."""
        self._ring.give_back(self._slot)


class Piece(NamedTuple):
    """`length` bytes of a mapping, from its byte `start` on: those at `offset` of the file `fd`."""

    fd: int
    start: int
    length: int
    offset: int


class Buffers:
    """Registers memory of the thread whose call is being served. Used by the thread that serves calls."""

    def __init__(self, listener: Listener, current: Callable[[], Call]) -> None:
        """`current`: the call that is being served."""
        self.tracer: Tracer | None = None
        """Who keeps threads seized, if anyone does."""
        self.quiet = QuietStops()
        self.filters_added = False
        """Some thread has put a seccomp filter of its own on itself, or was about to."""
        self._listener = listener
        self._current = current
        self._transfer = Transfer()
        self._rings: list[Ring] = []
        self._indices: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        self._registered: dict[Hashable, SortedDict[int, RegisteredBuffer]] = {}
        """By key, then by first page; of several that begin at one page the last."""
        self._impossible = ""

    def __len__(self) -> int:
        return sum(map(len, self._rings))

    def register(self, thread: int, address: int, length: int, of: Memory, page: int) -> RegisteredBuffer:
        """Pin `length` bytes (whole pages, at most `uring.LARGEST`) from `address`: page `page` of `of`, and those on.

        `thread`: one that has the memory; it has to be the one whose call is being served.
        Pages that are pinned already are not pinned again, so that a page has one name: page and key of the backing.
        Raises Unavailable: it cannot be done here, the text says why; KernelError(EFAULT): the kernel finds no memory
        there that it may pin, or the program has been killed.
        """
        pages = range(page, page + (length >> PAGE_SHIFT))
        found = self._find(of, pages)
        if found and of.certain:
            return found
        try:
            buffer = self._pin(thread, address, length, of, pages)
        except BaseException:
            if found:
                found.drop()
            raise
        if found:
            if _alone(thread) and found.proves(buffer):
                buffer.unpin()
                return found
            found.drop()
        with self._lock:
            self._registered.setdefault(of.key, SortedDict())[page] = buffer
        return buffer

    def _pin(self, thread: int, address: int, length: int, of: Memory, pages: range) -> RegisteredBuffer:
        ring, slot = self._slot()
        filled = False
        try:
            result = self._register(thread, ring, uring.IOVEC.pack(address, length), slot)
            filled = result == 1
        except Gone:
            raise refuse(EFAULT, "the program has been killed", "address", address) from None
        finally:
            if not filled:
                ring.give_back(slot, filled=False)
        if not filled:
            raise _failure(result, address)
        return RegisteredBuffer(self, ring, slot, address, pages, of)

    def drop(self, buffer: RegisteredBuffer) -> None:
        """One user less."""
        with self._lock:
            buffer.users -= 1
            if buffer.users:
                return
            same = self._registered.get(buffer.of.key, {})
            if same.get(buffer.pages.start) is buffer:
                del same[buffer.pages.start]
                if not same:
                    del self._registered[buffer.of.key]
        buffer.unpin()

    def close(self) -> None:
        """Let go of every page."""
        for ring in self._rings:
            ring.close()
        self._rings.clear()

    def _find(self, of: Memory, pages: range) -> RegisteredBuffer | None:
        """A buffer that has these pages, with one more user."""
        with self._lock:
            same = self._registered.get(of.key)
            at = same.bisect_right(pages.start) if same else 0
            if not same or not at:
                return None
            buffer: RegisteredBuffer = same.peekitem(at - 1)[1]
            if pages.stop > buffer.pages.stop:
                return None
            buffer.users += 1
            return buffer

    def _slot(self) -> tuple[Ring, int]:
        """Room for a buffer, in a new ring if need be. Raises Unavailable."""
        for ring in self._rings:
            slot = ring.take()
            if slot is not None:
                return ring, slot
        if not self._impossible:
            try:
                self._rings.append(Ring())
                return self._slot()
            except OSError as error:
                self._impossible = f"io_uring cannot be used here ({error.strerror})"
        raise Unavailable(self._impossible)

    def _register(self, thread: int, ring: Ring, iovec: bytes, slot: int) -> int:
        """Have the thread register a buffer; what io_uring_register(2) returned. Raises Gone, Unavailable."""
        known = self._indices.get((thread, ring.fd))
        for index in (known, None) if known is not None else (None,):
            visit, index = self._visit(thread, ring, index)
            with visit.scratch(uring.UPDATE.size + len(iovec)) as at:
                visit.write(at, uring.UPDATE.pack(slot, 0, at + uring.UPDATE.size, 0, 1, 0) + iovec)
                operation = uring.REGISTER_BUFFERS_UPDATE | uring.USE_REGISTERED_RING
                result = visit.call(uring.NR_REGISTER, index, operation, at, uring.UPDATE.size)
            if known is None or result not in (-EBADF, -EINVAL):  # another thread with the same id, or a new program
                break
        return result

    def _visit(self, thread: int, ring: Ring, index: int | None) -> tuple[Visit, int]:
        """The thread, standing, and the index by which it knows the ring."""
        call = self._current()
        if thread != call.thread:
            raise Unavailable("it belongs to another process than the one that makes the call")
        if self.filters_added and _filters(call.thread) > _filters(os.getpid()) + 1:
            raise Unavailable("it has a seccomp filter of its own, which might kill it for io_uring_register")
        visit = self._listener.visit
        if not isinstance(visit, Visit) or visit.ident != call.ident:
            visit = None
        if index is not None:
            return visit or self._begin(call), index
        number = self._give(call, ring.fd)
        visit = visit or self._begin(call)
        with visit.scratch(uring.RING_UPDATE.size) as at:
            visit.write(at, uring.RING_UPDATE.pack(uring.ANY_INDEX, 0, number))
            result = visit.call(uring.NR_REGISTER, number, uring.REGISTER_RING_FDS, at, 1)
            index = uring.RING_UPDATE.unpack(visit.read(at, uring.RING_UPDATE.size))[0]
        visit.call(_NR_CLOSE, number)
        if result != 1:
            raise Unavailable(f"io_uring_register is refused ({os.strerror(-result)})")
        if len(self._indices) >= _INDICES_KEPT:
            self._indices.clear()
        self._indices[thread, ring.fd] = index
        return visit, index

    def map_file(self, call: Call, pieces: Sequence[Piece]) -> int:
        """Have the thread carry out its own mmap(2), with files of ours in place of the one that it named.

        What the call returns, negative for an errno; then nothing is mapped. Raises Unavailable, Gone.
        """
        numbers = [self._give(call, piece.fd) for piece in pieces]
        address, length, protection, flags, _, offset = call.arguments
        visit = self._begin(call)

        def map_one(at: int, size: int, how: int, number: int, place: int) -> int:
            return visit.call(call.number, at, size, protection, how, number, place, handed_over=True)

        start = map_one(address, length, flags, numbers[0], offset)
        for piece, number in zip(pieces[1:], numbers[1:], strict=True) if start >= 0 else ():
            result = map_one(
                start + piece.start, piece.length, flags & ~_MAP_NOREPLACE | _MAP_FIXED, number, piece.offset
            )
            if result < 0:
                visit.call(_NR_MUNMAP, start, length)
                start = result
                break
        for number in numbers:
            visit.call(_NR_CLOSE, number)
        return start

    def _give(self, call: Call, fd: int) -> int:
        """Put a descriptor into the thread for a while: its number there. Raises Unavailable, Gone."""
        for number in (_free_number(call.thread), None):
            try:
                return self._listener.give(call.ident, fd, number, True, answer=False)
            except OSError as error:  # EBADF: it is beyond RLIMIT_NOFILE
                reason = error.strerror
        raise Unavailable(f"it can have no descriptor for the while ({reason})")

    def _begin(self, call: Call) -> Visit:
        tracer = self.tracer if self.tracer and self.tracer.owns(call.thread) else None
        visit = self._listener.visit = Visit(self._listener, call, self._transfer, self.quiet, tracer)
        return visit


def _failure(result: int, address: int) -> Exception:
    """What a registration that returned `result` raises."""
    if result == -EFAULT:
        return refuse(EFAULT, "the kernel finds no memory there that it may pin", "address", address)
    if result == -ENOMEM:
        return Unavailable("RLIMIT_MEMLOCK does not allow more pinned pages")
    return Unavailable(f"io_uring_register is refused ({os.strerror(-result)})")


def _alone(thread: int) -> bool:
    """Whether a thread is the only one of its process."""
    try:
        return len(os.listdir(f"/proc/{thread}/task")) == 1
    except OSError:
        return False


def _filters(thread: int) -> int:
    """How many seccomp filters a thread has."""
    try:
        return int(read_status(thread)["Seccomp_filters"])
    except (OSError, KeyError):
        return 0


def _free_number(thread: int) -> int | None:
    """A descriptor number that the thread does not use, far from those that it is given next; None for any."""
    for number in range(_LAST_NUMBER, _FIRST_NUMBER, -1):
        try:
            os.readlink(f"/proc/{thread}/fd/{number}")
        except OSError:
            return number
    return None
