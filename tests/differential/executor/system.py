"""The system calls that a script makes, without Python's own ideas about them: a failure is the negative errno.

Nothing here imports ioas, so that the very same calls reach a real kernel, or a supervisor. `local` replaces those
on device files by a software host's.
"""

from __future__ import annotations

import ctypes
import os
import select
import zlib
from collections.abc import Callable

from questions.calls import MEMORY, PAGE, map_memory, pread, pwrite, raw_ioctl, unmap_memory
from questions.shapes import DEVICE

PAGES = 32
"""Pages of memory for DMA, at `MEMORY`: first shared ones, then those of a file, then private ones."""
FILE_AT, PRIVATE_AT = 16, 24
"""The first page of the file's, and the first private one."""
SCRATCH = MEMORY + (64 << 20)
"""Where calls find lists and leave theirs: four pages."""
SCRATCH_PAGES = 4
ARGUMENT = MEMORY + (96 << 20)
"""Where structures stand: a page, and nothing behind."""
WINDOW, WINDOW_LENGTH = MEMORY + (112 << 20), 1 << 20
"""Where files are mapped to be looked at."""
FILE_SHARED = 1
"""MAP_SHARED of a file."""
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
for _call in (_libc.pread, _libc.pwrite):
    _call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
    _call.restype = ctypes.c_ssize_t
_libc.mprotect.argtypes = _libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_libc.mremap.restype = ctypes.c_ssize_t


def _result(value: int) -> int:
    return value if value != -1 else -ctypes.get_errno()


def _attempt(function: Callable[..., int | None], *arguments: object) -> int:
    try:
        return function(*arguments) or 0
    except OSError as error:
        return -(error.errno or 0)


class System:
    """One process's system calls. Each method takes and returns plain values, so that a child can be asked for them."""

    def __init__(self) -> None:
        self._pattern = os.memfd_create("pattern")
        self._sink = os.memfd_create("sink")

    def end(self) -> None:
        """Close its own files."""
        os.close(self._pattern)
        os.close(self._sink)

    # -- files; `local` has others

    def open(self, path: str) -> int:
        """open(2) for reading and writing."""
        return _attempt(os.open, path, os.O_RDWR | os.O_CLOEXEC)

    def open_cdev(self) -> int:
        """open(2) of the device's own node, whose name says whether it has an IOMMU."""
        return self.open(DEVICE if self.has(DEVICE) else DEVICE.replace("vfio0", "noiommu-vfio0"))

    def open_group(self, bdf: str) -> int:
        """open(2) of the group of a device, whose name says the same."""
        number = os.path.basename(self.readlink(f"/sys/bus/pci/devices/{bdf}/iommu_group"))
        path = f"/dev/vfio/{number}"
        return self.open(path if self.has(path) else f"/dev/vfio/noiommu-{number}")

    def has(self, path: str) -> bool:
        """Whether there is such a node."""
        return os.path.exists(path)

    def readlink(self, path: str) -> str:
        """readlink(2)."""
        return os.readlink(path)

    def set_capability(self, number: int, has: bool) -> int:
        """Put a capability that the process may have into its effective set, or take it out."""
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        _libc.capget(header, sets)
        sets[0] = sets[0] | 1 << number if has else sets[0] & ~(1 << number)
        return _result(_libc.capset(header, sets))

    def locked(self) -> str:
        """Locked and pinned memory in pages, as /proc shows it."""
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file if line.startswith(("VmLck", "VmPin"))]
        return " ".join(f"{name} {int(count) * 1024 // PAGE}" for name, count, _ in lines)

    def close(self, fd: int) -> int:
        """close(2)."""
        return _attempt(os.close, fd)

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        """ioctl(2)."""
        return raw_ioctl(fd, request, argument)

    def pread(self, fd: int, length: int, offset: int) -> bytes | int:
        """pread(2)."""
        return pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """pwrite(2)."""
        return pwrite(fd, data, offset)

    def read_events(self, fd: int, length: int) -> bytes | int:
        """read(2) on a queue of events; nothing where there is none."""
        try:
            return os.read(fd, length) if select.select([fd], [], [], 0)[0] else b""
        except OSError as error:
            return -(error.errno or 0)

    def write_events(self, fd: int, data: bytes) -> int:
        """write(2)."""
        return _attempt(os.write, fd, data)

    def free_descriptor(self) -> int:
        """The number that the next descriptor will have."""
        free = os.dup(self._sink)
        os.close(free)
        return free

    # -- memory; through files, for a store that is refused must not end the program

    def store(self, address: int, data: bytes) -> int:
        """Write memory: how many bytes got there, or EFAULT."""
        os.pwrite(self._pattern, data, 0)
        return _result(_libc.pread(self._pattern, address, len(data), 0))

    def load(self, address: int, length: int) -> bytes | int:
        """Read memory; EFAULT unless all of it is there."""
        done = _result(_libc.pwrite(self._sink, address, length, 0))
        return os.pread(self._sink, length, 0) if done == length else -14

    def digest(self, address: int, count: int) -> str:
        """A checksum over pages and over which of them can be read."""
        sum_ = 0
        for index in range(count):
            page = self.load(address + index * PAGE, PAGE)
            sum_ = zlib.crc32(page if isinstance(page, bytes) else b"none", sum_)
        return f"{sum_:08x}"

    def map(self, address: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
        """munmap(2) and mmap(2) in its place: 0, or an error."""
        unmap_memory(address, length)
        return min(map_memory(length, address, protection, flags, fd, offset), 0)

    def look_through(self, fd: int, offset: int, length: int, protection: int, flags: int) -> bytes | int:
        """mmap(2) of a file that cannot be read: what stands there, or an error."""
        result = self.map(WINDOW, length, protection, flags, fd, offset)
        found = self.load(WINDOW, 16) if result >= 0 else result
        unmap_memory(WINDOW, WINDOW_LENGTH)
        return found

    def unmap(self, address: int, length: int) -> int:
        """munmap(2)."""
        unmap_memory(address, length)
        return 0

    def move(self, source: int, target: int, length: int) -> int:
        """mremap(2) to a fixed place: 0, or an error."""
        flags = _MREMAP_MAYMOVE | _MREMAP_FIXED
        return min(_result(_libc.mremap(source, length, length, flags, target)), 0)

    def protect(self, address: int, length: int, protection: int) -> int:
        """mprotect(2)."""
        return _result(_libc.mprotect(address, length, protection))

    def advise(self, address: int, length: int, advice: int) -> int:
        """madvise(2)."""
        return _result(_libc.madvise(address, length, advice))

    # -- files in memory

    def truncate(self, fd: int, length: int) -> int:
        """ftruncate(2)."""
        return _attempt(os.ftruncate, fd, length)
