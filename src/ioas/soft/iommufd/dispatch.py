"""How a command reaches its handler: sizes, trailing bytes, copying in and out (iommufd_fops_ioctl, 7.3).

This is the only place that looks at sizes. A handler gets a `Call` whose `command` is a whole structure of the current
version, sets the fields that it answers with last of all, and calls `respond`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from errno import E2BIG, EFAULT, EINVAL
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE, AddressSpace, Caller, File
from ioas.uapi.base import Struct, end_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommufd.context import Context

S = TypeVar("S", bound=Struct)

_size_field: Callable[[object], int] = attrgetter("size")


class InMemory:
    """An argument in the caller's memory."""

    __slots__ = ("address", "memory")

    def __init__(self, memory: AddressSpace, address: int) -> None:
        self.memory = memory
        self.address = address

    def read(self, offset: int, length: int) -> bytes:
        """Copy in from byte `offset`. Raises KernelError(EFAULT)."""
        return self.memory.read(self.address + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Copy out to byte `offset`. Raises KernelError(EFAULT)."""
        self.memory.write(self.address + offset, data)


class InBuffer:
    """An argument that is a buffer of this process: what is beyond its end is not there."""

    __slots__ = ("view",)

    address = 0

    def __init__(self, buffer: Buffer) -> None:
        self.view = memoryview(buffer).cast("B")

    def read(self, offset: int, length: int) -> bytes:
        """Copy in from byte `offset`. Raises KernelError(EFAULT)."""
        self._check(offset, length)
        return bytes(self.view[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Copy out to byte `offset`. Raises KernelError(EFAULT)."""
        self._check(offset, len(data))
        if self.view.readonly:
            raise refuse(EFAULT, "the argument's memory is read-only", "field", "argument")
        self.view[offset : offset + len(data)] = data

    def _check(self, offset: int, length: int) -> None:
        if offset + length > len(self.view):
            raise refuse(EFAULT, f"the argument has {len(self.view)} bytes only", "field", "argument")


Argument = InMemory | InBuffer


def argument_of(caller: Caller, argument: int | Buffer) -> Argument:
    """The third word of an ioctl, to be read and written as the structure that it points to."""
    return InMemory(caller.memory, argument) if isinstance(argument, int) else InBuffer(argument)


class Call(Generic[S]):
    """One call of a command."""

    __slots__ = ("_argument", "_size", "caller", "command", "context", "result")

    def __init__(self, context: Context, caller: Caller, command: S, argument: Argument | None, size: int) -> None:
        """`argument` None: `command` is the caller's own memory."""
        self.context = context
        self.caller = caller
        self.command = command
        self._argument = argument
        self._size = size
        self.result = 0
        """What the ioctl returns."""

    def respond(self) -> None:
        """Copy the command back, as far as the caller knows it (iommufd_ucmd_respond). Raises KernelError(EFAULT)."""
        if self._argument is not None:
            self._argument.write(0, bytes(self.command)[: self._size])

    def respond_with_file(self, file: File, field: str) -> None:
        """Copy the command back, with a new descriptor for `file` in `field`.

        Raises KernelError (EFAULT, EMFILE), and then `file` is closed.
        """
        try:
            self.context.system.failures.point("file")
            self.respond()  # before the descriptor exists, for it could not be taken back
            setattr(self.command, field, self.caller.install(file))
            self.respond()
        except KernelError:
            file.close()
            raise

    def respond_field(self, name: str) -> None:
        """Copy one field back. Raises KernelError(EFAULT)."""
        if self._argument is not None:
            field = getattr(type(self.command), name)
            self._argument.write(field.offset, bytes(self.command)[field.offset : field.offset + field.size])


class Command(Generic[S]):
    """A row of the command table: a request, its structure, and the last field that every caller must know."""

    __slots__ = ("handler", "length", "minimum", "request", "struct")

    def __init__(self, request: int, handler: Callable[[Call[S]], None], struct: type[S], last: str) -> None:
        self.request = request
        self.handler = handler
        self.struct = struct
        self.length = ctypes.sizeof(struct)
        self.minimum = end_of(struct, last)

    def __str__(self) -> str:
        return self.struct.__name__

    def carry_out(self, context: Context, caller: Caller, argument: int | Buffer) -> int:
        """Copy the structure in and call the handler, under the machine's lock; return the ioctl's result.

        Raises KernelError: EFAULT, EINVAL when the structure is too short, E2BIG when it says too much; and what the
        handler raises.
        """
        if isinstance(argument, self.struct) and _size_field(argument) == self.length:
            call = Call(context, caller, argument, None, 0)  # in this process, whole, ours: used where it stands
        else:
            call = self._fetch(context, caller, argument)
        with context.lock:
            context.system.failures.act_for(caller.pid)
            self.handler(call)
        return call.result

    def _fetch(self, context: Context, caller: Caller, argument: int | Buffer) -> Call[S]:
        place = argument_of(caller, argument)
        try:
            data = place.read(0, self.length)  # one read in another process, instead of one for the size
        except KernelError:
            data = b""
        size = int.from_bytes(data[:4], "little")
        if size != self.length:
            data, size = self._copy_in(place)
        return Call(context, caller, self.struct.from_buffer_copy(data), place, size)

    def _copy_in(self, place: Argument) -> tuple[bytes, int]:
        """The structure's bytes, filled up with zeros, and the caller's size (copy_struct_from_user)."""
        size = int.from_bytes(place.read(0, 4), "little")
        if size < self.minimum:
            raise refuse(EINVAL, f"{self} of {size} bytes is too short: {self.minimum} is the least", "field", "size")
        for offset, length in _by_page(place.address, self.length, size):
            if any(place.read(offset, length)):
                raise refuse(
                    E2BIG, f"{self} has {self.length} bytes here, and what follows is not zero", "field", "size"
                )
        return place.read(0, min(size, self.length)).ljust(self.length, b"\0"), size


def _by_page(address: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Offsets `start` to `end` (exclusive) from `address` as (offset, length), cut where pages begin.

    A caller may claim 4 GiB, and the first byte may decide; what comes first, a wrong byte or a missing page, counts.
    """
    while start < end:
        length = min(PAGE_SIZE - (address + start) % PAGE_SIZE, end - start)
        yield start, length
        start += length
