"""Process address space ids (PCI Express Base 7.8.9, extended capability 0x001b): one function, many address spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.errors import UsageError
from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

CAPABILITY = 4
CONTROL = 6

ENABLE = 0x1
EXECUTE = 0x2
PRIVILEGED = 0x4
_WIDTH_SHIFT = 8
MAX_WIDTH = 20


class Pasid(Capability):
    """A function whose requests carry PASIDs of `width` bits, with `execute` and `privileged` requests if it says so.

    `Dma.read` and `Dma.write` send them, once software has turned them on, as the kernel does where the unit takes
    PASIDs.
    """

    id: ClassVar[int] = 0x001B
    extended: ClassVar[bool] = True
    prefixes: ClassVar[bool] = True

    def __init__(self, width: int = MAX_WIDTH, *, execute: bool = False, privileged: bool = False) -> None:
        """Raises UsageError for a width that is not 1 to 20."""
        if not 1 <= width <= MAX_WIDTH:
            raise UsageError(f"PASIDs have 1 to {MAX_WIDTH} bits, not {width}")
        self.width = width
        self.features = (EXECUTE if execute else 0) | (PRIVILEGED if privileged else 0)

    @property
    def length(self) -> int:
        """Header, capability, control."""
        return 8

    def install(self, function: Function, offset: int) -> None:
        """Declare capability and control."""
        function.config.declare(offset + CAPABILITY, 2, self.width << _WIDTH_SHIFT | self.features)
        function.config.declare(offset + CONTROL, 2, 0, writable=ENABLE | self.features)
