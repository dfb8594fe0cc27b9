"""Registers of a device model as typed fields.

A register is declared once, with what its data sheet says, and is then an attribute of the model that holds an
integer: reading and assigning `self.status` is the device's own side, which no access rule stops. Software's side comes
through `Function.bar_read` and `bar_write`, which obey offset, width, access and sizes, and call the hooks.

    status = mmio.register(0x20, "RW")

    @status.on_write
    def _status_written(self, value: int) -> None:
        self.status = self.status & BUSY | value & IRQ_ENABLE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

Access = Literal["RO", "RW", "W1C", "WO"]
ACCESSES: tuple[Access, ...] = ("RO", "RW", "W1C", "WO")
_WIDTHS = (1, 2, 4, 8)

ReadHook = TypeVar("ReadHook", bound=Callable[[Any], int])
WriteHook = TypeVar("WriteHook", bound=Callable[[Any, int], None])


class Register:
    """One register: `width` bytes at `offset` of BAR `bar`, with its value after reset.

    Access: "RO" ignores writes; "RW" keeps what is written; "W1C" clears the bits written as one; "WO" reads as if
    nothing were there. `sizes` are the access sizes it answers to, in bytes (default: its width alone). With `split` a
    narrower access may start anywhere in the register and changes only its bytes; without, it starts at the register's
    offset, and a narrower write is extended with zeros. A `doorbell` is one that a write sets something off by: where
    BARs are polled (`ioas run --mmio poll`) it is watched, and what has been stored into the others goes before it.
    """

    def __init__(
        self,
        bar: int,
        offset: int,
        access: Access = "RW",
        width: int = 4,
        *,
        reset: int = 0,
        sizes: tuple[int, ...] | None = None,
        split: bool = True,
        doorbell: bool = False,
    ) -> None:
        """Raises UsageError, naming the register, for a width, access or size that does not exist."""
        where = f"register {offset:#x} of BAR {bar}"
        if width not in _WIDTHS or offset < 0 or offset % width:
            raise UsageError(f"{where}: a register of {width} bytes cannot stand there")
        if access not in ACCESSES:
            raise UsageError(f"{where}: access {access!r} is none of {', '.join(ACCESSES)}")
        self.sizes = sizes if sizes is not None else (width,)
        if not self.sizes or any(size not in _WIDTHS or size > width for size in self.sizes):
            raise UsageError(f"{where}: access sizes {self.sizes} do not suit a width of {width} bytes")
        if reset >> 8 * width:
            raise UsageError(f"{where}: reset value {reset:#x} has more than {width} bytes")
        self.bar = bar
        self.offset = offset
        self.access: Access = access
        self.width = width
        self.initial = reset
        self.split = split
        self.doorbell = doorbell
        self.name = ""
        self._mask = (1 << 8 * width) - 1
        self._read_hook: Callable[[Any], int] | None = None
        self._write_hook: Callable[[Any, int], None] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Register: ...

    @overload
    def __get__(self, instance: Function, owner: type) -> int: ...

    def __get__(self, instance: Function | None, owner: type) -> Register | int:
        if instance is None:
            return self
        return instance.register_values[self.name]

    def __set__(self, instance: Function, value: int) -> None:
        instance.register_values[self.name] = value & self._mask

    def on_read(self, hook: ReadHook) -> ReadHook:
        """Decorator: `hook(self) -> int` gives the value that software reads, instead of the one held."""
        self._read_hook = hook
        return hook

    def on_write(self, hook: WriteHook) -> WriteHook:
        """Decorator: `hook(self, value)` is told what software writes; it stores what it wants by assigning fields."""
        self._write_hook = hook
        return hook

    def starts(self) -> range:
        """The offsets at which an access to this register may start."""
        return range(self.offset, self.offset + self.width) if self.split else range(self.offset, self.offset + 1)

    def answers(self, offset: int, length: int) -> bool:
        """Whether an access of `length` bytes at `offset` (one of `starts`) is one that the register takes."""
        return length in self.sizes and offset % length == 0 and offset + length <= self.offset + self.width

    def read(self, instance: Function, offset: int, length: int) -> bytes | None:
        """What software reads; None when nothing answers (write-only)."""
        if self.access == "WO":
            return None
        value = self._read_hook(instance) if self._read_hook else instance.register_values[self.name]
        data = (value & self._mask).to_bytes(self.width, "little")
        return data if length == self.width else data[offset - self.offset : offset - self.offset + length]

    def write(self, instance: Function, offset: int, data: bytes) -> None:
        """What software writes."""
        if self.access == "RO":
            return
        whole = len(data) == self.width
        value = int.from_bytes(data, "little") if whole else self._widened(instance, offset, data)
        if self._write_hook is not None:
            self._write_hook(instance, value)
        elif self.access == "W1C":
            instance.register_values[self.name] &= ~value
        else:
            instance.register_values[self.name] = value

    def _widened(self, instance: Function, offset: int, data: bytes) -> int:
        value = int.from_bytes(data, "little")
        if not self.split:
            return value
        shift = 8 * (offset - self.offset)
        if self.access == "W1C":
            return value << shift
        kept = instance.register_values[self.name] & ~((1 << 8 * len(data)) - 1 << shift)
        return kept | value << shift
