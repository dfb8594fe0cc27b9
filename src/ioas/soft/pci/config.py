"""Configuration space: 4096 real bytes with a writable mask and a write-one-to-clear mask for each.

What software reads is what stands in the bytes; what a write changes is decided by the masks alone, bit by bit, as the
PCI specifications describe registers (RO, RW, RW1C). Whoever owns a register (a BAR, a capability) learns of writes by
`watch`. The device's own side uses `set`, which no mask stops.
"""

from __future__ import annotations

from collections.abc import Callable

CONFIG_SIZE = 4096
"""Bytes of a PCI Express function's configuration space."""
CONVENTIONAL_SIZE = 256
"""Bytes of a conventional PCI function's; the rest reads as zeros here and is not offered by sysfs and VFIO."""


class Config:
    """The configuration space of one function. Offsets are bytes from 0; values are little endian."""

    def __init__(self, size: int = CONVENTIONAL_SIZE) -> None:
        """`size` is what the function decodes: 256, or 4096 with a PCI Express capability."""
        self.size = size
        self._bytes = bytearray(CONFIG_SIZE)
        self._writable = bytearray(CONFIG_SIZE)
        self._clearable = bytearray(CONFIG_SIZE)
        self._watchers: list[tuple[int, int, Callable[[], None]]] = []

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, as a configuration read returns them; bytes past 4096 read as 0xff."""
        raise NotImplementedError

    def write(self, offset: int, data: bytes) -> None:
        """A configuration write: masks decide, watchers are told. Bytes past 4096 go nowhere."""
        raise NotImplementedError

    def get(self, offset: int, width: int) -> int:
        """The little-endian value of `width` bytes."""
        raise NotImplementedError

    def set(self, offset: int, width: int, value: int) -> None:
        """The device's own write: masks and watchers are passed by."""
        raise NotImplementedError

    def declare(self, offset: int, width: int, value: int, *, writable: int = 0, clearable: int = 0) -> None:
        """Define a register: its reset value, and the bits software may write or clear by writing ones."""
        raise NotImplementedError

    def watch(self, offset: int, width: int, action: Callable[[], None]) -> None:
        """Call `action` after each `write` that touches any of the bytes."""
        raise NotImplementedError

    def reset(self) -> None:
        """Put every declared register back to its reset value."""
        raise NotImplementedError

    def find(self, capability: int) -> int | None:
        """The offset of the conventional capability with this ID, by walking the list as software does."""
        raise NotImplementedError

    def find_extended(self, capability: int) -> int | None:
        """The offset of the extended capability with this ID (from 0x100), by walking the list."""
        raise NotImplementedError
