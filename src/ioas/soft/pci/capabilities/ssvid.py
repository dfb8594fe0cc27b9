"""Subsystem IDs of a bridge (PCI-to-PCI Bridge 1.2, capability 0x0d): type 1 headers have no room for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function


class BridgeSubsystem(Capability):
    """Subsystem vendor and subsystem of a bridge."""

    id: ClassVar[int] = 0x0D

    def __init__(self, vendor: int, subsystem: int) -> None:
        self.vendor = vendor
        self.subsystem = subsystem

    @property
    def length(self) -> int:
        """Header, two reserved bytes, two IDs."""
        return 8

    def install(self, function: Function, offset: int) -> None:
        """Declare the IDs."""
        function.config.declare(offset + 4, 2, self.vendor)
        function.config.declare(offset + 6, 2, self.subsystem)
