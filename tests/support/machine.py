"""A small machine for tests of device models: functions behind a unit, memory they reach, time moved by hand."""

from __future__ import annotations

from typing import NamedTuple

from ioas.soft.iommu import Prot, System, vtd_unit
from ioas.soft.pci import Function, ManualTimers, Topology, header
from tests.support.ram import Ram


class Machine(NamedTuple):
    system: System
    topology: Topology
    timers: ManualTimers


def machine(*functions: Function | tuple[Function, str]) -> Machine:
    """A settled machine with these functions, at the address given or the next free one."""
    system = System()
    timers = ManualTimers()
    topology = Topology(system, vtd_unit(system), timers)
    for each in functions:
        function, address = each if isinstance(each, tuple) else (each, None)
        topology.plug(function, address)
    topology.settle()
    return Machine(system, topology, timers)


def map_memory(
    system: System, function: Function, iova: int, pages: int = 16, prot: int = Prot.READ | Prot.WRITE
) -> Ram:
    """Attach `function` to a new domain in which `pages` of new memory stand at `iova`; bus mastering on."""
    ram = Ram(pages)
    held = system.memory.hold(ram, 0, pages, True)
    assert function.requester.unit is not None
    domain = function.requester.unit.domain()
    domain.map(iova, held.segments, 0, pages << 12, prot)
    function.requester.attach(domain)
    set_command(function, header.COMMAND_MASTER)
    return ram


def set_command(function: Function, bits: int, on: bool = True) -> None:
    """Set or clear bits of the command register by a configuration write."""
    value = function.config.get(header.COMMAND, 2)
    value = value | bits if on else value & ~bits
    function.config.write(header.COMMAND, value.to_bytes(2, "little"))
