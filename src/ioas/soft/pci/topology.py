"""The machine's PCI side: root complex 0000:00, root ports with ACS, endpoints, groups, one IOMMU above all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ioas.soft.pci.address import Bdf
from ioas.soft.pci.function import Function
from ioas.soft.pci.timers import Timers

if TYPE_CHECKING:
    from ioas.soft.iommu import System, Unit


class Topology:
    """All functions of a software machine.

    Endpoints stand at 0000:01:00.0, 0000:02:00.0, ... each behind its own root port (0000:00:01.0, ...) unless
    plugged at an address of their own. After `settle` groups exist and BARs have addresses.
    """

    def __init__(self, system: System, unit: Unit | None, timers: Timers | None = None) -> None:
        """`unit` None is a machine without IOMMU; `timers` are made when not given and closed by `close`."""
        self.system = system
        self.unit = unit

    @property
    def functions(self) -> Mapping[str, Function]:
        """The endpoints by BDF text, in order of address (root ports are in `ports`)."""
        raise NotImplementedError

    @property
    def ports(self) -> Mapping[str, Function]:
        """The root ports by BDF text."""
        raise NotImplementedError

    def plug(self, function: Function, addr: str | Bdf | None = None, *, acs: bool = True) -> Bdf:
        """Put `function` at `addr`, or at the first free slot, behind a root port of its own (`acs`: with ACS).

        Raises UsageError for a malformed, busy or impossible address, naming it.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """What firmware and kernel do at boot: assign BARs, make requesters and groups. Once, after the last `plug`."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the machine's time. Idempotent."""
        raise NotImplementedError
