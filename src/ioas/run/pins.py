"""Pinning a program's memory: which pages stand at an address, and what holds them. The best way that there is:

1. Memory that belongs to a file which lives in memory (memfd, /dev/shm, shared anonymous, System V, hugetlb) is held by
   a descriptor of our own (`ioas.run.shared`): `how` is "shared file". The file is found among those that are
   open already, then by /proc/PID/map_files (needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN), then among the program's
   own descriptors, then by its path; what is found must have the very device and inode that the mapping has.
2. Private memory, and shared memory of which no file can be reached, is registered with an io_uring of ours
   (`ioas.run.buffers`): `how` is "io_uring". The kernel pins the pages then, as it does for the real iommufd.
3. Where that is not possible - the reason is told - memory is reached at its address: `how` is "address". It follows
   the address, where the others follow the page: after munmap and a new mapping DMA hits the new memory. A strict
   machine refuses this.

Both 1 and 2 outlive munmap, a new mapping at the same address, fork and the death of the program. A page of a file is
known by file and offset, however it is held. A private page is known by the registration that pinned it first; that a
later one at the same address found the same page is tried out (`Ring.same_page`), as long as nobody can notice. Else
they count as two pages, for to take two pages for one would send DMA to the wrong one.

What may be pinned follows check_vma_flags (mm/gup.c, 7.3): a write pin needs a writable mapping, and not of a file on
a disk.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from errno import EFAULT, EOPNOTSUPP
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, DeviceMapping, Extent, File
from ioas.host.maps import Vma, page_order
from ioas.run.buffers import Buffers, Memory
from ioas.run.memory import AddressBacking, Space
from ioas.run.shared import HeldPin, Holder, SharedFile, SharedFiles
from ioas.run.uring import LARGEST
from ioas.run.visit import Unavailable

if TYPE_CHECKING:
    from typing_extensions import Buffer

ByAddress = Callable[[int, Vma, str], None]
"""Told the process, each area of which pages have been pinned by address, and why they were not pinned otherwise."""

_UNREACHABLE_KEPT = 64
_MEMORY_FILES = (b"/memfd:", b"/dev/zero (deleted)", b"/dev/shm/", b"/SYSV", b"/anon_hugepage")


class Pinner:
    """Pins memory of any address space; one for each supervisor."""

    def __init__(self, files: SharedFiles, buffers: Buffers, strict: bool, by_address: ByAddress) -> None:
        """`strict`: refuse what can only be pinned by address."""
        self._files = files
        self._buffers = buffers
        self._strict = strict
        self._by_address = by_address
        self._map_files = may_use_map_files()
        self._unreachable: set[tuple[int, int, bool]] = set()
        self.devices: Mapping[tuple[int, int], File] = {}
        """Device files that are mapped, by device and inode of what stands for them: nothing of it can be pinned."""

    def pin(self, space: Space, start: int, count: int, write: bool) -> HeldPin:
        """See `Space.pin`."""
        return self._pin_known(space, start, count, write) or self._pin_any(space, start, count, write)

    def device_memory(self, space: Space, start: int, end: int) -> Sequence[DeviceMapping]:
        """See `Space.device_memory`."""
        try:
            areas = space.maps.covering(start, end) if self.devices else []
        except OSError:  # the process is gone
            return []
        found = []
        for vma in areas:
            file = self.devices.get((vma.device, vma.inode))
            if file is not None:
                low, high = max(vma.start, start), min(vma.end, end)
                writable = bool(vma.protection & mmap.PROT_WRITE)
                found.append(DeviceMapping(low, high - low, file, vma.file_offset(low), writable))
        return found

    def _pin_known(self, space: Space, start: int, count: int, write: bool) -> HeldPin | None:
        """Quick: pages of one area that shows a file which is open already. None when it is not as simple as that."""
        try:
            vma = space.maps.unnamed(start)
        except OSError:
            return None
        end = start + (count << PAGE_SHIFT)
        if vma is None or not vma.shared or not vma.inode or end > vma.end:
            return None
        file = self._files.known(vma.device, vma.inode, write)
        if file is None:
            return None
        try:
            _check_access(vma, start, write)
            _check_file(file, vma, start, end, write)
        except KernelError:
            file.drop()
            raise
        return HeldPin((Extent(file, vma.file_offset(start) >> PAGE_SHIFT, count, file.order),), "shared file", (file,))

    def _pin_any(self, space: Space, start: int, count: int, write: bool) -> HeldPin:
        extents: list[Extent] = []
        holders: list[Holder] = []
        try:
            for vma, low, high in _areas(space, start, start + (count << PAGE_SHIFT)):
                _check_access(vma, low, write)
                if (vma.device, vma.inode) in self.devices:
                    raise _refused("a mapped BAR has no pages", low)
                extents += self._extents(space, vma, low, high, write, holders)
        except BaseException:
            for holder in holders:
                holder.drop()
            raise
        return HeldPin(tuple(extents), _how(extents), tuple(holders))

    def _extents(
        self, space: Space, vma: Vma, low: int, high: int, write: bool, holders: list[Holder]
    ) -> Iterable[Extent]:
        """The pages from `low` to `high` of one area; what holds them is added to `holders`."""
        file = self._shared_file(space, vma, write) if vma.shared else None
        if file is not None:
            holders.append(file)
            _check_file(file, vma, low, high, write)
            return (Extent(file, vma.file_offset(low) >> PAGE_SHIFT, (high - low) >> PAGE_SHIFT, file.order),)
        try:
            return self._registered(space, vma, low, high, holders)
        except Unavailable as error:
            if vma.inode:
                _check_file_area(space, vma, low, high)
            self._accept_address(space, vma, low, str(error))
            of, page = _identity(space, vma, low)
            backing = FileAtAddress(space.backing, of.key, low - (page << PAGE_SHIFT)) if of.certain else space.backing
            return (Extent(backing, page, (high - low) >> PAGE_SHIFT, page_order(vma)),)

    def _registered(self, space: Space, vma: Vma, low: int, high: int, holders: list[Holder]) -> Iterable[Extent]:
        """The same, pinned by io_uring. Raises Unavailable, with nothing added."""
        if not vma.protection & mmap.PROT_WRITE:
            raise Unavailable("io_uring pins only what the program may write to")
        order = page_order(vma)
        extents: list[Extent] = []
        for at in range(low, high, LARGEST):
            length = min(LARGEST, high - at)
            of, page = _identity(space, vma, at)
            try:
                buffer = self._buffers.register(space.thread, at, length, of, page)
            except Unavailable:
                for _ in extents:
                    holders.pop().drop()
                raise
            holders.append(buffer)
            extents.append(Extent(buffer, page, length >> PAGE_SHIFT, order))
        return extents

    def _accept_address(self, space: Space, vma: Vma, low: int, reason: str) -> None:
        if self._strict:
            kind = "shared memory that cannot be opened again" if vma.shared else "memory private to the process"
            raise refuse(
                EOPNOTSUPP, f"--strict: {kind} would follow its address, not its pages: {reason}", "address", low
            )
        self._by_address(space.process, vma, reason)

    def _shared_file(self, space: Space, vma: Vma, write: bool) -> SharedFile | None:
        """The file that a shared mapping shows, with one more user; None when it cannot be opened again."""
        if not vma.inode or (vma.device, vma.inode, write) in self._unreachable:
            return None
        file = self._files.known(vma.device, vma.inode, write)
        if file is None and self._map_files:
            path = f"/proc/{space.thread}/map_files/{vma.start:x}-{vma.end:x}"
            file = self._open(path, vma, write, certain=vma.path.startswith(_MEMORY_FILES))
        if file is None:
            file = next(filter(None, (self._open(path, vma, write) for path in _places(space, vma))), None)
        if file is None and vma.protection & mmap.PROT_WRITE:
            self._forgo(vma, write)
        return file

    def _forgo(self, vma: Vma, write: bool) -> None:
        """Do not look for this file again: looking through all descriptors takes long, and a ring does as well."""
        if len(self._unreachable) >= _UNREACHABLE_KEPT:
            self._unreachable.clear()
        self._unreachable.add((vma.device, vma.inode, write))

    def _open(self, path: str | bytes, vma: Vma, write: bool, certain: bool = False) -> SharedFile | None:
        """Open `path` if it is the file of `vma`, for writing where that is allowed and for reading otherwise.

        `certain`: it is an ordinary file; others are not opened, for that might do something.
        """
        for mode in (os.O_RDWR,) if write else (os.O_RDWR, os.O_RDONLY):
            try:
                if not certain and not _is(os.stat(path), vma):
                    return None
                fd = os.open(path, mode | os.O_CLOEXEC)
            except OSError:
                continue
            if _is(os.fstat(fd), vma):
                return self._files.take(fd, mode == os.O_RDWR)
            os.close(fd)
        return None


class FileAtAddress:
    """Pages of a file that are reached at their address (implements `ioas.host.Backing`), but known by the file."""

    def __init__(self, space: AddressBacking, key: Hashable, shift: int) -> None:
        """`shift`: from an offset in the file to the address."""
        self.key = key
        self._space = space
        self._shift = shift

    def read(self, offset: int, length: int) -> bytes:
        """As `AddressBacking.read`."""
        return self._space.read(offset + self._shift, length)

    def write(self, offset: int, data: Buffer) -> None:
        """As `AddressBacking.write`."""
        self._space.write(offset + self._shift, data)


def may_use_map_files() -> bool:
    """Whether /proc/PID/map_files can be followed, tried on ourselves."""
    try:
        os.stat(f"/proc/self/map_files/{os.listdir('/proc/self/map_files')[0]}")
    except (OSError, IndexError):
        return False
    return True


def _places(space: Space, vma: Vma) -> Iterator[str | bytes]:
    """Paths at which the file of a mapping may be found: the program's descriptors, then its name."""
    descriptors = f"/proc/{space.thread}/fd"
    try:
        names = os.listdir(descriptors)
    except OSError:
        names = []
    for name in names:
        yield f"{descriptors}/{name}"
    if vma.path.startswith(b"/") and not vma.path.endswith(b" (deleted)"):
        yield vma.path


