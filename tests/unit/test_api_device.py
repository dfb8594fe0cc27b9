"""Devices through the API: binding, registers, configuration space, reset (`ioas.api.device`)."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ioas.api import SoftHost
from ioas.errors import Busy, EnvironmentRefusal, InvalidArgument, KernelError, UsageError
from ioas.host import PAGE_SIZE
from tests.support.room import BDF, IOVA, Room, descriptors, opened, to_memory


@pytest.fixture
def room() -> Iterator[Room]:
    with opened() as room:
        yield room


def test_a_host_knows_its_devices() -> None:
    with SoftHost(["edu", "edu,addr=0000:07:00.0"]) as host:
        assert host.devices() == ["0000:01:00.0", "0000:07:00.0"]
        with pytest.raises(UsageError, match="no PCI device"):
            host.device("0000:09:00.0")


def test_nothing_but_bind_works_before_bind() -> None:
    with SoftHost() as host, host.device(BDF) as device:
        for use in (device.info, device.reset, lambda: device.bar(0), lambda: device.irq("msi")):
            with pytest.raises(InvalidArgument):
                use()
        with pytest.raises(UsageError, match="not bound"):
            _ = device.id


def test_a_device_is_bound_once(room: Room) -> None:
    with pytest.raises(InvalidArgument):
        room.device.bind(room.iommufd)
    with room.host.device(BDF) as second, pytest.raises((Busy, InvalidArgument)):
        second.bind(room.iommufd)


def test_regions_are_those_of_the_device(room: Room) -> None:
    assert room.device.info().num_regions == 9
    assert [(region.name, region.size) for region in room.device.regions()] == [("BAR 0", 1 << 20), ("config", 256)]
    with pytest.raises(UsageError, match="no BAR 1"):
        room.device.bar(1)
    with pytest.raises(InvalidArgument):
        room.device.region(99)


def test_registers_are_read_and_written_in_all_widths(room: Room) -> None:
    registers, config = room.registers, room.device.config
    assert registers.read32(0) == 0x010000ED
    registers.write32(4, 0x12345678)
    assert registers.read32(4) == 0xEDCBA987
    registers.write64(0x80, 0x1234)
    assert registers.read64(0x80) == 0x1234
    assert (config.read16(0), config.read8(0)) == (0x1234, 0x34)
    config.write8(0x3C, 9)
    assert config.read8(0x3C) == 9
    assert config.read(0, 4) == b"\x34\x12\xe8\x11"


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (1 << 20, 1), ((1 << 20) - 2, 4)])
def test_an_access_outside_a_region_is_a_usage_error(room: Room, offset: int, length: int) -> None:
    with pytest.raises(UsageError, match="outside"):
        room.registers.read(offset, length)
    with pytest.raises(UsageError, match="outside"):
        room.registers.write(offset, bytes(length))


def test_with_memory_turned_off_registers_do_not_answer(room: Room) -> None:
    config = room.device.config
    config.write16(4, config.read16(4) & ~2)
    with pytest.raises(KernelError, match="EIO"):
        room.registers.read32(0)
    config.write16(4, config.read16(4) | 2)


def test_bus_mastering_is_off_at_first_and_off_again_after_reset() -> None:
    with SoftHost() as host, host.iommufd() as iommufd, host.device(BDF) as device:
        device.bind(iommufd)
        assert not device.bus_master
        device.bus_master = True
        assert device.bus_master
        device.bus_master = False
        assert not device.bus_master


def test_without_bus_mastering_no_dma_leaves_the_device(room: Room) -> None:
    room.device.bus_master = False
    with room.space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as dma:
        dma.view[:4] = b"keep"
        to_memory(room, IOVA, 16)
        assert dma.view[:4] == b"keep"
    assert [fault.reason for fault in room.host.faults()] == ["bus master off"]


def test_a_detached_device_reaches_nothing(room: Room) -> None:
    with room.space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as dma:
        dma.view[:4] = b"keep"
        room.device.detach()
        to_memory(room, IOVA, 16)
        assert dma.view[:4] == b"keep"
        assert [fault.reason for fault in room.host.faults()] == ["blocked"]
        room.device.attach(room.space)
        to_memory(room, IOVA, 16)
        assert dma.view[:4] == bytes(4)


def test_a_device_moves_from_one_address_space_to_another(room: Room) -> None:
    other = room.iommufd.ioas()
    with room.space.alloc(16, writable=True, iova=IOVA) as first, other.alloc(16, writable=True, iova=IOVA) as second:
        first.view[:] = second.view[:] = b"x" * 16
        room.device.attach(other)
        to_memory(room, IOVA, 16)
        assert (bytes(first.view), bytes(second.view)) == (b"x" * 16, bytes(16))
        room.device.detach()


def test_a_reset_is_carried_out(room: Room) -> None:
    room.device.reset()
    assert room.registers.read32(0) == 0x010000ED


def test_descriptors_are_real(room: Room) -> None:
    for file in (room.iommufd, room.device):
        readable, writable, _ = select.select([file], [file], [], 0)
        assert (readable, writable) == ([file], [file])
        os.fstat(file.fileno())


def test_a_bound_device_keeps_the_iommufd_alive() -> None:
    with SoftHost() as host:
        iommufd, device = host.iommufd(), host.device(BDF)
        device.bind(iommufd)
        iommufd.close()
        assert device.bar(0).read32(0) == 0x010000ED
        device.close()
        assert host.machine.leaks() == {}


def test_a_duplicate_of_a_descriptor_keeps_the_file_as_in_the_kernel() -> None:
    with SoftHost() as host, host.iommufd() as iommufd:
        device = host.device(BDF)
        device.bind(iommufd)
        duplicate = os.dup(device.fileno())
        device.close()
        with host.device(BDF) as second, pytest.raises((Busy, InvalidArgument)):
            second.bind(iommufd)
        os.close(duplicate)
        with host.device(BDF) as third:
            third.bind(iommufd)


def test_closing_the_host_closes_what_is_still_open() -> None:
    before = descriptors()
    host = SoftHost()
    iommufd, device = host.iommufd(), host.device(BDF)
    device.bind(iommufd)
    device.attach(iommufd.ioas())
    device.bus_master = True
    irq = device.irq("msi")
    host.close()
    host.close()
    irq.close()
    assert device.closed
    assert iommufd.closed
    assert descriptors() == before


def test_a_file_that_is_forgotten_is_closed_with_a_warning() -> None:
    with SoftHost() as host:
        with pytest.warns(ResourceWarning, match="unclosed <Iommufd /dev/iommu>"):
            host.iommufd()
        assert host.machine.leaks() == {}


FORKS = """
import os, sys
from ioas import SoftHost
from ioas.errors import EnvironmentRefusal
with SoftHost() as host, host.iommufd() as iommufd:
    space = iommufd.ioas()
    if os.fork() == 0:
        try:
            space.ranges()
        except EnvironmentRefusal as error:
            print("refused:", error)
            os._exit(0)
        os._exit(1)
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_forked_child_is_refused_clearly() -> None:
    done = subprocess.run([sys.executable, "-u", "-c", FORKS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ioas run" in done.stdout
    assert issubclass(EnvironmentRefusal, Exception)
