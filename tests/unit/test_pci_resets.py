"""Resets by function level reset, by power state and by the bus above."""

from __future__ import annotations

import pytest

from ioas.soft.pci import Bar, Capability, Function, Msix, Pcie, PowerManagement, header
from ioas.soft.pci.resets import secondary_bus_reset
from tests.support.machine import machine, map_memory, set_command


class Counting(Function):
    """Counts its resets."""

    mmio = Bar(0, 4096)
    scratch = mmio.register(0)
    resets = 0

    def reset(self) -> None:
        super().reset()
        self.resets += 1


def with_capabilities(*chosen: Capability) -> Counting:
    class Made(Counting):
        capabilities = chosen

    return Made()


@pytest.mark.parametrize(
    ("function", "methods"),
    [
        (Counting(), ("bus",)),
        (with_capabilities(Pcie(flr=True)), ("flr", "bus")),
        (with_capabilities(Pcie(), PowerManagement(no_soft_reset=False)), ("pm", "bus")),
        (with_capabilities(PowerManagement(), Pcie()), ("bus",)),
        (with_capabilities(PowerManagement(no_soft_reset=False), Pcie(flr=True)), ("flr", "pm", "bus")),
    ],
)
def test_methods_are_found_in_the_kernels_order_and_each_resets_the_model(
    function: Counting, methods: tuple[str, ...]
) -> None:
    machine(function)
    assert tuple(function.reset_methods) == methods
    for count, method in enumerate(function.reset_methods, 1):
        function.bar_write(0, 0, b"\x01\x00\x00\x00")
        function.reset_by(method)
        assert (function.resets, function.scratch) == (count, 0)


def test_on_the_root_bus_nothing_resets_a_function_that_cannot_itself() -> None:
    function = Counting()
    machine((function, "0000:00:05.0"))
    assert function.reset_methods == ()
    with pytest.raises(ValueError, match="has no reset method at all"):
        function.reset_by()


def test_a_bus_with_two_functions_is_not_reset_for_one_of_them() -> None:
    first, second = Counting(), Counting()
    topology = machine((first, "0000:01:00.0"), (second, "0000:01:00.1")).topology
    assert first.reset_methods == ()
    secondary_bus_reset(topology.ports["0000:00:01.0"])
    assert (first.resets, second.resets) == (1, 1)


def test_configuration_survives_a_reset_and_decoding_is_on_again() -> None:
    function = with_capabilities(Pcie(flr=True), Msix(4, 0, table=0x800))
    machine(function)
    set_command(function, header.COMMAND_MASTER)
    function.interrupts.enable("msix", 2)
    before, table = function.config.read(0, 256), function.bar_read(0, 0x800, 8)
    function.reset_by("flr")
    assert function.config.read(0, 256) == before
    assert function.bar_read(0, 0x800, 8) == table
    heard: list[int] = []
    function.interrupts.connect("msix", 1, lambda: heard.append(1))
    function.interrupt(1)
    assert heard == [1]


def test_a_reset_by_register_leaves_configuration_as_after_power_on() -> None:
    function = with_capabilities(Pcie(flr=True))
    machine(function)
    offset = function.config.find(0x10)
    assert offset is not None
    function.config.write(offset + 8, b"\x00\x80")
    assert function.resets == 1
    assert function.bar_address(0) == 0
    assert not function.memory_enabled
    assert not function.config.get(offset + 8, 2) & 0x8000, "Initiate Function Level Reset reads as zero"


def test_without_flr_its_bit_does_nothing() -> None:
    function = with_capabilities(Pcie())
    machine(function)
    offset = function.config.find(0x10)
    assert offset is not None
    function.config.write(offset + 8, b"\x00\x80")
    assert function.resets == 0


def test_in_d3hot_nothing_answers_and_nothing_goes_out() -> None:
    function = with_capabilities(PowerManagement())
    system = machine(function).system
    map_memory(system, function, 0)
    offset = function.config.find(0x01)
    assert offset is not None
    function.config.write(offset + 4, b"\x03\x00")
    assert function.bar_read(0, 0, 4) == b"\xff" * 4
    assert function.dma.read(0, 4) is None
    function.config.write(offset + 4, b"\x00\x00")
    assert function.bar_read(0, 0, 4) == bytes(4)
    assert function.dma.read(0, 4) == bytes(4)
    assert function.resets == 0, "No_Soft_Reset is set"


def test_a_held_bus_reset_resets_once() -> None:
    function = Counting()
    topology = machine(function).topology
    port = topology.ports["0000:00:01.0"]
    for _ in range(3):
        port.config.write(header.BRIDGE_CONTROL, b"\x40\x00")
    port.config.write(header.BRIDGE_CONTROL, b"\x00\x00")
    assert function.resets == 1


def test_a_method_that_the_function_lacks_is_an_error_of_the_caller() -> None:
    function = Counting()
    machine(function)
    with pytest.raises(ValueError, match="has no reset method flr"):
        function.reset_by("flr")


def test_a_function_level_reset_in_d3hot_leads_to_d0_and_resets_once() -> None:
    function = with_capabilities(PowerManagement(no_soft_reset=False), Pcie(flr=True))
    machine(function)
    offset = function.config.find(0x01)
    assert offset is not None
    function.config.write(offset + 4, b"\x03\x00")
    function.reinitialise()
    function.config.write(offset + 4, b"\x00\x00")
    assert function.resets == 1