def _how(extents: Iterable[Extent]) -> str:
    """The weakest of the ways in which they are held."""
    kinds = {type(extent.backing) for extent in extents}
    if kinds == {SharedFile}:
        return "shared file"
    return "address" if kinds & {AddressBacking, FileAtAddress} else "io_uring"


def _identity(space: Space, vma: Vma, address: int) -> tuple[Memory, int]:
    """What the page at `address` is part of, and its index there."""
    if vma.shared and vma.inode:
        return Memory(("file", vma.device, vma.inode), certain=True), vma.file_offset(address) >> PAGE_SHIFT
    return Memory(("mm", space.number), certain=False), address >> PAGE_SHIFT


def _is(status: os.stat_result, vma: Vma) -> bool:
    return status.st_ino == vma.inode and status.st_dev == vma.device and stat.S_ISREG(status.st_mode)


def _areas(space: Space, start: int, end: int) -> list[tuple[Vma, int, int]]:
    """The areas from `start` to `end`, each with the part that is meant. Raises KernelError(EFAULT) at a hole."""
    areas = []
    at = start
    try:
        while at < end:
            vma = space.maps.next(at)
            if vma is None or vma.start > at:
                raise refuse(EFAULT, "no memory of the program is there", "address", at)
            high = min(vma.end, end)
            areas.append((vma, at, high))
            at = high
    except (ProcessLookupError, FileNotFoundError) as error:
        raise refuse(EFAULT, "the process whose memory was mapped for DMA is gone", "address", start) from error
    return areas


