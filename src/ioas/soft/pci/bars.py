"""Base address registers: the windows through which software reaches a device's registers.

A `Bar` is a declaration at the top of a model; the address it has been given stands in configuration space, where
software finds the size by writing ones (PCI Local Bus 3.0, 6.2.5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ioas.errors import UsageError
from ioas.soft.pci import header
from ioas.soft.pci.ram import Ram
from ioas.soft.pci.registers import Access, Register

if TYPE_CHECKING:
    from ioas.soft.pci.config import Config

BarKind = Literal["mem32", "mem64", "io"]
ROM_INDEX = 6
"""The expansion ROM's index, as VFIO and sysfs count it."""

_FLAGS: dict[BarKind, int] = {"mem32": 0x0, "mem64": 0x4, "io": 0x1}
_PREFETCHABLE = 0x8
_SIZES: dict[BarKind, tuple[int, int]] = {"mem32": (16, 1 << 31), "mem64": (16, 1 << 62), "io": (4, 256)}
ROM_ENABLE = 0x1


class Bar:
    """One window: declared at the top of a model (`index`, `size` in bytes, `kind`), placed by the machine.

    A mem64 BAR takes two registers (`index` and `index + 1`).
    """

    def __init__(self, index: int, size: int, kind: BarKind = "mem32", *, prefetchable: bool = False) -> None:
        """`size`: a power of two, from 16 bytes (memory) or from 4 to 256 (I/O ports). Raises UsageError."""
        if kind not in _SIZES:
            raise UsageError(f"BAR {index}: kind {kind!r} is none of {', '.join(_SIZES)}")
        smallest, largest = _SIZES[kind]
        if size & (size - 1) or not smallest <= size <= largest:
            raise UsageError(
                f"BAR {index}: {kind} size {size:#x} is not a power of two from {smallest} to {largest:#x}"
            )
        if not 0 <= index <= (4 if kind == "mem64" else 5):
            raise UsageError(f"BAR {index}: a {kind} BAR cannot stand there")
        if prefetchable and kind == "io":
            raise UsageError(f"BAR {index}: I/O ports are never prefetchable")
        self.index = index
        self.size = size
        self.kind: BarKind = kind
        self.prefetchable = prefetchable
        self.is_io = kind == "io"
        """Whether the window is in I/O space."""

    def register(
        self,
        offset: int,
        access: Access = "RW",
        width: int = 4,
        *,
        reset: int = 0,
        sizes: tuple[int, ...] | None = None,
        split: bool = True,
        doorbell: bool = False,
    ) -> Register:
        """A register of the model in this window; see `Register`. Raises UsageError beyond the window."""
        if offset + width > self.size:
            raise UsageError(f"BAR {self.index}: register {offset:#x} lies outside of {self.size:#x} bytes")
        return Register(self.index, offset, access, width, reset=reset, sizes=sizes, split=split, doorbell=doorbell)

    def memory(self, offset: int = 0, size: int | None = None) -> Ram:
        """Memory of the device in this window, by default all of it; see `Ram`.

        Raises UsageError for what are not whole pages, beyond the window, and for I/O ports.
        """
        size = self.size - offset if size is None else size
        if self.is_io or offset < 0 or offset + size > self.size:
            raise UsageError(f"BAR {self.index}: {size:#x} bytes of memory cannot stand at {offset:#x}")
        return Ram(self.index, offset, size)

    @property
    def extent(self) -> int:
        """Bytes of address space that it takes."""
        return self.size

    @property
    def flags(self) -> int:
        """The read-only low bits of the register."""
        return _FLAGS[self.kind] | (_PREFETCHABLE if self.prefetchable else 0)

    @property
    def _width(self) -> int:
        return 8 if self.kind == "mem64" else 4

    @property
    def _register(self) -> int:
        return header.BAR0 + 4 * self.index

    def install(self, config: Config) -> None:
        """Declare the register: address bits below the size are wired to zero, so that software can size it."""
        mask = (1 << 8 * self._width) - 1
        config.declare(self._register, self._width, self.flags, writable=mask & ~(self.size - 1))

    def address(self, config: Config) -> int:
        """Where the window is now."""
        return config.get(self._register, self._width) & ~(self.size - 1)

    def assign(self, config: Config, address: int) -> None:
        """Place the window, as firmware does. Raises UsageError unless `address` is a multiple of the size."""
        if address & (self.size - 1):
            raise UsageError(f"BAR {self.index}: address {address:#x} is not a multiple of its size {self.size:#x}")
        config.write(self._register, address.to_bytes(self._width, "little"))


class Rom(Bar):
    """The expansion ROM: `contents`, padded with 0xff to a power of two of at least 2 KiB."""

    def __init__(self, contents: bytes) -> None:
        """Raises UsageError above the 16 MiB that the register can hold."""
        size = max(2048, 1 << (len(contents) - 1).bit_length())
        if size > 1 << 24:
            raise UsageError(f"a ROM of {len(contents)} bytes is larger than 16 MiB")
        super().__init__(0, size)
        self.index = ROM_INDEX
        self.contents = contents.ljust(size, b"\xff")

    @property
    def _register(self) -> int:
        return header.ROM_ADDRESS

    def install(self, config: Config) -> None:
        """Declare the register; bit 0 enables decoding."""
        config.declare(self._register, 4, 0, writable=0xFFFFF800 & ~(self.size - 1) | ROM_ENABLE)

    def enabled(self, config: Config) -> bool:
        """Whether decoding of the ROM is on (memory decoding must be on as well)."""
        return bool(config.get(self._register, 4) & ROM_ENABLE)
