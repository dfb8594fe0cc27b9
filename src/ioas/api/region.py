"""`Region`: a BAR, the expansion ROM or the configuration space of a device, read and written through its file."""

from __future__ import annotations

from errno import EIO
from typing import TYPE_CHECKING, Literal

from ioas.api.checks import whole
from ioas.errors import UsageError, refuse
from ioas.uapi.vfio import VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ROM_REGION_INDEX, VFIO_PCI_VGA_REGION_INDEX

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.api.device import Device

_NAMES = {VFIO_PCI_ROM_REGION_INDEX: "ROM", VFIO_PCI_CONFIG_REGION_INDEX: "config", VFIO_PCI_VGA_REGION_INDEX: "VGA"}


class Region:
    """A region of a device. Offsets are bytes from its start; numbers are little-endian, as PCI is.

    Every access raises UsageError outside the region, and InputOutput when the device does not answer (for example
    with memory accesses turned off in its command register).
    """

    __slots__ = ("_read", "_write", "base", "device", "flags", "index", "size")

    def __init__(self, device: Device, index: int, size: int, base: int, flags: int) -> None:
        """`flags`: VFIO_REGION_INFO_FLAG_*."""
        self.device = device
        self.index = index
        self.size = size
        self.flags = flags
        self.base = base
        self._read = device.read
        self._write = device.write

    base: int
    """Where the region begins in the device's file."""

    def __repr__(self) -> str:
        return f"<{self.name} of {self.device.bdf}, {self.size:#x} bytes>"

    @property
    def name(self) -> str:
        """What it is called: "BAR 0", "ROM", "config"."""
        return _NAMES.get(self.index, f"BAR {self.index}")

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        self._check(offset, length)
        data = self._read(length, self.base + offset)
        if len(data) != length:
            raise refuse(EIO, f"{len(data)} of {length} bytes could be read", "region", f"{self.name}+{offset:#x}")
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """All of `data`: bytes, or any buffer."""
        data = bytes(memoryview(data))
        self._check(offset, len(data))
        done = self._write(data, self.base + offset)
        if done != len(data):
            raise refuse(EIO, f"{done} of {len(data)} bytes could be written", "region", f"{self.name}+{offset:#x}")

    def read8(self, offset: int) -> int:
        """One byte."""
        return int.from_bytes(self.read(offset, 1), "little")

    def read16(self, offset: int) -> int:
        """Two bytes."""
        return int.from_bytes(self.read(offset, 2), "little")

    def read32(self, offset: int) -> int:
        """Four bytes."""
        return int.from_bytes(self.read(offset, 4), "little")

    def read64(self, offset: int) -> int:
        """Eight bytes, in one access where the host and the device can."""
        return int.from_bytes(self.read(offset, 8), "little")

    def write8(self, offset: int, value: int) -> None:
        """One byte; `value` is 0 to 2**8 - 1."""
        self.write(offset, self.encode(value, 1))

    def write16(self, offset: int, value: int) -> None:
        """Two bytes; `value` is 0 to 2**16 - 1."""
        self.write(offset, self.encode(value, 2))

    def write32(self, offset: int, value: int) -> None:
        """Four bytes; `value` is 0 to 2**32 - 1."""
        self.write(offset, self.encode(value, 4))

    def write64(self, offset: int, value: int) -> None:
        """Eight bytes, in one access where the host and the device can; `value` is 0 to 2**64 - 1."""
        self.write(offset, self.encode(value, 8))

    @staticmethod
    def encode(value: int, width: int) -> bytes:
        """A number as `width` bytes. Raises UsageError when it does not fit, TypeError for what is no integer."""
        return whole("value", value, (1 << 8 * width) - 1).to_bytes(width, "little")

    def view(self, width: Literal[1, 2, 4, 8]) -> memoryview:
        """The region as numbers of `width` bytes, for loops that poll: an item is one load, or one store.

        It ends (ValueError) when configuration space is written, after a reset, and when the device is closed: ask
        again. Raises UsageError where the region is not in the program's memory (no MMAP flag, or it does not answer).
        """
        raise UsageError(f"{self.name} cannot be mapped")

    def unmap(self) -> None:
        """Nothing: only a `MappedRegion` stands in the program's memory."""

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise UsageError(f"{self.name} has {self.size:#x} bytes; {length} at {offset:#x} are outside")


class ConfigRegion(Region):
    """The configuration space. What is written there may turn the BARs off, or the device."""

    __slots__ = ()

    def write(self, offset: int, data: Buffer) -> None:
        """All of `data`: bytes, or any buffer."""
        self.device.unmap_regions()  # before: from now on a BAR may not answer
        try:
            super().write(offset, data)
        finally:
            self.device.unmap_regions()  # after: another thread may have been quick
