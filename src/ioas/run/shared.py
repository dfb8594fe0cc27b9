"""Files whose pages the program shares with us, opened a second time: pins in them outlive the program's mapping.

The kernel pins a page and keeps it whatever the process does to its mapping, up to its death. For memory that belongs
to a file (memfd, POSIX and System V shared memory, shared anonymous memory, hugetlb) holding that file open does the
same, and its pages are read and written through our own descriptor. One `SharedFile` stands for a file, known by
(device, inode), as long as anything uses it.

Bytes go through pread(2) and pwrite(2), not through a mapping of ours: when the program truncates the file, a mapping
would raise SIGBUS in the supervisor. hugetlbfs alone has no write(2): it is mapped, and written through
/proc/self/mem, which answers EIO where a store would raise SIGBUS.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable
from errno import EFAULT, EINVAL
from typing import TYPE_CHECKING, Protocol

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Extent
from ioas.run.kernel import HUGETLBFS_MAGIC, RAMFS_MAGIC, TMPFS_MAGIC, filesystem

if TYPE_CHECKING:
    from typing_extensions import Buffer

_IN_MEMORY = (TMPFS_MAGIC, HUGETLBFS_MAGIC, RAMFS_MAGIC)

_MAGIC: dict[int, int] = {}
"""File system types by st_dev, for those that pins have been made on; they last as long as we do."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


Later = Callable[[Callable[[], None]], None]
"""Has a function called once, a moment later."""


