"""The calling process, for the running kernel, which knows it anyway: descriptors are its own, buffers have to stay."""

from __future__ import annotations

import ctypes
import os
from errno import EBADF, EOPNOTSUPP

from ioas.errors import refuse
from ioas.host import Capability, EventFd, File, MemoryFile
from ioas.host.local_files import LocalEventFd
from ioas.kernel.file import KernelFile
from ioas.kernel.memory import KernelMemory

_capget = ctypes.CDLL(None).capget
_CAPABILITY_VERSION_3 = 0x20080522


class KernelCaller:
    """The calling process itself (implements `ioas.host.Caller`). For any thread, and for forked children too."""

    def __init__(self) -> None:
        self.memory = KernelMemory()
        self.register = self.memory.register
        self.register_again = self.memory.register_again
        self.unregister = self.memory.unregister

    @property
    def pid(self) -> int:
        """Thread-group id."""
        return os.getpid()

    @property
    def uid(self) -> int:
        """Real user id."""
        return os.getuid()

    def capable(self, capability: Capability) -> bool:
        """Whether the calling thread's effective set (capget(2)) has `capability`."""
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of capabilities 0 to 31, then of the rest
        return _capget(header, sets) == 0 and bool(sets[3 * (capability >> 5)] >> (capability & 31) & 1)

    def file(self, fd: int) -> File:
        """The open file behind `fd`. Raises KernelError(EBADF)."""
        try:
            return KernelFile(fd, os.readlink(f"/proc/self/fd/{fd}"))
        except OSError as error:
            raise refuse(EBADF, "no such file descriptor", "file", f"fd {fd}") from error

    def memory_file(self, fd: int) -> MemoryFile:
        """Refused: the running kernel pins pages of files by itself."""
        raise refuse(EOPNOTSUPP, "the running kernel pins pages of files by itself", "file", f"fd {fd}")

    def eventfd(self, fd: int) -> EventFd:
        """A duplicate of the eventfd behind `fd`. Raises KernelError: EBADF; EINVAL when it is none."""
        return LocalEventFd(fd)

    def install(self, file: File, cloexec: bool = True) -> int:
        """The descriptor of a file of `KernelHost`, which it has already. Raises KernelError(EBADF) for another's."""
        if not isinstance(file, KernelFile):
            raise refuse(EBADF, "the file is not one of the running kernel's", "file", file)
        os.set_inheritable(file.fd, not cloexec)
        return file.fd

    def adopt(self, fd: int) -> None:
        """Nothing: the kernel closes what is closed."""

    def settle(self, fd: int) -> None:
        """Nothing: the kernel knows what is to be read."""

    def close_fd(self, fd: int) -> None:
        """Close a descriptor. Raises KernelError(EBADF)."""
        try:
            os.close(fd)
        except OSError as error:
            raise refuse(error.errno or EBADF, "the descriptor is not open", "file", f"fd {fd}") from error

    def before_call(self) -> None:
        """Nothing: the kernel sees what the program does."""

    def close(self) -> None:
        """Nothing: files are closed by their owners."""

    def held(self) -> dict[str, int]:
        """What is held now, by kind ("buffers"), without zeros (for leak checks)."""
        buffers = self.memory.registered()
        return {"buffers": buffers} if buffers else {}
