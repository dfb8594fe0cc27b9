"""What stands for a device file whose BARs can be mapped: a file without contents.

The kernel maps it as it maps any file, at any address and with any flags, and whatever the program does to the mapping
later is the kernel's business too. But no byte of a BAR is in the file, so every access raises SIGBUS with its address
(`ioas.run.mmio.traps`). It has no name, and lies in /dev/shm.

The kernel tells us when the last reference to the file is gone, be it a descriptor or a mapping, however it was passed
on. A file in memory has no other end that could hang up; but inotify tells of each open file that ends, and a write
lease is granted only when no open file is left but the one that asks (check_conflicting_open, fs/locks.c, 7.3).
inotify does not see memfds; so this is an O_TMPFILE.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import tempfile
from typing import NamedTuple, Protocol, runtime_checkable

from ioas.host import File
from ioas.run.mmio.bus import Inode, Windows

_IN_CLOSE = 0x18
_EVENT = struct.Struct("iIII")
_ROOM = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


@runtime_checkable
class Mappable(Windows, File, Protocol):
    """A file of a device (`ioas.soft.vfio.Cdev`)."""

    @property
    def access(self) -> int:
        """How it was opened: O_RDONLY, O_WRONLY or O_RDWR."""
        ...


class MemoryFiles:
    """The files that stand for device files."""

    def __init__(self) -> None:
        self.by_inode: dict[Inode, Windows] = {}
        self._watched: dict[int, _Watched] = {}
        self.suspects: set[int] = set()
        """Files of which an open file has ended, and others are left."""
        self._fd = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def fileno(self) -> int:
        """A descriptor that is readable when `ended` has something to tell."""
        return self._fd

    def create(self, file: Mappable) -> int:
        """Make the file for `file`: the program's descriptor, for the caller to hand over and close. Raises OSError."""
        ours = _unnamed()
        try:
            fd = os.open(f"/proc/self/fd/{ours}", file.access | os.O_CLOEXEC)
            try:
                watch = _check(_libc.inotify_add_watch(self._fd, f"/proc/self/fd/{fd}".encode(), _IN_CLOSE))
            except OSError:
                os.close(fd)
                raise
        except OSError:
            os.close(ours)
            raise
        status = os.fstat(fd)
        self._watched[watch] = _Watched(file, ours, (status.st_dev, status.st_ino))
        self.by_inode[status.st_dev, status.st_ino] = file
        return fd

    def ended(self) -> list[Mappable]:
        """The files whose last reference has gone since the last time; each is told once.

        The event comes a moment before the reference is gone: what is told of too early is asked about again.
        """
        try:
            data = os.read(self._fd, _ROOM)
        except BlockingIOError:
            data = b""
        at = 0
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & _IN_CLOSE and watch in self._watched:
                self.suspects.add(watch)
        return [self._forget(watch) for watch in tuple(self.suspects) if _alone(self._watched[watch].fd)]

    def close(self) -> None:
        """Close what is left; nothing is told any more."""
        for watch in list(self._watched):
            self._forget(watch)
        os.close(self._fd)

    def _forget(self, watch: int) -> Mappable:
        self.suspects.discard(watch)
        watched = self._watched.pop(watch)
        del self.by_inode[watched.inode]
        _libc.inotify_rm_watch(self._fd, watch)
        os.close(watched.fd)
        return watched.file


class _Watched(NamedTuple):
    file: Mappable
    fd: int
    """Our own open file, by which we ask whether there are others."""
    inode: Inode


def _alone(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return False
    return True


def _unnamed() -> int:
    """A file in memory that has no name. Raises OSError where there is no place for one."""
    try:
        return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
