"""What a program maps when it maps a BAR: a file without contents, one for each open device file.

The kernel maps it as it maps any file, at any address and with any flags, and whatever the program does to the mapping
later is the kernel's business too. But no byte of a BAR is in the file, so every access raises SIGBUS with its address
(`ioas.run.mmio.traps`). It has no name, and lies in /dev/shm. Where a BAR is memory, the file of that memory is mapped
instead, at the same offsets.

A mapping keeps a device open after its descriptors are closed. That there is none any more the kernel tells by a write
lease, which is granted only when no open file is left but the one that asks (check_conflicting_open, fs/locks.c, 7.3);
and when it is time to ask, by inotify, which tells of each open file that ends. inotify does not see memfds; so
this is an O_TMPFILE.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from ioas.host import File
from ioas.run.mmio.bus import Inode, Windows
from ioas.soft.pci import RamPages
from ioas.soft.pci.ram import unnamed_file
from ioas.soft.vfio.mapped_memory import MemoryPart

_IN_CLOSE = 0x18
_ROOM = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


@runtime_checkable
class Mappable(Windows, File, Protocol):
    """A file of a device (`ioas.soft.vfio.Cdev`)."""

    @property
    def access(self) -> int:
        """How it was opened: O_RDONLY, O_WRONLY or O_RDWR."""
        ...

    def memory(self, offset: int, length: int) -> list[MemoryPart]:
        """The parts of a mapping that are memory, and need no trap."""
        ...


class MemoryFiles:
    """The files that stand for device files that have been mapped."""

    def __init__(self, on_forget: Callable[[File], None] | None = None) -> None:
        """`on_forget` is told of files that are closed."""
        self._on_forget = on_forget
        self.by_inode: dict[Inode, Mappable] = {}
        self._known: dict[File, dict[RamPages | None, _Known]] = {}
        self._fd = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def fileno(self) -> int:
        """A descriptor that is readable when a mapping has ended (`keeps`)."""
        return self._fd

    def open(self, file: Mappable, pages: RamPages | None = None) -> int:
        """A descriptor to be mapped in place of `file`'s, and then closed by the caller. Raises OSError.

        Of the file without contents, or of that of `pages`, which are memory of the device.
        """
        known = self._known.get(file, {}).get(pages) or self._make(file, pages)
        return os.open(f"/proc/self/fd/{known.fd}", file.access | os.O_CLOEXEC)

    def keeps(self, file: File) -> bool:
        """Whether there are mappings of `file`, which keep it open.

        An event comes a moment before its open file is gone: a file that is kept is to be asked about again.
        """
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, _ROOM)
        return not all(_alone(known.fd) for known in self._known.get(file, {}).values())

    def forget(self, file: File) -> None:
        """`file` is closed."""
        for pages, known in self._known.pop(file, {}).items():
            if self.by_inode.get(known.inode) is file:
                del self.by_inode[known.inode]
            _libc.inotify_rm_watch(self._fd, known.watch)
            if pages is None:
                os.close(known.fd)
        if self._on_forget:
            self._on_forget(file)

    def close(self) -> None:
        """Close what is left."""
        for file in list(self._known):
            self.forget(file)
        os.close(self._fd)

    def _make(self, file: Mappable, pages: RamPages | None) -> _Known:
        fd = pages.fd if pages else unnamed_file()
        try:
            watch = _check(_libc.inotify_add_watch(self._fd, f"/proc/self/fd/{fd}".encode(), _IN_CLOSE))
        except OSError:
            if not pages:
                os.close(fd)
            raise
        status = os.fstat(fd)
        known = _Known(fd, watch, (status.st_dev, status.st_ino))
        self._known.setdefault(file, {})[pages] = known
        self.by_inode[known.inode] = file
        return known


class _Known(NamedTuple):
    fd: int
    """Our own open file, by which we ask whether there are others."""
    watch: int
    inode: Inode


def _alone(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
