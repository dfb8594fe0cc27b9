"""`KernelFile`: an open file of the running kernel. Each method makes one system call."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
from collections.abc import Callable
from errno import EINTR
from functools import partial
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.kernel.diagnosis import why_refused

if TYPE_CHECKING:
    from typing_extensions import Buffer

_libc_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_libc_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong]
_INT_LAST = (1 << 31) - 1
"""What fcntl.ioctl takes as a number."""


class KernelFile:
    """An open file (implements `ioas.host.File`); who calls is who runs, so the caller is not looked at."""

    __slots__ = ("fd", "path", "quick")

    def __init__(self, fd: int, path: str) -> None:
        """`path` is for messages."""
        self.fd = fd
        self.path = path
        self.quick: Callable[[int, memoryview], int] = partial(fcntl.ioctl, fd)
        """The bare call, for hot paths: raises OSError, which `refusal` explains."""

    def ioctl(self, caller: object, request: int, argument: int | Buffer) -> int:
        """Make the call, again after a signal (PEP 475). Raises KernelError with what inspection found out."""
        while True:
            try:
                if argument.__class__ is int and not 0 <= argument <= _INT_LAST:
                    return _ioctl_address(self.fd, request, argument)
                return fcntl.ioctl(self.fd, request, argument)
            except OSError as error:
                if error.errno != EINTR:
                    raise self.refusal(error, request, argument) from None

    def refusal(self, error: OSError, request: int, argument: int | Buffer) -> KernelError:
        """What inspection finds out about a call that failed."""
        return why_refused(self.fd, self.path, request, argument, error)

    def read(self, caller: object, length: int, offset: int | None) -> bytes:
        """Read at `offset`, or where the file stands. Raises KernelError."""
        try:
            return os.read(self.fd, length) if offset is None else os.pread(self.fd, length, offset)
        except OSError as error:
            raise self._refused("read", error) from None

    def write(self, caller: object, data: bytes, offset: int | None) -> int:
        """Write at `offset`, or where the file stands. Raises KernelError."""
        try:
            return os.write(self.fd, data) if offset is None else os.pwrite(self.fd, data, offset)
        except OSError as error:
            raise self._refused("written", error) from None

    def mmap(self, caller: object, length: int, protection: int, flags: int, offset: int) -> int:
        """The descriptor to map: its own, which decides about the rest itself."""
        return self.fd

    def poll(self, caller: object) -> int:
        """The events that are ready now."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN | select.POLLOUT)
        return next((events for _, events in poll.poll(0)), 0)

    @property
    def device_number(self) -> tuple[int, int]:
        """Major and minor; (0, 0) for an anonymous file."""
        number = os.fstat(self.fd).st_rdev
        return os.major(number), os.minor(number)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _refused(self, what: str, error: OSError) -> KernelError:
        return refuse(error.errno or 0, f"{self.path} cannot be {what}: {error.strerror}", "file", self.path)


def _ioctl_address(fd: int, request: int, argument: int) -> int:
    """An ioctl whose argument is an address: fcntl.ioctl takes 32 bits."""
    result = int(_libc_ioctl(fd, request, argument))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
