"""Real descriptors for a host's files in this process, and a host's own references to the program's descriptors.

A descriptor is one end of a socket pair. That makes it work with select, poll, epoll and asyncio, be inherited,
duplicated and closed like any other; which file stands behind it is known by the socket's inode, so duplicates
are recognised. When the last duplicate goes the kernel hangs up our end: that is the last close.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import threading
from errno import EBADF, EBADFD, EINVAL, EMFILE, ENFILE
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host.readiness import Readiness
from ioas.host.seam import PAGE_SHIFT, EventSource, Pin

if TYPE_CHECKING:
    from ioas.host.local_memory import LocalMemory
    from ioas.host.seam import Caller, File

_EVENTFD_LINK = "anon_inode:[eventfd]"
_F_GET_SEALS = 1034  # only memory files have seals: shmem and hugetlbfs
_fcntl = ctypes.CDLL(None, use_errno=True).fcntl


class _Installed:
    """A file of the host with descriptors in this process."""

    __slots__ = ("file", "inode", "owned", "peer", "readiness")

    def __init__(self, file: File, inode: int, peer: int) -> None:
        self.file = file
        self.inode = inode
        self.peer = peer
        self.owned = False
        self.readiness = Readiness(file, peer)


class LocalFiles:
    """The descriptors that one caller has for a host's files. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_inode: dict[int, _Installed] = {}
        self._by_peer: dict[int, _Installed] = {}
        self._hangups = select.epoll()
        self.loose = 0
        """How many files have descriptors that may be closed without a word to us: then `sweep` before a call."""

    def install(self, caller: Caller, file: File, cloexec: bool) -> int:
        """A new descriptor for `file`. Raises KernelError(EMFILE, ENFILE)."""
        self.sweep()
        try:
            peer, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            number = error.errno if error.errno in (EMFILE, ENFILE) else EMFILE
            raise refuse(number, "the process has no free file descriptor", "limit", "RLIMIT_NOFILE") from error
        with peer, end:  # until they are detached: whatever fails, nothing stays open
            end.set_inheritable(not cloexec)
            installed = _Installed(file, os.fstat(end.fileno()).st_ino, peer.fileno())
            if isinstance(file, EventSource):
                file.watch(installed.readiness.ready)
            elif file.poll(caller) & select.POLLIN:
                installed.readiness.ready()  # never taken out: readable for ever, as files without a poll operation are
            with self._lock:
                self._hangups.register(installed.peer, 0)
                self._by_inode[installed.inode] = self._by_peer[installed.peer] = installed
                self.loose += 1
            peer.detach()
            return end.detach()

    def find(self, fd: int) -> File:
        """The file behind `fd`. Raises KernelError: EBADF, EBADFD."""
        self.sweep()
        inode = _inode(fd)
        installed = self._by_inode.get(inode)
        if installed is None:
            raise refuse(EBADFD, "the descriptor is no file of this machine", "file", f"fd {fd}")
        return installed.file

    def settle(self, caller: Caller, fd: int) -> None:
        """To be called after reading from a file whose readiness changes."""
        installed = self._by_inode.get(_inode(fd))
        if installed is not None and isinstance(installed.file, EventSource):
            installed.readiness.settle(caller, lambda: os.dup(fd))

    def adopt(self, fd: int) -> None:
        """Promise that `fd` will be closed by `close`, which spares the calls in between a sweep."""
        installed = self._by_inode[_inode(fd)]
        with self._lock:
            self.loose -= not installed.owned
            installed.owned = True

    def close(self, fd: int) -> None:
        """Close a descriptor, and its file at once when there is no duplicate. Raises KernelError(EBADF)."""
        try:
            installed = self._by_inode.get(_inode(fd))
        except KernelError:  # the program has broken its promise (`adopt`); the file is over all the same
            self._close_gone()
            raise
        os.close(fd)
        with self._lock:
            if installed is not None and installed.owned:
                installed.owned = False
                self.loose += 1
        self.sweep()

    def sweep(self) -> None:
        """Close the files whose last descriptor has gone."""
        if self.loose:
            self._close_gone()

    def _close_gone(self) -> None:
        with self._lock:  # over both: a peer's number, once closed, may be another file's at once
            gone = [self._forget(peer) for peer, _ in self._hangups.poll(0)]
        for file in gone:
            file.close()

    def close_all(self) -> None:
        """Close every file, whatever descriptors there still are, and our own descriptors."""
        with self._lock:
            gone = [self._forget(peer) for peer in list(self._by_peer)]
            self._hangups.close()
        for file in gone:
            file.close()

    def __len__(self) -> int:
        return len(self._by_peer)

    def _forget(self, peer: int) -> File:
        """Take a file out and close our end; the file, to be closed. The lock is held."""
        installed = self._by_peer.pop(peer)
        del self._by_inode[installed.inode]
        self.loose -= not installed.owned
        self._hangups.unregister(peer)
        installed.readiness.close()
        os.close(peer)
        return installed.file


