"""Advanced error reporting (PCI Express Base, extended capability 0x0001): registers to read and clear, no errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

UNCORRECTABLE_STATUS = 0x04
UNCORRECTABLE_MASK = 0x08
UNCORRECTABLE_SEVERITY = 0x0C
CORRECTABLE_STATUS = 0x10
CORRECTABLE_MASK = 0x14

_UNCORRECTABLE = 0x007FF030
_CORRECTABLE = 0x0000F1C1


class Aer(Capability):
    """Version 2 of the structure, as endpoints and ports carry it."""

    id: ClassVar[int] = 0x0001
    extended: ClassVar[bool] = True
    version: ClassVar[int] = 2

    @property
    def length(self) -> int:
        """Up to and with the root error registers."""
        return 0x48

    def install(self, function: Function, offset: int) -> None:
        """Status registers are RW1C, masks and severity RW, with the reset values of the specification."""
        config = function.config
        config.declare(offset + UNCORRECTABLE_STATUS, 4, 0, clearable=_UNCORRECTABLE)
        config.declare(offset + UNCORRECTABLE_MASK, 4, 0x00400000, writable=_UNCORRECTABLE)
        config.declare(offset + UNCORRECTABLE_SEVERITY, 4, 0x00462030, writable=_UNCORRECTABLE)
        config.declare(offset + CORRECTABLE_STATUS, 4, 0, clearable=_CORRECTABLE)
        config.declare(offset + CORRECTABLE_MASK, 4, 0x0000E000, writable=_CORRECTABLE)
