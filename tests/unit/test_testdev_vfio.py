"""testdev under VFIO: interrupts, windows, address spaces, page requests, peers, virtual functions, migration."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import ioas
from ioas.api import Device, Iommufd, SoftHost
from ioas.devices import testdev
from ioas.devices.testdev import (
    BUSY,
    DONE,
    ELEMENT,
    FAIL_NOW,
    FROM_MEMORY,
    MEMORY_SIZE,
    PASID_ON,
    PLAIN_DESTINATION,
    PLAIN_SOURCE,
    START,
    TO_MEMORY,
    TestDevice,
)
from ioas.host import File
from ioas.soft.pci import header, migration as states
from ioas.uapi import iommufd as uapi, vfio
from tests.support.machine import set_command
from tests.support.migration import load, save
from tests.support.vfio_client import MSI, MSIX, Client, bound, counter, eventfds

IOVA = 0x10_0000
LIST = IOVA + 0x8000
BDF = "0000:01:00.0"
TIMEOUT = 60


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