class LocalMemoryFile:
    """A file of this process, for IOMMU_IOAS_MAP_FILE (implements `ioas.host.MemoryFile`)."""

    def __init__(self, memory: LocalMemory, fd: int) -> None:
        """Raises KernelError: EBADF; EINVAL for a file that is no memory file, of which nothing is kept then."""
        _inode(fd)  # refuses what is no descriptor
        if _fcntl(fd, _F_GET_SEALS) < 0:  # asked before the file is opened again: opening a device may do something
            raise refuse(EINVAL, "only pages of a memfd can be pinned", "file", os.readlink(f"/proc/self/fd/{fd}"))
        self._memory = memory
        self._file = memory.kept_files.keep(fd)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._file.fd).st_size

    def pin(self, start: int, count: int, write: bool) -> Pin:
        """Pin `count` pages from byte `start`.

        Raises KernelError(EINVAL) beyond the file's end (follows memfd_pin_folios, mm/gup.c, 7.3).
        """
        if start + (count << PAGE_SHIFT) > self.size:  # whole pages, so the file's last one must be whole too
            raise refuse(EINVAL, f"the file has {self.size} bytes", "address", start)
        return self._memory.pin_file(self._file, start, count)


class LocalEventFd:
    """A host's own reference to an eventfd (implements `ioas.host.EventFd`)."""

    def __init__(self, fd: int) -> None:
        """Raises KernelError: EBADF; EINVAL when `fd` is no eventfd."""
        self._fd = _duplicate(fd)
        if os.readlink(f"/proc/self/fd/{self._fd}") != _EVENTFD_LINK:
            os.close(self._fd)
            raise refuse(EINVAL, "the descriptor is no eventfd", "file", f"fd {fd}")
        self._lock = threading.Lock()  # a closed descriptor's number may be somebody else's at once
        self._room = select.poll()
        self._room.register(self._fd, select.POLLOUT)

    def signal(self, count: int = 1) -> None:
        """Add `count`; a counter that is full stays so, as with eventfd_signal."""
        with self._lock:
            if self._fd >= 0 and self._room.poll(0):
                os.eventfd_write(self._fd, count)

    def fileno(self) -> int:
        """The reference's own descriptor."""
        return self._fd

    def close(self) -> None:
        """Drop the reference. Idempotent."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno != EBADF:
            raise refuse(EMFILE, "the process has no free file descriptor", "limit", "RLIMIT_NOFILE") from error
        raise refuse(EBADF, "no such file descriptor", "file", f"fd {fd}") from error


def _inode(fd: int) -> int:
    """The inode behind `fd` if it is a socket, else -1. Raises KernelError(EBADF)."""
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError) as error:
        raise refuse(EBADF, "no such file descriptor", "file", f"fd {fd}") from error
    return status.st_ino if status.st_mode & 0o170000 == 0o140000 else -1
