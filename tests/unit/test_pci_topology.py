"""Where functions stand, and what stands above them."""

from __future__ import annotations

import pytest

from ioas.errors import UsageError
from ioas.soft.iommu import System, vtd_unit
from ioas.soft.pci import Bdf, Function, ManualTimers, Topology, header
from tests.support.machine import machine, map_memory, set_command


@pytest.fixture
def topology() -> Topology:
    system = System()
    return Topology(system, vtd_unit(system), ManualTimers())


def test_devices_stand_at_01_00_0_and_on_each_behind_its_own_root_port() -> None:
    topology = machine(Function(), Function()).topology
    assert list(topology.functions) == ["0000:01:00.0", "0000:02:00.0"]
    assert list(topology.ports) == ["0000:00:01.0", "0000:00:02.0"]
    for number, port in enumerate(topology.ports.values(), 1):
        assert port.config.read(header.PRIMARY_BUS, 3) == bytes((0, number, number))


def test_a_device_stands_at_the_address_it_is_given() -> None:
    topology = machine((Function(), "0000:05:00.0"), Function(), (Function(), "02:00.0"), Function()).topology
    assert list(topology.functions) == ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:05:00.0"]


def test_functions_of_one_slot_share_a_port_and_are_announced() -> None:
    first, second = Function(), Function()
    topology = machine((first, "0000:01:00.0"), (second, "0000:01:00.3")).topology
    assert len(topology.ports) == 1
    assert [each.config.get(header.HEADER_TYPE, 1) for each in (first, second)] == [0x80, 0x80]


def test_a_device_on_the_root_bus_has_no_port() -> None:
    function = Function()
    topology = machine((function, "0000:00:05.0")).topology
    assert function.place.bus.port is None
    assert list(topology.ports) == []


def test_a_root_port_steps_aside_for_a_device_on_the_root_bus() -> None:
    topology = machine((Function(), "0000:00:01.0"), Function()).topology
    assert list(topology.ports) == ["0000:00:02.0"]


@pytest.mark.parametrize("text", ["", "edu", "0000:01:00", "0000:01:00.8", "1:0.0", "0000:01:20.0", "0000:01:00.0 "])
def test_a_malformed_address_is_named(topology: Topology, text: str) -> None:
    with pytest.raises(UsageError, match=repr(text)):
        topology.plug(Function(), text)


def test_a_busy_address_is_named_with_who_has_it(topology: Topology) -> None:
    class Taker(Function):
        model = "taker"

    topology.plug(Taker(), "0000:03:00.0")
    with pytest.raises(UsageError, match=r"0000:03:00.0 is taken by taker 0000:03:00.0"):
        topology.plug(Function(), "0000:03:00.0")
    with pytest.raises(UsageError, match=r"0000:00:01.0 is taken by root-port"):
        topology.plug(Function(), "0000:00:01.0")
    with pytest.raises(UsageError, match=r"0000:00:00.0 is taken by host-bridge"):
        topology.plug(Function(), "0000:00:00.0")


def test_other_domains_and_other_devices_behind_a_link_are_refused(topology: Topology) -> None:
    with pytest.raises(UsageError, match=r"0001:01:00.0: the machine has PCI domain 0000 only"):
        topology.plug(Function(), "0001:01:00.0")
    with pytest.raises(UsageError, match=r"0000:01:02.0: a PCI Express link leads to device 00 only"):
        topology.plug(Function(), "0000:01:02.0")


def test_a_slot_without_function_0_is_refused(topology: Topology) -> None:
    topology.plug(Function(), "0000:01:00.2")
    with pytest.raises(UsageError, match=r"0000:01:00.2: the slot has no function 0"):
        topology.settle()


def test_nothing_is_plugged_into_a_running_machine_and_nothing_twice(topology: Topology) -> None:
    function = Function()
    topology.plug(function)
    with pytest.raises(UsageError, match="plugged in already"):
        topology.plug(function)
    other = Topology(topology.system, topology.unit, ManualTimers())
    other.settle()
    for again in (other.settle, lambda: other.plug(Function())):
        with pytest.raises(UsageError, match="runs already"):
            again()


def test_a_function_without_a_machine_says_so_when_it_needs_one() -> None:
    with pytest.raises(UsageError, match="not plugged into a machine"):
        _ = Function().bdf
    with pytest.raises(UsageError, match="not plugged into a machine"):
        Function().after(1, lambda: None)


def test_a_requester_bears_the_functions_address() -> None:
    function = Function()
    machine(function)
    assert function.requester.name == "0000:01:00.0"
    assert str(function.bdf) == "0000:01:00.0"
    assert function.bdf == Bdf(0, 1, 0, 0)
    assert (function.bdf.requester_id, Bdf.parse("0000:02:03.4").devfn) == (0x100, 0x1C)


def test_dma_goes_through_the_unit() -> None:
    function = Function()
    system = machine(function).system
    ram = map_memory(system, function, 0x100000)
    assert function.dma.write(0x100FFC, b"abcdefgh")
    assert bytes(ram.page(0)[-4:]) + bytes(ram.page(1)[:4]) == b"abcdefgh"
    assert function.dma.read(0x100FFE, 4) == b"cdef"
    assert function.dma.read(0x10, 4) is None
    assert system.faults[-1][:6] == ("0000:01:00.0", 0x10, 4, False, None, "not mapped")


def test_without_bus_mastering_dma_goes_nowhere_and_is_recorded() -> None:
    function = Function()
    system = machine(function).system
    ram = map_memory(system, function, 0x100000)
    set_command(function, header.COMMAND_MASTER, False)
    assert not function.dma.write(0x100000, b"abcd")
    assert function.dma.read(0x100000, 4) is None
    assert bytes(ram.page(0)[:4]) == bytes(4)
    assert [record[:6] for record in system.faults] == [
        ("0000:01:00.0", 0x100000, 4, True, None, "bus master off"),
        ("0000:01:00.0", 0x100000, 4, False, None, "bus master off"),
    ]


def test_a_transfer_of_nothing_is_no_transfer() -> None:
    function = Function()
    system = machine(function).system
    assert function.dma.read(0, 0) == b""
    assert function.dma.write(0, b"")
    assert not system.faults


def test_a_machine_without_a_unit_has_no_groups() -> None:
    system = System()
    topology = Topology(system, None, ManualTimers())
    function = Function()
    topology.plug(function)
    topology.settle()
    assert function.requester.group is None
    assert system.groups == {}
