"""The machine's PCI side: root complex 0000:00, root ports with ACS, endpoints, groups, and the units above them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ioas.errors import UsageError
from ioas.soft.iommu import Requester
from ioas.soft.pci import errors, header, isolation, pasids, windows
from ioas.soft.pci.address import Bdf
from ioas.soft.pci.function import Function
from ioas.soft.pci.placed import Place
from ioas.soft.pci.ports import HostBridge, RootPort, RootPortWithoutAcs
from ioas.soft.pci.timers import Timers

if TYPE_CHECKING:
    from ioas.soft.iommu import Group, System, Unit

DOMAIN = 0
First = Literal["first"]
"""The unit before everything that names no other."""
_ENDPOINT_COMMAND = header.COMMAND_IO | header.COMMAND_MEMORY | header.COMMAND_SERR
_PORT_COMMAND = _ENDPOINT_COMMAND | header.COMMAND_MASTER | header.COMMAND_INTX_DISABLE
_INTERRUPT_LINE = 10


@dataclass(slots=True)
class Bus:
    """A bus: its number, its unit, the root port above it (None for the root bus), its functions by devfn, in order."""

    number: int
    unit: Unit | None = None
    port: RootPortWithoutAcs | None = None
    functions: dict[int, Function] = field(default_factory=dict)

    def add(self, function: Function, devfn: int) -> None:
        """Put `function` at `devfn`."""
        self.functions[devfn] = function
        self.functions = dict(sorted(self.functions.items()))

    def remove(self, function: Function) -> None:
        """Take `function` out."""
        self.functions = {devfn: each for devfn, each in self.functions.items() if each is not function}


class Topology:
    """All functions of a software machine.

    Endpoints stand at 0000:01:00.0, 0000:02:00.0, ... each behind its own root port (0000:00:01.0, ...) unless
    plugged at an address of their own. After `settle` groups exist and BARs have addresses.
    """

    def __init__(self, system: System, unit: Unit | None, timers: Timers | None = None) -> None:
        """`unit` is that of everything which is not plugged behind another; None is a machine without IOMMU.

        `timers` are made when not given; `close` closes them.
        """
        self.system = system
        self.unit = unit
        self.timers = timers if timers is not None else Timers()
        self.root = Bus(0, unit)
        self._buses: dict[int, Bus] = {0: self.root}
        self._units: dict[Function, Unit | None] = {}
        self._groups: dict[Function, Group] = {}
        self._settled = False
        self._put(HostBridge(), self.root, Bdf(DOMAIN, 0, 0, 0), unit)

    @property
    def buses(self) -> Mapping[int, Bus]:
        """All buses by number, in order."""
        return dict(sorted(self._buses.items()))

    def everything(self) -> Iterator[Function]:
        """Host bridge, root ports and endpoints, in order of address."""
        for bus in self.buses.values():
            yield from bus.functions.values()

    @property
    def functions(self) -> Mapping[str, Function]:
        """The endpoints by BDF text, in order of address (root ports are in `ports`)."""
        return {str(f.bdf): f for f in self.everything() if not isinstance(f, RootPortWithoutAcs | HostBridge)}

    @property
    def ports(self) -> Mapping[str, RootPortWithoutAcs]:
        """The root ports by BDF text."""
        return {str(f.bdf): f for f in self.everything() if isinstance(f, RootPortWithoutAcs)}

    def plug(
        self,
        function: Function,
        addr: str | Bdf | None = None,
        *,
        acs: bool = True,
        unit: Unit | First | None = "first",
    ) -> Bdf:
        """Put `function` at `addr`, or at the first free slot, behind a root port of its own (`acs`: with ACS).

        Further functions of a slot go to its addresses .1 to .7. `unit` stands before it, and before its root port and
        everything else there: the machine's first, unless another is named, or None for none at all. Raises UsageError
        for a malformed, busy or impossible address, naming it, and where another unit stands before the bus already.
        """
        bdf = self._free_slot() if addr is None else Bdf.parse(addr) if isinstance(addr, str) else addr
        self._check(bdf)
        bus = self._buses.get(bdf.bus)
        if bus is None:
            bus = self._buses[self.add_port(bdf.bus, acs=acs, unit=unit)]
        if unit == "first":
            unit = bus.unit
        if bus is not self.root and bus.unit is not unit:
            raise UsageError(f"{bdf} stands behind a root port of {_name(bus.unit)}, so not behind {_name(unit)}")
        self._put(function, bus, bdf, unit)
        return bdf

    def add_port(
        self, secondary: int, addr: str | Bdf | None = None, *, acs: bool = True, unit: Unit | First | None = "first"
    ) -> int:
        """Add a root port whose bus is `secondary` (1 to 255), at `addr` or the first free slot; return `secondary`.

        `unit` stands before it: the machine's first, unless another is named, or None for none at all. Raises
        UsageError for a bus or an address that is taken or impossible.
        """
        if secondary in self._buses or not 1 <= secondary <= 0xFF:
            raise UsageError(f"bus {secondary:#04x} is taken or cannot stand behind a root port")
        bdf = self._free_port_slot() if addr is None else Bdf.parse(addr) if isinstance(addr, str) else addr
        self._check(bdf)
        if bdf.bus != 0:
            raise UsageError(f"{bdf}: root ports stand on bus 00")
        port = RootPort() if acs else RootPortWithoutAcs()
        bus = Bus(secondary, self.unit if unit == "first" else unit, port)
        port.secondary = bus
        self._buses[secondary] = bus
        self._put(port, self.root, bdf, bus.unit)
        return secondary

    def _put(self, function: Function, bus: Bus, bdf: Bdf, unit: Unit | None) -> None:
        function.plug_in(Place(bdf, bus, self.timers))
        bus.add(function, bdf.devfn)
        self._units[function] = unit

    def _check(self, bdf: Bdf) -> None:
        if self._settled:
            raise UsageError(f"{bdf}: the machine runs already")
        if bdf.domain != DOMAIN:
            raise UsageError(f"{bdf}: the machine has PCI domain 0000 only")
        bus = self._buses.get(bdf.bus)
        if bus is not None and bdf.devfn in bus.functions:
            raise UsageError(f"{bdf} is taken by {bus.functions[bdf.devfn]}")
        if bdf.bus != 0 and bdf.device != 0:
            raise UsageError(f"{bdf}: a PCI Express link leads to device 00 only")

    def _free_slot(self) -> Bdf:
        bus = next((number for number in range(1, 0x100) if number not in self._buses), None)
        if bus is None:
            raise UsageError("all 255 buses are taken")
        return Bdf(DOMAIN, bus, 0, 0)

    def _free_port_slot(self) -> Bdf:
        """The first free slot from 0000:00:01.0; when all 31 are taken, further functions of them."""
        for function in range(8):
            for device in range(1, 32):
                bdf = Bdf(DOMAIN, 0, device, function)
                if bdf.devfn not in self.root.functions:
                    return bdf
        raise UsageError("all slots of bus 00 are taken")

    def settle(self) -> None:
        """What firmware and kernel do at boot: assign BARs, make requesters and groups. Once, after the last `plug`.

        Raises UsageError for a slot without function 0, and when BARs do not fit.
        """
        if self._settled:
            raise UsageError("the machine runs already")
        self._settled = True
        for bus in self.buses.values():
            _announce_functions(bus)
            _number_bus(bus)
        windows.assign(self.root, [bus for bus in self.buses.values() if bus is not self.root])
        for function in self.everything():
            _enable(function)
            errors.enable(function)
        for function in self.everything():
            self._join_group(function)

    def _join_group(self, function: Function) -> None:
        """Give a function its requester, in a group with those that it cannot be kept apart from."""
        group, unit = None, self._units[function]
        if unit is not None:
            group = isolation.shared_group(function, self._groups) or self.system.add_group()
            self._groups[function] = group
        function.requester = Requester(self.system, str(function.bdf), unit, group)
        function.requester.page_requests = function.page_requests
        pasids.set_up(function)

    def arrive(self, function: Function, bdf: Bdf, physical: Function) -> None:
        """A virtual function of `physical` appears at `bdf`, on the same bus, while the machine runs."""
        self._put(function, physical.place.bus, bdf, self._units[physical])
        self._join_group(function)

    def depart(self, function: Function) -> None:
        """A function disappears; nobody uses it any more."""
        function.cancel_timers()
        function.requester.remove()
        function.place.bus.remove(function)
        del self._units[function]
        self._groups.pop(function, None)

    def close(self) -> None:
        """Stop the machine's time: nothing that models have under way happens any more. Idempotent."""
        self.timers.close()


