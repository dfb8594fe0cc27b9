"""What stands on the root bus of every machine: the host bridge and root ports.

IDs are those of QEMU's q35 machine and its generic root port, so that lspci and drivers recognise them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.soft.pci import header
from ioas.soft.pci.capabilities import Acs, Aer, BridgeSubsystem, Capability, Pcie, PowerManagement
from ioas.soft.pci.capabilities.pcie import ROOT_PORT
from ioas.soft.pci.function import Function
from ioas.soft.pci.options import OptionValue

if TYPE_CHECKING:
    from ioas.soft.pci.topology import Bus

_CAPABILITIES: tuple[Capability, ...] = (
    PowerManagement(),
    BridgeSubsystem(0x1B36, 0),
    Pcie(ROOT_PORT, speed=4, width=32),
    Aer(),
)


class HostBridge(Function):
    """The function at 0000:00:00.0 that stands for the root complex; a conventional one without BARs."""

    model: ClassVar[str] = "host-bridge"
    vendor_id: ClassVar[int] = 0x8086
    device_id: ClassVar[int] = 0x29C0
    class_code: ClassVar[int] = 0x060000
    subsystem_vendor_id: ClassVar[int] = 0x1AF4
    subsystem_id: ClassVar[int] = 0x1100


class RootPortWithoutAcs(Function):
    """A root port that does not say whether it keeps what is behind it apart: endpoint and port share a group."""

    model: ClassVar[str] = "root-port"
    vendor_id: ClassVar[int] = 0x1B36
    device_id: ClassVar[int] = 0x000C
    class_code: ClassVar[int] = 0x060400
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = _CAPABILITIES
    _header_kind: ClassVar[int] = 1

    def __init__(self, /, **options: OptionValue) -> None:
        super().__init__(**options)
        self.secondary: Bus | None = None
        """The bus behind the port; set by Topology."""
        self._resetting = False
        self.config.watch(header.BRIDGE_CONTROL, 2, self._control_written)

    def _declare_specific_header(self) -> None:
        header.declare_type1(self.config)

    def _control_written(self) -> None:
        """Secondary Bus Reset: everything behind the port is in reset as long as the bit is set."""
        was = self._resetting
        self._resetting = bool(self.config.get(header.BRIDGE_CONTROL, 2) & header.BRIDGE_CONTROL_BUS_RESET)
        if self._resetting and not was and self.secondary is not None:
            for function in self.secondary.functions.values():
                function.reinitialise()


class RootPort(RootPortWithoutAcs):
    """A root port with source validation, request and completion redirect, and upstream forwarding (ACS) on."""

    capabilities: ClassVar[tuple[Capability, ...]] = (*_CAPABILITIES, Acs())