class SharedFile:
    """An open file of the program's whose pages are pinned (implements `ioas.host.Backing`). Made by `SharedFiles`."""

    def __init__(self, owner: SharedFiles, fd: int, writable: bool) -> None:
        status = os.fstat(fd)
        self._owner = owner
        self.key: Hashable = ("file", status.st_dev, status.st_ino)
        self.writable = writable
        self.magic = _MAGIC.get(status.st_dev) or _MAGIC.setdefault(status.st_dev, filesystem(fd))
        self.order = (status.st_blksize // PAGE_SIZE).bit_length() - 1 if self.magic == HUGETLBFS_MAGIC else 0
        self.users = 0
        self._fd = fd
        self._window = _Window(fd) if self.magic == HUGETLBFS_MAGIC else None

    @property
    def in_memory(self) -> bool:
        """Whether it lives in memory alone: a device may write only to such files.

        Follows writable_file_mapping_allowed (mm/gup.c, 7.3).
        """
        return self.magic in _IN_MEMORY

    @property
    def linked(self) -> bool:
        """Whether it has a name, so that it is there although nobody has it open."""
        return os.fstat(self._fd).st_nlink > 0

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        if self._window:  # hugetlbfs cannot be asked by lseek(2), which is quicker
            return os.fstat(self._fd).st_size
        return os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def room(self) -> int:
        """Bytes in the file's pages now: its size, rounded up."""
        return -(-self.size // PAGE_SIZE) * PAGE_SIZE

    def read(self, offset: int, length: int) -> bytes:
        """Read; raises KernelError(EFAULT) beyond the file's last page: the program has made it shorter."""
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    self._check(offset + length)
                    return data + bytes(length - len(data))
                data += more
        except OSError as error:
            if isinstance(error, KernelError):
                raise
            raise refuse(EFAULT, f"the file cannot be read: {error.strerror}", "address", offset) from error
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """Write; raises KernelError(EFAULT) beyond the file's last page, or where only reading is possible."""
        self._check(offset + memoryview(data).nbytes)
        view = memoryview(data).cast("B")[: max(self.size - offset, 0)]  # pwrite would make the file longer
        done = 0
        try:
            while done < len(view):
                done += self._write(offset + done, view[done:])
        except OSError as error:
            raise refuse(EFAULT, f"the file cannot be written: {error.strerror}", "address", offset) from error

    def _check(self, end: int) -> None:
        if end > self.room:
            raise refuse(EFAULT, "the file has been made shorter than what is pinned", "address", end)

    def _write(self, offset: int, view: memoryview) -> int:
        return self._window.write(offset, view) if self._window else os.pwrite(self._fd, view, offset)

    def drop(self) -> None:
        """One user less."""
        self._owner.drop(self)

    def close(self) -> None:
        """Close our descriptor. Called by the last user."""
        if self._window:
            self._window.close()
        os.close(self._fd)


class _Window:
    """A mapping of a whole hugetlbfs file, made when first written to and again when the file has grown.

    Several device models may write at once: none may have the mapping taken away.
    """

    def __init__(self, fd: int) -> None:
        self._lock = threading.Lock()
        self._fd = fd
        self._address = 0
        self._length = 0
        self._memory = -1

    def write(self, offset: int, view: memoryview) -> int:
        with self._lock:
            if offset + len(view) > self._length:
                self._map(os.fstat(self._fd).st_size)
            return os.pwrite(self._memory, view, self._address + offset)

    def close(self) -> None:
        with self._lock:
            self._unmap()

    def _map(self, length: int) -> None:
        self._unmap()
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, length, protection, mmap.MAP_SHARED, self._fd, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address, self._length = int(address), length
        self._memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)

    def _unmap(self) -> None:
        if self._memory >= 0:
            _libc.munmap(self._address, self._length)
            os.close(self._memory)
            self._memory, self._length = -1, 0


class Holder(Protocol):
    """What holds pages of a pin: a `SharedFile`, a `RegisteredBuffer`."""

    def drop(self) -> None:
        """One user less."""
        ...


class HeldPin:
    """Pages held, by holders or by their address (implements `ioas.host.Pin`)."""

    __slots__ = ("_holders", "extents", "how")

    def __init__(self, extents: tuple[Extent, ...], how: str, holders: tuple[Holder, ...]) -> None:
        """`holders` have this pin as a user, each as often as it stands there."""
        self.extents = extents
        self.how = how
        self._holders = holders

    def release(self) -> None:
        """Let go. Idempotent."""
        holders, self._holders = self._holders, ()
        for holder in holders:
            holder.drop()


class SharedFiles:
    """The files that are open for pins, each once. Safe to use from any thread.

    The last file that lost its last pin stays open a moment longer, because a program that maps and unmaps one buffer
    after the other would have us open the same file each time.
    """

    def __init__(self, later: Later) -> None:
        self._lock = threading.Lock()
        self._forsaken: deque[SharedFile] = deque()
        self._files: dict[Hashable, SharedFile] = {}
        self._idle: SharedFile | None = None
        self._idle_is_new = False
        self._waiting = False
        self._closed = False
        self._later = later

    def __len__(self) -> int:
        return len(self._files)

    def known(self, device: int, inode: int, write: bool) -> SharedFile | None:
        """The file with one more user when it is open already, and open for writing if `write`."""
        with self._lock:
            self._settle()
            file = self._files.get(("file", device, inode))
            if file is None or (write and not file.writable):
                return None
            self._use(file)
            return file

    def take(self, fd: int, writable: bool) -> SharedFile:
        """The file behind our descriptor `fd`, which is used up, with one more user."""
        new = SharedFile(self, fd, writable)
        with self._lock:
            file = self._files.get(new.key)
            if file is None or (writable and not file.writable):
                self._files[new.key] = file = new  # pins of a file open for reading only keep their own
            self._use(file)
        if file is not new:
            new.close()
        return file

    def again(self, file: SharedFile) -> None:
        """One user more of a file that is in use."""
        with self._lock:
            file.users += 1

    def drop(self, file: SharedFile) -> None:
        """One user less; a file without users is closed, at once or a moment later."""
        with self._lock:
            self._drop(file)

    def forsake(self, file: SharedFile) -> None:
        """The same for the garbage collector, which comes at any moment, even to a thread that has the lock."""
        self._forsaken.append(file)
        if not self._closed:
            self._later(self._collect)

    def close(self) -> None:
        """Close a file that stays open without users; `later` is not called any more."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            self._settle()
            former, self._idle = self._idle, None
            if former:
                self._close(former)

    def _tidy(self) -> None:
        """Close the idle file when it has been so since the last time."""
        with self._lock:
            if self._idle and self._idle_is_new:
                self._idle_is_new = False
                self._later(self._tidy)
                return
            self._waiting = False
        self._close_idle()

    def _collect(self) -> None:
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        """Drop what has been forsaken; with the lock."""
        while self._forsaken:
            self._drop(self._forsaken.popleft())

    def _drop(self, file: SharedFile) -> None:
        file.users -= 1
        if file.users:
            return
        former, self._idle = self._idle, file
        self._idle_is_new = True
        if former:
            self._close(former)
        if not self._waiting:
            self._waiting = True
            self._later(self._tidy)

    def _use(self, file: SharedFile) -> None:
        if file is self._idle:
            self._idle = None
        file.users += 1

    def _close(self, file: SharedFile) -> None:
        if self._files.get(file.key) is file:
            del self._files[file.key]
        file.close()


class ClientFile:
    """The file behind a descriptor of the program's (implements `ioas.host.MemoryFile`)."""

    def __init__(self, files: SharedFiles, file: SharedFile, what: str) -> None:
        """`file` has been taken once for this object; `what` names it."""
        self._files = files
        self._file = file
        self._what = what

    def __del__(self) -> None:
        self._files.forsake(self._file)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return self._file.size

    def pin(self, start: int, count: int, write: bool) -> HeldPin:
        """Pin `count` pages from byte `start`.

        Raises KernelError(EINVAL) beyond its end (follows memfd_pin_folios, mm/gup.c, 7.3).
        """
        file = self._file
        if start + (count << PAGE_SHIFT) > file.size:  # whole pages, so the file's last one must be whole too
            raise self._refuse(f"the file has only {file.size:#x} bytes")
        self._files.again(file)
        return HeldPin((Extent(file, start >> PAGE_SHIFT, count, file.order),), "shared file", (file,))

    def _refuse(self, reason: str) -> KernelError:
        return refuse(EINVAL, reason, "file", self._what)
