"""/proc/PID/pagemap on a machine without an IOMMU: the frames that device models reach.

A program without an IOMMU asks the kernel where its memory is (Documentation/admin-guide/mm/pagemap.rst, 7.3) and gives
its device that address. The real kernel's answer would say where the memory stands in the real machine, so we give the
answer in its place: what is there, in which state, is the real file's; the frame numbers are the software machine's.

A page gets its frame when it is asked for. As in the kernel nothing pins it by that, and the frame is the page's as
long as the page is where it was (`ioas.soft.memory.sightings`). How that is found out:

- Memory of a file (memfd, hugetlbfs, /dev/shm): the same page of the same file is still mapped there, or at the same
  address by another process; a file that has a name keeps its pages by itself.
- Private memory is held by io_uring where that is possible (`ioas.run.pins`), so that the page cannot become another
  one behind our back. It is still the program's if the program has a page there, and, where we may see the real frame
  numbers, which takes CAP_SYS_ADMIN, if it is in the real frame that it was in: that tells a page from one that came
  after it at the same address. Without the privilege nothing does.

A hugetlb page is given its frames as a whole, contiguous ones. As in the kernel frame numbers are shown to those who
had CAP_SYS_ADMIN when they opened the file, and are 0 for everybody else.
"""

from __future__ import annotations

import os
import re
import select
import struct
from collections.abc import Callable, Iterable
from errno import EBADF, EINVAL, ENODEV, ENOTTY
from mmap import PROT_WRITE
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Caller
from ioas.host.maps import Maps, Vma, page_order
from ioas.run.shared import SharedFile

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.run.memory import Space
    from ioas.soft.memory import Held, Sighting, Sightings

PATH = re.compile(rb"/proc/(self|thread-self|\d+)(?:/task/(\d+))?/pagemap")
_ENTRY = 8
_MOST = 4096 * _ENTRY
"""Bytes of one read at most: less than was asked for is a legal answer."""
_PRESENT, _SWAPPED = 1 << 63, 1 << 62
_FRAME = (1 << 55) - 1


class _Place(NamedTuple):
    """Where pages were seen."""

    address: int
    vma: Vma
    frame: int
    """The real frame of the first, 0 where we may not know it or it may become another."""

    def is_in(self, vma: Vma) -> bool:
        """Whether an area that has the address shows the same page of the same file there."""
        same = vma.shared and (vma.device, vma.inode) == (self.vma.device, self.vma.inode)
        return same and vma.file_offset(self.address) == self.vma.file_offset(self.address)


class View:
    """What /proc shows of one address space; may be asked by any thread. Raises OSError when it cannot be opened."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.seen: dict[int, Sighting] = {}
        """Pages that have frames, by the address at which they begin."""
        self._maps = Maps(space.thread)
        self._pagemap = os.open(f"/proc/{space.thread}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "_pagemap"):
            os.close(self._pagemap)

    def read(self, offset: int, length: int) -> bytes:
        """Entries as the real kernel shows them to us. Raises OSError."""
        return os.pread(self._pagemap, length, offset)

    def entry(self, address: int) -> int:
        """The entry of one page; 0 where there is none, or no address space any more."""
        return int.from_bytes(self.read(address >> PAGE_SHIFT << 3, _ENTRY), "little")

    def area(self, address: int) -> Vma | None:
        """What is mapped there."""
        try:
            return self._maps.unnamed(address)
        except OSError:
            return None

    def shows(self, place: _Place) -> bool:
        """Whether the pages are (still) here."""
        vma = self.area(place.address)
        if vma is None or vma.shared != place.vma.shared:
            return False
        if vma.shared and vma.inode:
            return place.is_in(vma)
        entry = self.entry(place.address)
        if not entry & (_PRESENT | _SWAPPED):
            return False
        return not place.frame or entry & _FRAME in (0, place.frame)


class _Witness:
    """Says whether pages that were seen in some place are still there."""

    def __init__(self, view: View, place: _Place) -> None:
        self._view = view
        self._place = place
        self._held: Held | None = None

    def knows(self, held: Held) -> None:
        """The pages have frames."""
        if held.how == "io_uring":  # the page stays in its real frame as long as it is held
            self._place = self._place._replace(frame=self._view.entry(self._place.address) & _FRAME)
        self._held = held

    def __call__(self) -> bool:
        place = self._place
        if self._view.shows(place):
            return True
        if not (place.vma.shared and place.vma.inode) or self._held is None:
            return False
        return _has_name(self._held) or _mapped_by_anyone(place)


class Frames:
    """The frames of programs' pages, given when they are asked for."""

    def __init__(self, sightings: Sightings, refused: Callable[[str], None]) -> None:
        """`refused` is told, in words, what has got no frame."""
        self._sightings = sightings
        self._refused = refused
        self._views: dict[int, View] = {}

    def view(self, space: Space) -> View:
        """What /proc shows of `space`. Raises OSError."""
        found = self._views.get(space.number)
        if found is None:
            found = self._views[space.number] = View(space)
        return found

    def forget(self) -> None:
        """Some process has ended: what nobody has any more loses its frames."""
        self._sightings.sweep()
        for number, view in list(self._views.items()):
            if view.space.alive():
                view.seen = {at: one for at, one in view.seen.items() if not one.gone}
            else:
                del self._views[number]

    def frame(self, view: View, address: int) -> int:
        """The frame of the page at `address`, which is present; 0 for what no device reaches."""
        vma = view.area(address)
        if vma is None:
            return 0
        order = page_order(vma)
        start = address - (address - vma.start) % (PAGE_SIZE << order)
        sighting = self._seen(view, vma, start, order)
        if sighting is not None and not sighting.contiguous:
            self._sightings.forget(sighting)
            start = address
            sighting = self._seen(view, vma, start, 0)
        return sighting.held.pfn(address - start >> PAGE_SHIFT) if sighting is not None else 0

    def _seen(self, view: View, vma: Vma, start: int, order: int) -> Sighting | None:
        known = view.seen.get(start)
        if known is not None and known.order == order and not known.gone:
            if known.same():
                return known
            self._sightings.forget(known)
        for write in (True, False) if vma.protection & PROT_WRITE else (False,):
            try:
                return self._see(view, vma, start, order, write)
            except KernelError as error:
                if not write:
                    self._refused(f"the page at {start:#x} has no frame: {error.refusal.reason}")
        return None

    def _see(self, view: View, vma: Vma, start: int, order: int, write: bool) -> Sighting:
        witness = _Witness(view, _Place(start, vma, 0))
        sighting = self._sightings.see(view.space, start, order, write, witness)
        witness.knows(sighting.held)
        view.seen[start] = sighting
        return sighting


