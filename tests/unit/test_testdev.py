"""testdev does what docs/testdev.md says: windows, interrupts, and a DMA engine with lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from ioas.devices import testdev
from ioas.devices.testdev import (
    ABORT,
    ABORTED,
    BUSY,
    DONE,
    ELEMENT,
    FAIL_IN_RESET,
    FAIL_LATER,
    FAIL_NOW,
    FROM_MEMORY,
    LONGEST,
    MEMORY_SIZE,
    SIGNAL,
    START,
    STOPPED,
    TO_MEMORY,
    TestDevice,
)
from ioas.soft.pci import ManualTimers, Register
from tests.support.machine import Machine, machine, map_memory
from tests.support.ram import Ram, RamBacking

PAGE = (Path(__file__).parents[2] / "docs/testdev.md").read_text()
IOVA = 0x10_0000
LIST = IOVA + 0x8000
BDF = "0000:01:00.0"
TIMEOUT = 60
DELAY = 1000


class Rig(NamedTuple):
    """A testdev with 64 KiB of memory at IOVA, and time moved by hand."""

    device: TestDevice
    bench: Machine
    ram: Ram

    @property
    def timers(self) -> ManualTimers:
        return self.bench.timers

    def put(self, iova: int, data: bytes) -> None:
        RamBacking(self.ram).write(iova - IOVA, data)

    def get(self, iova: int, length: int) -> bytes:
        return RamBacking(self.ram).read(iova - IOVA, length)

    def write(self, register: Register, value: int) -> None:
        self.device.bar_write(register.bar, register.offset, value.to_bytes(register.width, "little"))

    def read(self, register: Register) -> int:
        return int.from_bytes(self.device.bar_read(register.bar, register.offset, register.width), "little")

    def start(self, *elements: tuple[int, int, int, int], zero: int = 0) -> None:
        """Write a list of (source, destination, bytes, flags) and start it."""
        self.put(LIST, b"".join(ELEMENT.pack(*element, zero) for element in elements))
        self.write(TestDevice.list_address, LIST)
        self.write(TestDevice.list_length, len(elements))
        self.write(TestDevice.command, START)

    def run(self, *elements: tuple[int, int, int, int], zero: int = 0) -> int:
        """The same; the status when it is over."""
        self.start(*elements, zero=zero)
        self.timers.advance(1)
        return self.read(TestDevice.status)


@pytest.fixture
def rig() -> Rig:
    device = TestDevice(pri=False)
    bench = machine(device)
    return Rig(device, bench, map_memory(bench.system, device, IOVA))


def test_the_data_sheet_lists_the_registers_as_they_are() -> None:
    rows = re.findall(r"^\| 0x(\w+) \| `(\w+)` \| (\d) \| (\w+) \|", PAGE, re.MULTILINE)
    listed = [(int(offset, 16), name, int(width), access) for offset, name, width, access in rows]
    declared = [
        (each.offset, each.name, each.width, each.access)
        for each in TestDevice._declared.registers
        if each.bar == TestDevice.mmio.index
    ]
    assert listed == sorted(declared)


def test_it_has_every_capability_that_there_is() -> None:
    from ioas.soft.pci import capabilities

    kinds = {getattr(capabilities, name) for name in capabilities.__all__} - {capabilities.Capability}
    assert {type(each) for each in TestDevice.capabilities} == kinds


def test_a_list_copies_between_memories(rig: Rig) -> None:
    rig.put(IOVA, b"first")
    outcome = rig.run(
        (IOVA, 0x100, 5, TO_MEMORY),
        (0x100, 0x200, 5, FROM_MEMORY | TO_MEMORY),
        (0x200, IOVA + 0x1000, 5, FROM_MEMORY),
        (IOVA + 0x1000, IOVA + 0x2FFE, 5, 0),
    )
    assert outcome == DONE
    assert rig.get(IOVA + 0x2FFE, 5) == b"first"
    assert bytes(rig.device.memory[0x200:0x205]) == b"first"
    assert (rig.read(TestDevice.elements_done), rig.read(TestDevice.bytes_moved)) == (4, 20)


def test_an_empty_list_is_done_at_once(rig: Rig) -> None:
    assert rig.run() == DONE


def test_each_element_takes_the_delay(rig: Rig) -> None:
    rig.write(TestDevice.delay, DELAY)
    rig.start((0, IOVA, 1, FROM_MEMORY), (0, IOVA, 1, FROM_MEMORY))
    for done in range(2):
        assert (rig.read(TestDevice.status), rig.read(TestDevice.elements_done)) == (BUSY, done)
        rig.timers.advance(DELAY * 1e-6)
    assert rig.read(TestDevice.status) == DONE


def test_an_abort_ends_a_list_between_elements(rig: Rig) -> None:
    rig.write(TestDevice.delay, DELAY)
    rig.start((0, IOVA, 1, FROM_MEMORY))
    rig.write(TestDevice.command, ABORT)
    rig.timers.advance(1)
    assert (rig.read(TestDevice.status), rig.read(TestDevice.elements_done)) == (ABORTED, 0)


def test_a_start_while_it_is_busy_does_nothing(rig: Rig) -> None:
    rig.write(TestDevice.delay, DELAY)
    rig.start((0, IOVA, 1, FROM_MEMORY))
    rig.write(TestDevice.command, START)
    assert len(rig.device.running_timers) == 1


@pytest.mark.parametrize(
    ("element", "address"),
    [
        ((0x9000_0000, 0, 4, TO_MEMORY), 0x9000_0000),
        ((0, 0x9000_0000, 4, FROM_MEMORY), 0x9000_0000),
    ],
)
def test_a_transfer_that_is_stopped_ends_the_list_and_says_where(
    rig: Rig, element: tuple[int, int, int, int], address: int
) -> None:
    assert rig.run((0, IOVA, 1, FROM_MEMORY), element, (0, IOVA, 1, FROM_MEMORY)) == STOPPED
    assert rig.read(TestDevice.fault_address) == address
    assert rig.read(TestDevice.elements_done) == 1


@pytest.mark.parametrize(
    ("element", "zero"),
    [
        ((0, IOVA, 1, FROM_MEMORY), 1),
        ((0, IOVA, LONGEST + 1, 0), 0),
        ((MEMORY_SIZE - 1, IOVA, 2, FROM_MEMORY), 0),
        ((IOVA, MEMORY_SIZE, 1, TO_MEMORY), 0),
    ],
)
def test_a_malformed_element_ends_the_list_at_its_own_address(
    rig: Rig, element: tuple[int, int, int, int], zero: int
) -> None:
    assert rig.run(element, zero=zero) == STOPPED
    assert rig.read(TestDevice.fault_address) == LIST
    assert "malformed" in rig.device.incidents[-1].what


def test_events_say_what_has_happened_and_hold_the_line(rig: Rig) -> None:
    assert rig.run((0, IOVA, 1, FROM_MEMORY | SIGNAL)) == DONE
    assert rig.read(TestDevice.events) == BUSY | DONE
    rig.write(TestDevice.events, BUSY)
    assert rig.device.interrupts.asserted
    rig.write(TestDevice.events, DONE)
    assert not rig.device.interrupts.asserted


def test_the_ports_reach_the_registers(rig: Rig) -> None:
    rig.write(TestDevice.index, TestDevice.scratch.offset + 4)
    rig.write(TestDevice.data, 0x12345678)
    assert rig.read(TestDevice.scratch) == 0x12345678 << 32
    rig.write(TestDevice.index, TestDevice.identification.offset)
    assert rig.read(TestDevice.data) == testdev.IDENTIFICATION
    rig.write(TestDevice.index, 0xFFF0)
    assert rig.read(TestDevice.data) == 0xFFFFFFFF


def test_it_fails_when_it_is_told_to(rig: Rig) -> None:
    rig.write(TestDevice.fail, FAIL_NOW)
    assert rig.device.failure
    rig.device.reset_by()
    rig.write(TestDevice.fail, FAIL_LATER)
    assert rig.device.failure is None
    rig.timers.advance(1)
    assert rig.device.failure
    rig.device.reset_by()
    rig.write(TestDevice.fail, FAIL_IN_RESET)
    rig.device.reset_by("flr")
    assert rig.device.failure
    rig.device.reset_by()
    assert rig.device.failure is None


def test_a_reset_clears_registers_and_memory_and_ends_a_list(rig: Rig) -> None:
    rig.device.memory[:4] = b"left"
    rig.write(TestDevice.delay, DELAY)
    rig.start((0, IOVA, 1, FROM_MEMORY))
    rig.device.reset_by("flr")
    rig.timers.advance(1)
    assert bytes(rig.device.memory[:4]) == bytes(4)
    assert rig.read(TestDevice.status) == 0
    assert rig.get(IOVA, 1) == b"\0"
