"""`ProcessCaller`: a thread of the program as a host sees it, for the length of one system call."""

from __future__ import annotations

import errno
import os
import resource
import select
import stat
from errno import EBADF, EBADFD, EINVAL
from typing import TYPE_CHECKING, Protocol

from ioas.errors import refuse
from ioas.host import Capability, EventFd, File
from ioas.run.kernel import HUGETLBFS_MAGIC, TMPFS_MAGIC, filesystem, take_fd
from ioas.run.shared import ClientFile, SharedFile, SharedFiles
from ioas.run.status import read_status

if TYPE_CHECKING:
    from ioas.run.files import Files
    from ioas.run.memory import Space
    from ioas.run.processes import Process


class Shared(Protocol):
    """What all callers of one supervisor have in common."""

    files: Files
    memory_files: SharedFiles
    grants: frozenset[Capability]

    def install(self, caller: ProcessCaller, file: File, cloexec: bool) -> int:
        """Put a descriptor for `file` into the thread whose call is being served. Raises KernelError."""
        ...

    def own_eventfd(self, caller: ProcessCaller, fd: int) -> int | None:
        """Our own descriptor of an eventfd that we made for the program, to be closed by the caller."""
        ...


class ProcessCaller:
    """A thread of a program (implements `ioas.host.Caller`)."""

    def __init__(self, thread: int, fds: int, process: Process, shared: Shared) -> None:
        """`fds`: the open directory /proc/THREAD/fd, which this object closes."""
        self.thread = thread
        self.fds = fds
        self.process = process
        self._shared = shared
        self._credentials: tuple[int, int] | None = None

    def close(self) -> None:
        """Close the directory: the object names nothing from here on. Idempotent."""
        fds, self.fds = self.fds, -1
        if fds >= 0:
            os.close(fds)

    @property
    def pid(self) -> int:
        """Thread-group id."""
        return self.process.number

    @property
    def uid(self) -> int:
        """Real user id."""
        return self._read_credentials()[0]

    @property
    def memory(self) -> Space:
        """Its address space."""
        return self.process.space

    def capable(self, capability: Capability) -> bool:
        """Whether the machine grants `capability`, or the thread's effective set has it now."""
        return capability in self._shared.grants or bool(self._read_credentials()[1] >> capability & 1)

    def _read_credentials(self) -> tuple[int, int]:
        """Real user id and effective capabilities. Read once: whoever changes them is forgotten and made anew."""
        if self._credentials is None:
            try:
                status = read_status(self.thread)
                mine = os.readlink("/proc/self/ns/user") == os.readlink(f"/proc/{self.thread}/ns/user")
                capabilities = int(status["CapEff"], 16) if mine else 0  # those of another namespace say nothing here
                self._credentials = int(status["Uid"].split()[0]), capabilities
            except (OSError, KeyError):
                return 65534, 0  # the thread is gone: nobody, without privileges
        return self._credentials

    def link(self, fd: int) -> str:
        """What /proc says stands behind descriptor `fd`. Raises OSError(ENOENT)."""
        return os.readlink(str(fd), dir_fd=self.fds)

    def link_if_open(self, fd: int) -> str:
        """The same, or nothing where no such descriptor is open."""
        try:
            return self.link(fd)
        except OSError:
            return ""

    def has(self, fd: int) -> bool:
        """Whether descriptor `fd` is open."""
        return bool(self.link_if_open(fd))

    def descriptor_limit(self) -> int:
        """How many descriptors it may have (RLIMIT_NOFILE), at most 2**31."""
        try:
            limit = resource.prlimit(self.thread, resource.RLIMIT_NOFILE)[0]
        except OSError:  # another user's process
            return 0
        return 1 << 31 if limit == resource.RLIM_INFINITY else limit

    def file(self, fd: int) -> File:
        """The host's file behind `fd`. Raises KernelError: EBADF, EBADFD."""
        link = self._existing(fd)
        given = self._shared.files.by_link.get(link)
        if given is None:
            raise refuse(EBADFD, f"the descriptor is {link}, not a file of this machine", "file", fd)
        return given.file

    def memory_file(self, fd: int) -> ClientFile:
        """The file behind `fd`, opened again. Raises KernelError: EBADF; EINVAL unless it is in memory."""
        link = self._existing(fd)
        file = self._reopen(fd)
        if file is None:
            raise refuse(EINVAL, f"only a memfd's pages can be pinned, and this is {link}", "file", fd)
        return ClientFile(self._shared.memory_files, file, f"{fd} ({link})")

    def _reopen(self, fd: int) -> SharedFile | None:
        path = f"/proc/{self.thread}/fd/{fd}"
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return None  # opening a pipe or a device again can wait, or do something
            ours = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        if filesystem(ours) in (TMPFS_MAGIC, HUGETLBFS_MAGIC):
            return self._shared.memory_files.take(ours, writable=True)
        os.close(ours)
        return None

    def eventfd(self, fd: int) -> EventFd:
        """A reference to the eventfd behind `fd`. Raises KernelError: EBADF; EINVAL when it is none."""
        link = self._existing(fd)
        if link != "anon_inode:[eventfd]":
            raise refuse(EINVAL, f"the descriptor is {link}, not an eventfd", "file", fd)
        ours = self._shared.own_eventfd(self, fd)
        if ours is not None:
            return OwnEventFd(ours)
        try:
            return OwnEventFd(take_fd(self.pid, self.thread, fd))
        except OSError as error:
            if error.errno == errno.EBADF:
                raise _closed(fd) from None
            raise refuse(
                EINVAL, f"the program's eventfd cannot be fetched (pidfd_getfd: {error.strerror})", "file", fd
            ) from error

    def install(self, file: File, cloexec: bool = True) -> int:
        """Give the caller a new descriptor for `file`. Raises KernelError(EMFILE)."""
        return self._shared.install(self, file, cloexec)

    def _existing(self, fd: int) -> str:
        try:
            return self.link(fd)
        except OSError:
            raise _closed(fd) from None


class OwnEventFd:
    """Our own descriptor of a program's eventfd (implements `ioas.host.EventFd`)."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def signal(self, count: int = 1) -> None:
        """Add `count`. A counter that is full stays full, as in the kernel."""
        if self._fd < 0 or not self._room.poll(0):
            return
        try:
            os.eventfd_write(self._fd, count)
        except OSError:
            return

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _closed(fd: int) -> Exception:
    return refuse(EBADF, "the program has no such descriptor open", "file", fd)
