"""Memory on a device: a BAR, or a part of one, that is nothing but RAM, such as a frame buffer.

A register is an action; RAM is not. So programs may map it and use it at the processor's speed, without anybody being
told. The bytes stand in a file of shared memory: the model's view, reads and writes of software, and what programs map
are the same pages.

    window = Bar(2, 16 << 20, "mem64", prefetchable=True)
    frame = window.memory()                      # self.frame is a memoryview of 16 MiB
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import tempfile
import weakref
from typing import TYPE_CHECKING, overload

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

REGION_SHIFT = 40
"""BAR N begins at N << 40 of what programs map: so vfio-pci has it (VFIO_PCI_INDEX_TO_OFFSET); our files too."""
_PAGE = 4096
_PORTION = 1 << 20
_MAP_FIXED = 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)


class Ram:
    """`size` bytes of memory at `offset` of BAR `bar`; an attribute of the model that is a memoryview of them.

    They are zero at first. A reset leaves them alone, unless the model's `reset` clears them.
    """

    def __init__(self, bar: int, offset: int, size: int) -> None:
        """Raises UsageError unless both are multiples of a page, 4096 bytes."""
        if offset % _PAGE or size % _PAGE or size <= 0:
            raise UsageError(f"memory of BAR {bar}: {size:#x} bytes at {offset:#x} are not whole pages")
        self.bar = bar
        self.offset = offset
        self.size = size
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Ram: ...

    @overload
    def __get__(self, instance: Function, owner: type) -> memoryview: ...

    def __get__(self, instance: Function | None, owner: type) -> Ram | memoryview:
        return self if instance is None else self.of(instance).view

    def of(self, instance: Function) -> RamPages:
        """The pages that are this memory in `instance`, made when they are first asked for."""
        pages = instance.ram_pages.get(self.name)
        if pages is None:
            place = self.bar << REGION_SHIFT | self.offset
            pages = instance.ram_pages[self.name] = RamPages(self.size, place)
        return pages

    def touches(self, bar: int, start: int, end: int) -> bool:
        """Whether any of the bytes from `start` to `end` (exclusive) of BAR `bar` are in it."""
        return bar == self.bar and start < self.offset + self.size and self.offset < end

    def covers(self, bar: int, offset: int, length: int) -> bool:
        """Whether `length` bytes at `offset` of BAR `bar` are all in it."""
        return bar == self.bar and self.offset <= offset and offset + length <= self.offset + self.size


class RamPages:
    """Shared memory that can be hidden from everybody but us.

    `view` stays valid, at its address, whatever happens. While it is hidden the file is empty: a load or store through
    any other mapping of it raises SIGBUS, as one to a device that does not answer does.
    """

    def __init__(self, size: int, place: int = 0) -> None:
        """`size` in bytes, and where it begins in the file: whole pages. Raises OSError when there is no room."""
        self.fd = unnamed_file()
        """The file, without a name."""
        self.place = place
        """Its offset of the first byte of the memory."""
        self._open = [self.fd]
        weakref.finalize(self, _close_all, self._open)
        os.ftruncate(self.fd, place + size)
        self.size = size
        self._mapping = mmap.mmap(self.fd, size, offset=place)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self.view = memoryview(self._mapping)

    @property
    def hidden(self) -> bool:
        """Whether nobody else can reach it now."""
        return len(self._open) > 1

    def hide(self) -> None:
        """Take it away from who has mapped it. What is stored at this very moment may be lost. Raises OSError."""
        if self.hidden:
            return
        self._open.append(os.memfd_create("ioas-hidden", os.MFD_CLOEXEC))
        try:
            self._move(self.fd, self._open[1])
        except BaseException:
            os.close(self._open.pop())
            raise
        os.ftruncate(self.fd, 0)

    def show(self) -> None:
        """Give it back, with its contents. Raises OSError."""
        if not self.hidden:
            return
        self._move(self._open[1], self.fd)
        os.close(self._open.pop())

    def _move(self, source: int, target: int) -> None:
        """Let `view` show the file `target`, with the contents of `source`."""
        os.ftruncate(target, self.place + self.size)
        _copy(source, target)
        protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
        if _libc.mmap(self._address, self.size, protection, flags, target, self.place) != self._address:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def unnamed_file() -> int:
    """A descriptor of an empty file in memory that has no name. Raises OSError where there is no place for one."""
    for place in ("/dev/shm", tempfile.gettempdir()):
        with contextlib.suppress(OSError):
            return os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    return os.memfd_create("ioas", os.MFD_CLOEXEC)


def _copy(source: int, target: int) -> None:
    """Copy what is not a hole."""
    at = 0
    while True:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            at += os.pwrite(target, os.pread(source, min(end - at, _PORTION), at), at)


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
