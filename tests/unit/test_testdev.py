"""testdev does what docs/testdev.md says: windows, interrupts, and a DMA engine with lists."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ioas
from ioas.api import Device, Iommufd, SoftHost
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
    PASID_ON,
    PLAIN_DESTINATION,
    PLAIN_SOURCE,
    SIGNAL,
    START,
    STOPPED,
    TO_MEMORY,
    TestDevice,
)
from ioas.host import File
from ioas.soft.pci import ManualTimers, Register, header, migration as states
from ioas.uapi import iommufd as uapi, vfio
from tests.support.machine import Machine, machine, map_memory, set_command
from tests.support.migration import load, save
from tests.support.ram import Ram, RamBacking
from tests.support.vfio_client import MSI, MSIX, Client, bound, counter, eventfds

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


# Under VFIO.


@pytest.mark.parametrize(("index", "vectors"), [(MSI, 8), (MSIX, 16)])
def test_messages_of_every_vector_arrive(index: int, vectors: int) -> None:
    events = eventfds(vectors)
    with bound("testdev") as client:
        assert client.irq_info(index).count == vectors
        client.trigger(index, *events)
        for vector in range(vectors):
            client.set_bar(TestDevice.raise_vector.offset, vector)
            assert [counter(event) for event in events] == [int(each == vector) for each in range(vectors)]
    for event in events:
        os.close(event)


def test_its_windows_are_what_vfio_says() -> None:
    with bound("testdev") as client:
        sizes = [client.region(index)[0].size for index in range(7)]
        assert sizes == [4096, 0, MEMORY_SIZE, 0, 4096, 32, 2048]
        client.set_config(0x30, 4, client.config(0x30, 4) | 1)
        assert b"ioas test ROM" in client.read(vfio.VFIO_PCI_ROM_REGION_INDEX << 40, 512)
        client.write(2 << 40, b"stored")
        assert client.read(2 << 40, 6) == b"stored"
        client.set_config(4, 2, 7)
        client.write(5 << 40, struct.pack("<I", 0))
        assert client.read((5 << 40) + 4, 4) == b"TEST"


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[tuple[SoftHost, Iommufd, Device]]:
    """A testdev behind a scalable unit, bound, with mastering on."""
    lab = tmp_path / "lab.toml"
    lab.write_text("[iommu]\nscalable = true\n")
    with (
        ioas.SoftHost(devices=["testdev"], machine=lab) as host,
        host.iommufd() as iommufd,
        host.device(BDF) as device,
    ):
        device.bind(iommufd)
        device.bus_master = True
        yield host, iommufd, device


def run(device: Device) -> int:
    """Start the list of one element at LIST, and wait for its message; the status."""
    registers = device.bar(0)
    registers.write64(TestDevice.list_address.offset, LIST)
    registers.write32(TestDevice.list_length.offset, 1)
    with device.irqs("msix", 1) as irqs:
        registers.write32(TestDevice.command.offset, START)
        irqs[0].wait(TIMEOUT)
    return registers.read32(TestDevice.status.offset)


def test_one_list_copies_from_one_address_space_to_another(
    driver: tuple[SoftHost, Iommufd, Device],
) -> None:
    """The list and the source stand in the space of a PASID, the destination in the device's own."""
    _, iommufd, device = driver
    own, other = iommufd.ioas(), iommufd.ioas()
    device.attach(iommufd.hwpt(device, own, pasid=True))
    device.attach(iommufd.hwpt(device, other, pasid=True), 5)
    here = own.alloc(0x10000, writable=True, iova=IOVA)
    there = other.alloc(0x10000, writable=True, iova=IOVA)
    there.view[:4] = b"over"
    there.view[LIST - IOVA : LIST - IOVA + ELEMENT.size] = ELEMENT.pack(IOVA, IOVA, 4, PLAIN_DESTINATION, 0)
    device.bar(0).write32(TestDevice.pasid.offset, PASID_ON | 5)
    assert run(device) == DONE
    assert bytes(here.view[:4]) == b"over"
    here.view[:4] = b"back"
    there.view[LIST - IOVA : LIST - IOVA + ELEMENT.size] = ELEMENT.pack(IOVA, IOVA + 100, 4, PLAIN_SOURCE, 0)
    assert run(device) == DONE
    assert bytes(there.view[100:104]) == b"back"


