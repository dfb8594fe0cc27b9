"""What the third word of an ioctl points at, and the rules of `argsz`.

VFIO structures begin with `argsz`, the size that the program knows. The kernel copies the fields up to the
last one of the first version, refuses a smaller `argsz` with EINVAL and ignores what lies behind.
"""

from __future__ import annotations

from ctypes import sizeof
from errno import EFAULT, EINVAL
from typing import TYPE_CHECKING, TypeVar

from ioas.errors import refuse
from ioas.host import PAGE_SIZE, Caller
from ioas.uapi.base import Struct, end_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

StructT = TypeVar("StructT", bound=Struct)


class Argument:
    """The memory of the calling process at the ioctl's argument; offsets are bytes from there."""

    __slots__ = ("_view", "address", "caller")

    def __init__(self, caller: Caller, argument: int | Buffer) -> None:
        """`argument` as `File.ioctl` takes it: a user address, or a writable buffer that stands for one."""
        self.caller = caller
        self.address = argument if isinstance(argument, int) else 0
        self._view = None if isinstance(argument, int) else memoryview(argument).cast("B")

    def read(self, offset: int, length: int) -> bytes:
        """Copy in. Raises KernelError(EFAULT)."""
        if self._view is None:
            return self.caller.memory.read(self.address + offset, length)
        self._check(self._view, offset, length)
        return bytes(self._view[offset : offset + length])

    def read_some(self, offset: int, most: int) -> bytes:
        """Copy in 1 to `most` bytes, as far as the page or the buffer goes. Raises KernelError(EFAULT)."""
        if self._view is None:
            start = self.address + offset
            return self.caller.memory.read(start, min(most, PAGE_SIZE - start % PAGE_SIZE))
        return self.read(offset, max(1, min(most, len(self._view) - offset)))

    def write(self, offset: int, data: bytes) -> None:
        """Copy out. Raises KernelError(EFAULT)."""
        if self._view is None:
            self.caller.memory.write(self.address + offset, data)
            return
        self._check(self._view, offset, len(data))
        if self._view.readonly:
            raise refuse(EFAULT, "the buffer is read-only", "address", offset)
        self._view[offset : offset + len(data)] = data

    @staticmethod
    def _check(view: memoryview, offset: int, length: int) -> None:
        if offset + length > len(view):
            raise refuse(
                EFAULT, f"the buffer has {len(view)} bytes, the call uses {offset + length}", "field", "argument"
            )


def copy_in(argument: Argument, struct: type[StructT], last: str) -> StructT:
    """The structure filled up to field `last`, the last of its first version, and zeros behind it.

    Raises KernelError: EFAULT; EINVAL when `argsz` does not reach the end of `last`.
    """
    size = end_of(struct, last)
    data = argument.read(0, size)
    argsz = int.from_bytes(data[:4], "little")
    if argsz < size:
        raise refuse(EINVAL, f"argsz is {argsz}; {struct.__name__} has at least {size} bytes", "field", "argsz")
    return struct.from_buffer_copy(data.ljust(sizeof(struct), b"\0"))