def _name(unit: Unit | None) -> str:
    return unit.name if unit is not None else "no unit"


def _announce_functions(bus: Bus) -> None:
    """Set the multifunction bit in slots with several functions; without function 0 nobody looks further."""
    for devfn, function in bus.functions.items():
        slot = [each for each in bus.functions if each >> 3 == devfn >> 3]
        if devfn & ~7 not in bus.functions:
            raise UsageError(f"{function.bdf}: the slot has no function 0, so nobody would find this one")
        if len(slot) > 1:
            kind = function.config.get(header.HEADER_TYPE, 1)
            function.config.declare(header.HEADER_TYPE, 1, kind | header.MULTIFUNCTION)


def _number_bus(bus: Bus) -> None:
    if bus.port is not None:
        bus.port.config.write(header.PRIMARY_BUS, bytes((0, bus.number, bus.number)))


def _enable(function: Function) -> None:
    """The command register and the interrupt line as firmware leaves them."""
    is_port = isinstance(function, RootPortWithoutAcs)
    command = _PORT_COMMAND if is_port else _ENDPOINT_COMMAND
    function.config.write(header.COMMAND, command.to_bytes(2, "little"))
    if function.interrupt_pin:
        function.config.write(header.INTERRUPT_LINE, bytes((_INTERRUPT_LINE,)))