def test_it_asks_for_the_pages_that_are_missing(driver: tuple[SoftHost, Iommufd, Device]) -> None:
    """First for the list, then for the source."""
    _, iommufd, device = driver
    space, queue = iommufd.ioas(), iommufd.fault_queue()
    table = iommufd.hwpt(device, space, faults=queue)
    device.attach(table)
    registers = device.bar(0)
    registers.write64(TestDevice.list_address.offset, LIST)
    registers.write32(TestDevice.list_length.offset, 1)
    with device.irqs("msix", 1) as irqs:
        registers.write32(TestDevice.command.offset, START)
        [fault] = queue.wait(TIMEOUT)
        assert fault.addr == LIST
        page = space.alloc(4096, writable=True, iova=LIST)
        page.view[: ELEMENT.size] = ELEMENT.pack(IOVA, 0, 4, TO_MEMORY, 0)
        queue.respond(fault.cookie, resolved=True)
        [fault] = queue.wait(TIMEOUT)
        assert fault.addr == IOVA
        space.alloc(4096, writable=True, iova=IOVA).view[:4] = b"page"
        queue.respond(fault.cookie, resolved=True)
        irqs[0].wait(TIMEOUT)
    assert registers.read32(TestDevice.status.offset) == DONE
    device.detach()
    table.close()
    queue.close()


def test_a_page_that_it_waits_for_is_asked_for_again_where_it_goes_on(
    driver: tuple[SoftHost, Iommufd, Device],
) -> None:
    host, iommufd, device = driver
    space, queue = iommufd.ioas(), iommufd.fault_queue()
    with iommufd.hwpt(device, space, faults=queue) as table:
        device.attach(table)
        registers = device.bar(0)
        registers.write64(TestDevice.list_address.offset, LIST)
        registers.write32(TestDevice.list_length.offset, 1)
        registers.write32(TestDevice.command.offset, START)
        queue.wait(TIMEOUT)
        function = host.machine.functions[BDF]
        data = states.save(function)
        device.reset()
        state, length = states.parse(function, data)
        assert state is not None
        assert length == len(data)
        with function.lock:
            state.load()
        [fault] = queue.wait(TIMEOUT)
        assert fault.addr == LIST
        device.detach()
    queue.close()


def test_one_device_writes_into_the_memory_of_another() -> None:
    with bound("testdev", "testdev") as client:
        peer = client.open("/dev/vfio/devices/vfio1")
        client.bind(peer)
        peer.write(client.caller, b"\x06\x00", (7 << 40) + 4)
        space = client.ioas()
        client.attach(space)
        buffer = export(client, peer)
        fields = {"flags": 7, "ioas_id": space, "fd": buffer, "start": 0, "length": MEMORY_SIZE, "iova": IOVA}
        client.call(uapi.IOMMU_IOAS_MAP_FILE, uapi.iommu_ioas_map_file(size=40, **fields), client.iommufd)
        os.close(buffer)
        device = client.host.functions[BDF]
        assert isinstance(device, TestDevice)
        device.memory[:4] = b"peer"
        with device.lock:
            device._move(0, IOVA + 0x100, 4, FROM_MEMORY)
        other = client.host.functions["0000:02:00.0"]
        assert isinstance(other, TestDevice)
        assert bytes(other.memory[0x100:0x104]) == b"peer"
        client.detach()
        peer.close()


def export(client: Client, file: File) -> int:
    """A dma-buf of the memory of a testdev."""
    number = vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_DMA_BUF
    request = struct.pack("IIIIIIQQ", 40, number, 2, os.O_CLOEXEC, 0, 1, 0, MEMORY_SIZE)
    return file.ioctl(client.caller, vfio.VFIO_DEVICE_FEATURE, bytearray(request))


def test_a_list_goes_on_in_another_testdev() -> None:
    with bound("testdev") as client, bound(TestDevice()) as there:
        device = client.host.functions[BDF]
        assert isinstance(device, TestDevice)
        device.memory[:5] = b"taken"
        client.set_bar(TestDevice.delay.offset, 1_000_000_000)
        client.set_bar(TestDevice.list_length.offset, 2)
        client.set_bar(TestDevice.command.offset, START)
        load(there, save(client))
        other = there.host.functions[BDF]
        assert isinstance(other, TestDevice)
        [timer] = other.running_timers
        assert timer.action == other._fetch
        assert 0 < timer.left <= 1000
        assert (other.status, bytes(other.memory[:5])) == (BUSY, b"taken")


def test_a_virtual_function_goes_on_as_another_one() -> None:
    with ioas.SoftHost(devices=["testdev"]) as host:
        host.machine.tree.write(f"/sys/bus/pci/devices/{BDF}/sriov_numvfs", b"2\n")
        one, other = (function for bdf, function in sorted(host.machine.functions.items()) if bdf != BDF)
        for function in (one, other):
            set_command(function, header.COMMAND_MEMORY | header.COMMAND_MASTER)
        one.bar_write(0, 0, b"mine")
        state, _ = states.parse(other, states.save(one))
        assert state is not None
        state.load()
        assert other.bar_read(0, 0, 4) == b"mine"


def test_a_program_sees_it_die_and_brings_it_back() -> None:
    with bound("testdev") as client:
        client.set_bar(TestDevice.fail.offset, FAIL_NOW)
        assert client.bar(0) == 0xFFFFFFFF
        client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)
        assert client.bar(0) == testdev.IDENTIFICATION
