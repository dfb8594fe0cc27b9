"""Access control services (PCI Express Base, extended capability 0x000d): what keeps functions apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

CAPABILITY = 4
CONTROL = 6

SOURCE_VALIDATION = 0x01
TRANSLATION_BLOCKING = 0x02
REQUEST_REDIRECT = 0x04
COMPLETION_REDIRECT = 0x08
UPSTREAM_FORWARDING = 0x10
EGRESS_CONTROL = 0x20
ISOLATING = SOURCE_VALIDATION | REQUEST_REDIRECT | COMPLETION_REDIRECT | UPSTREAM_FORWARDING
"""What the kernel wants of a path before it believes in isolation (REQ_ACS_FLAGS)."""


class Acs(Capability):
    """The services a function offers; `enabled` of them are on, as the kernel leaves them (pci_enable_acs)."""

    id: ClassVar[int] = 0x000D
    extended: ClassVar[bool] = True

    def __init__(self, offered: int = ISOLATING | TRANSLATION_BLOCKING, enabled: int = ISOLATING) -> None:
        self.offered = offered
        self.enabled = enabled & offered

    @property
    def length(self) -> int:
        """Header, capability, control (no egress vector)."""
        return 8

    def install(self, function: Function, offset: int) -> None:
        """Declare capability and control."""
        function.config.declare(offset + CAPABILITY, 2, self.offered)
        function.config.declare(offset + CONTROL, 2, self.enabled, writable=self.offered)
