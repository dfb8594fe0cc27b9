"""Message signalled interrupts (PCI Local Bus 3.0 section 6.8.1, capability 0x05)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.errors import UsageError
from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

CONTROL = 2
ADDRESS = 4
ENABLE = 0x0001
_ADDRESS64 = 0x0080
_MASKING = 0x0100


class Msi(Capability):
    """Up to 32 vectors (a power of two), with a 64-bit address and per-vector mask and pending bits as declared."""

    id: ClassVar[int] = 0x05

    def __init__(self, vectors: int = 1, *, address64: bool = True, masking: bool = False) -> None:
        """Raises UsageError for a number of vectors that the structure cannot express."""
        if vectors not in (1, 2, 4, 8, 16, 32):
            raise UsageError(f"MSI has 1, 2, 4, 8, 16 or 32 vectors, not {vectors}")
        self.vectors = vectors
        self.address64 = address64
        self.masking = masking

    @property
    def data(self) -> int:
        """Where the message data stands in the structure."""
        return 0x0C if self.address64 else 0x08

    @property
    def mask(self) -> int:
        """Where the mask bits stand, when there are any; the pending bits follow."""
        return self.data + 4

    @property
    def pending(self) -> int:
        """Where the pending bits stand."""
        return self.mask + 4

    @property
    def length(self) -> int:
        """10 to 24 bytes, by its features."""
        return self.data + 2 if not self.masking else self.pending + 4

    def install(self, function: Function, offset: int) -> None:
        """Declare control, address, data, and mask and pending bits."""
        config = function.config
        control = (self.vectors.bit_length() - 1) << 1
        control |= _ADDRESS64 if self.address64 else 0
        control |= _MASKING if self.masking else 0
        config.declare(offset + CONTROL, 2, control, writable=ENABLE | 0x0070)
        config.declare(offset + ADDRESS, 4, 0, writable=0xFFFFFFFC)
        if self.address64:
            config.declare(offset + ADDRESS + 4, 4, 0, writable=0xFFFFFFFF)
        config.declare(offset + self.data, 2, 0, writable=0xFFFF)
        config.watch(offset, self.length, lambda: function.interrupts.reconsider())
        if self.masking:
            config.declare(offset + self.mask, 4, 0, writable=(1 << self.vectors) - 1)
            config.declare(offset + self.pending, 4, 0)