def _mapped_by_anyone(place: _Place) -> bool:
    """Whether some process has the page of a file at the same address: a child has what its parent had."""
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            with Maps(pid) as maps:
                vma = maps.unnamed(place.address)
        except OSError:
            continue
        if vma is not None and pid != os.getpid() and place.is_in(vma):
            return True
    return False


def _has_name(held: Held) -> bool:
    """Whether the file of pages is there by its name, whoever maps it."""
    return any(isinstance(extent.backing, SharedFile) and extent.backing.linked for extent in held.extents)


class PagemapFile:
    """An open pagemap (implements `ioas.host.File`)."""

    device_number = (0, 0)

    def __init__(self, frames: Frames, view: View, shown: bool) -> None:
        """`shown`: whether who opened it may know frame numbers."""
        self._frames = frames
        self._view = view
        self._shown = shown
        self._position = 0

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """Entries of 8 bytes, one for each page. Raises KernelError(EINVAL) unless offset and length are multiples."""
        at = self._position if offset is None else offset
        if at % _ENTRY or length % _ENTRY:
            raise refuse(EINVAL, "pagemap is read in whole entries of 8 bytes", "field", "offset")
        try:
            data = self._view.read(at, min(length, _MOST))
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None) or EINVAL
            raise refuse(number, "the offset is none of a page", "field", "offset") from None
        entries = [self._entry(entry, (at // _ENTRY + index) << PAGE_SHIFT) for index, (entry,) in _numbered(data)]
        if offset is None:
            self._position += len(data)
        return struct.pack(f"{len(entries)}Q", *entries)

    def _entry(self, entry: int, address: int) -> int:
        frame = self._frames.frame(self._view, address) if self._shown and entry & _PRESENT else 0
        return entry & ~_FRAME | frame

    def seek(self, offset: int, whence: int) -> int:
        """As lseek(2) does: the new position (mem_lseek). Raises KernelError(EINVAL)."""
        if whence not in (os.SEEK_SET, os.SEEK_CUR):
            raise refuse(EINVAL, "a pagemap has no end to seek from", "field", "whence")
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """EBADF: it is open for reading."""
        raise refuse(EBADF, "a pagemap is open for reading only", "file", "pagemap")

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """ENOTTY: scanning (PAGEMAP_SCAN) is the real kernel's."""
        raise refuse(ENOTTY, "a pagemap of this machine can be read, and not be scanned", "request", f"{request:#x}")

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV."""
        raise refuse(ENODEV, "a pagemap cannot be mapped", "file", "pagemap")

    def poll(self, caller: Caller) -> int:
        """Always ready."""
        return select.POLLIN | select.POLLOUT

    def close(self) -> None:
        """Frames stay."""


def _numbered(data: bytes) -> Iterable[tuple[int, tuple[int]]]:
    return enumerate(struct.iter_unpack("Q", data))