def _check_access(vma: Vma, address: int, write: bool) -> None:
    """Follows check_vma_flags (mm/gup.c, 7.3). Raises KernelError(EFAULT)."""
    if vma.forbids_pin():
        raise _refused(f"{vma.path.decode(errors='replace')} is memory of the kernel", address)
    if write and not vma.protection & mmap.PROT_WRITE:
        raise _refused("the program may not write there, and the mapping asks for device writes", address)
    if not vma.protection & (mmap.PROT_READ | mmap.PROT_WRITE):  # on x86 a page that is writable is readable
        raise _refused("the program may not read there", address)


def _check_file(file: SharedFile, vma: Vma, low: int, high: int, write: bool) -> None:
    """Refuse writes to a disk, and pages beyond the end of the file. Raises KernelError(EFAULT)."""
    if write and not file.in_memory:
        raise _refused("a device may not write to pages of a file on a disk", low)
    if vma.file_offset(high) > max(file.room, PAGE_SIZE << file.order):
        raise _refused("the mapping reaches beyond the end of its file", low)


def _check_file_area(space: Space, vma: Vma, low: int, high: int) -> None:
    """Refuse what a page fault would: pages beyond the end of the file; and the memory of devices (VM_IO)."""
    if vma.path.startswith(b"/dev/"):
        try:
            device = stat.S_ISCHR(os.stat(vma.path).st_mode)
        except OSError:
            device = False
        if device and vma.path != b"/dev/zero":
            raise _refused(f"{vma.path.decode(errors='replace')} is the memory of a device", low)
    space.backing.read(high - PAGE_SIZE, 1)


def _refused(reason: str, address: int) -> KernelError:
    return refuse(EFAULT, reason, "address", address)
