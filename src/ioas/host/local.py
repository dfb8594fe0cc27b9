"""The in-process caller: a Python program that uses a host as a library calls as itself."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ioas.host.local_files import LocalEventFd, LocalFiles, LocalMemoryFile
from ioas.host.local_memory import LocalMemory
from ioas.host.seam import Capability, EventFd, File, MemoryFile

if TYPE_CHECKING:
    from typing_extensions import Buffer

_capget = ctypes.CDLL(None).capget
_CAPABILITY_VERSION_3 = 0x20080522
_Words = ctypes.c_uint32 * 6


class LocalCaller:
    """The calling process itself (implements `ioas.host.Caller`). Safe to use from any thread.

    Make one for each host and close it after the host. In a forked child every use is refused with
    EnvironmentRefusal: the machine lives in the parent.
    """

    def __init__(self, grants: Iterable[Capability] = (), *, strict: bool = False) -> None:
        """`grants`: capabilities it has besides its own; `strict`: refuse pins that only follow an address.

        Raises EnvironmentRefusal when /proc cannot be used.
        """
        self._grants = frozenset(grants)
        self._files = LocalFiles()
        self.memory = LocalMemory(strict=strict)

    @property
    def pid(self) -> int:
        """Thread-group id."""
        return os.getpid()

    @property
    def uid(self) -> int:
        """Real user id."""
        return os.getuid()

    def capable(self, capability: Capability) -> bool:
        """Whether the grants or the calling thread's effective set (capget(2)) have `capability`."""
        if capability in self._grants:
            return True
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        sets = _Words()  # effective, permitted, inheritable of capabilities 0 to 31, then of the rest
        return _capget(header, sets) == 0 and bool(sets[3 * (capability >> 5)] >> (capability & 31) & 1)

    def file(self, fd: int) -> File:
        """The file that `install` put behind `fd` or a duplicate of it. Raises KernelError: EBADF, EBADFD."""
        self.memory.check_process()
        return self._files.find(fd)

    def memory_file(self, fd: int) -> MemoryFile:
        """The memfd behind `fd`. Raises KernelError: EBADF; EINVAL when it is none."""
        self.memory.check_process()
        return LocalMemoryFile(self.memory, fd)

    def eventfd(self, fd: int) -> EventFd:
        """A duplicate of the eventfd behind `fd`. Raises KernelError: EBADF; EINVAL when it is none."""
        self.memory.check_process()
        return LocalEventFd(fd)

    def install(self, file: File, cloexec: bool = True) -> int:
        """A real descriptor for `file`, that select, poll and asyncio take. Raises KernelError(EMFILE)."""
        self.memory.check_process()
        return self._files.install(self, file, cloexec)

    def register(self, buffer: Buffer) -> int:
        """Keep `buffer` in place for DMA, and for pins beyond `unregister`; returns its address.

        Until then a buffer such as an mmap object cannot be closed or resized. Raises UsageError.
        """
        self.memory.check_process()
        return self.memory.register(buffer)

    def register_again(self, address: int) -> None:
        """Count one more `register` of the buffer at `address`. Raises UsageError when none is registered there."""
        self.memory.register_again(address)

    def unregister(self, address: int) -> None:
        """Undo one `register`. Raises UsageError when nothing is registered at `address`."""
        self.memory.unregister(address)

    def settle(self, fd: int) -> None:
        """To be called after a read from the file behind `fd`, if that is an `EventSource`; it then polls rightly."""
        self._files.settle(self, fd)

    def adopt(self, fd: int) -> None:
        """Promise to close `fd`, which `install` returned, by `close` and not by os.close."""
        self._files.adopt(fd)

    def close_fd(self, fd: int) -> None:
        """Close a descriptor; the last of its duplicates closes the file before this returns. KernelError(EBADF).

        In a forked child only the child's descriptor is closed: the file lives in the parent.
        """
        if self.memory.forked:
            os.close(fd)
        else:
            self._files.close(fd)

    def before_call(self) -> None:
        """To be called before a call on a file: closes what the program has let go of in between.

        Raises EnvironmentRefusal in a forked child.
        """
        self.memory.check_process()
        if self._files.loose:
            self._files.sweep()

    def close(self) -> None:
        """Close every file and all descriptors of its own. Idempotent. Nothing in a forked child."""
        if self.memory.forked:  # what is told to an epoll object or an eventfd here would reach the parent's
            return
        self._files.close_all()
        self.memory.close()

    def held(self) -> dict[str, int]:
        """What is held now, by kind ("files", "buffers", "windows"), without zeros (for leak checks)."""
        counts = {"files": len(self._files), "buffers": self.memory.registered(), "windows": self.memory.windows()}
        return {kind: count for kind, count in counts.items() if count}
