"""A device's file: binding, what it tells about itself, regions, configuration space, reset."""

from __future__ import annotations

import os
import select

import pytest

from ioas.api import Device, Ioas, Region
from ioas.api.host import BaseHost
from ioas.errors import Busy, InputOutput, InvalidArgument, NotFound, UsageError
from ioas.testing.suite.edu import IDENTIFICATION, IDENTITY, LIVENESS, Edu
from ioas.uapi.vfio import (
    VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_FLAGS_RESET,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
)

COMMAND, MEMORY, BAR_0 = 0x04, 0x02, 0x10
STATUS, CAPABILITY_LIST, CAPABILITIES, MSI = 0x06, 0x10, 0x34, 0x05


def test_the_device_is_one_of_the_host_s(ioas_host: BaseHost, ioas_bdf: str) -> None:
    assert ioas_bdf in ioas_host.devices()
    with ioas_host.device(ioas_bdf) as device:
        assert (device.bdf, device.iommufd) == (ioas_bdf, None)
    with pytest.raises(UsageError, match=r"0000:ff:1f\.7"):
        ioas_host.device("0000:ff:1f.7")


def test_nothing_but_bind_works_before_bind(ioas_host: BaseHost, ioas_bdf: str) -> None:
    with ioas_host.device(ioas_bdf) as device:
        for use in (device.info, device.reset, lambda: device.bar(0), lambda: device.irq("msi"), device.detach):
            with pytest.raises(InvalidArgument):
                use()
        with pytest.raises(UsageError, match="not bound"):
            _ = device.id


def test_a_device_is_bound_once(ioas_host: BaseHost, ioas_device: Device, ioas_space: Ioas) -> None:
    with pytest.raises(InvalidArgument):
        ioas_device.bind(ioas_space.iommufd)
    with ioas_host.device(ioas_device.bdf) as second, pytest.raises((Busy, InvalidArgument)):
        second.bind(ioas_space.iommufd)


def test_a_device_is_bound_to_an_iommufd(ioas_host: BaseHost, ioas_bdf: str) -> None:
    with ioas_host.iommufd() as iommufd, ioas_host.device(ioas_bdf) as device:
        with iommufd.ioas() as space, pytest.raises(InvalidArgument):
            device.attach(space)
        device.bind(iommufd)
        assert device.iommufd is iommufd
        assert device.id > 0


def test_a_device_is_attached_to_what_exists(ioas_device: Device, ioas_space: Ioas) -> None:
    gone = ioas_space.iommufd.ioas()
    ioas_space.iommufd.destroy(gone.id)
    with pytest.raises(NotFound):
        ioas_device.attach(gone)
    gone.forget()


def test_a_device_tells_what_it_is(ioas_device: Device) -> None:
    info = ioas_device.info()
    assert info.flags & VFIO_DEVICE_FLAGS_PCI
    assert info.num_regions >= VFIO_PCI_CONFIG_REGION_INDEX + 1
    assert info.num_irqs >= 5


def test_regions_that_are_there_can_be_read_and_written(ioas_device: Device) -> None:
    regions = ioas_device.regions()
    both = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
    assert regions[-1].index == VFIO_PCI_CONFIG_REGION_INDEX
    assert all(region.flags & both == both for region in regions if region.name != "ROM")
    assert all(region.size & (region.size - 1) == 0 for region in regions)
    with pytest.raises(InvalidArgument):
        ioas_device.region(0x7FFF)


def test_an_access_beyond_a_region_is_a_usage_error(ioas_device: Device) -> None:
    region = ioas_device.config
    for offset, length in ((-1, 1), (region.size, 1), (region.size - 2, 4)):
        with pytest.raises(UsageError, match="outside"):
            region.read(offset, length)
        with pytest.raises(UsageError, match="outside"):
            region.write(offset, bytes(length))


def test_configuration_space_is_read_in_every_width(ioas_device: Device) -> None:
    config = ioas_device.config
    whole = config.read(0, 64)
    assert config.read32(0) == int.from_bytes(whole[0:4], "little")
    assert config.read16(2) == int.from_bytes(whole[2:4], "little")
    assert config.read8(3) == whole[3]
    assert config.read16(0) not in (0, 0xFFFF)


def test_ids_cannot_be_written(ioas_device: Device) -> None:
    config = ioas_device.config
    before = config.read32(0)
    config.write32(0, ~before & 0xFFFF_FFFF)
    assert config.read32(0) == before


def test_the_interrupt_line_is_scratch(ioas_device: Device) -> None:
    config = ioas_device.config
    before = config.read8(0x3C)
    config.write8(0x3C, 0x5A)
    assert config.read8(0x3C) == 0x5A
    config.write8(0x3C, before)


def test_a_bar_is_sized_as_hardware_is(ioas_device: Device) -> None:
    config = ioas_device.config
    size = ioas_device.bar(0).size
    before = config.read32(BAR_0)
    config.write32(BAR_0, 0xFFFF_FFFF)
    assert (~(config.read32(BAR_0) & ~0xF) & 0xFFFF_FFFF) + 1 == size
    config.write32(BAR_0, before)
    assert config.read32(BAR_0) == before


def test_capabilities_are_a_list_that_ends(ioas_device: Device) -> None:
    config = ioas_device.config
    assert config.read16(STATUS) & CAPABILITY_LIST
    found: list[int] = []
    at = config.read8(CAPABILITIES)
    while at:
        assert len(found) < 48
        found.append(config.read8(at))
        at = config.read8(at + 1) & ~3
    assert (MSI in found) == (ioas_device.irq_info("msi").count > 0)


def test_bus_mastering_is_off_at_first_and_can_be_turned_on(ioas_device: Device) -> None:
    assert not ioas_device.bus_master
    ioas_device.bus_master = True
    assert ioas_device.bus_master
    ioas_device.bus_master = False
    assert not ioas_device.bus_master


def test_with_memory_turned_off_registers_do_not_answer(ioas_device: Device) -> None:
    config, registers = ioas_device.config, ioas_device.bar(0)
    config.write16(COMMAND, config.read16(COMMAND) & ~MEMORY)
    for use in (lambda: registers.read32(0), lambda: registers.write32(0, 0)):
        with pytest.raises(InputOutput):
            use()
    config.write16(COMMAND, config.read16(COMMAND) | MEMORY)
    assert len(registers.read(0, 4)) == 4


def test_the_first_bar_reads_at_both_ends(ioas_device: Device) -> None:
    region = ioas_device.bar(0)
    assert len(region.read(0, 4)) == len(region.read(region.size - 4, 4)) == 4


def test_registers_are_read_and_written(edu: Edu) -> None:
    registers = edu.registers
    assert registers.read32(IDENTIFICATION) == IDENTITY
    registers.write32(LIVENESS, 0x1234_5678)
    assert registers.read32(LIVENESS) == 0xEDCB_A987
    registers.write64(0x80, 0x1234)
    assert registers.read64(0x80) == 0x1234
    with pytest.raises(UsageError, match="outside"):
        registers.write32(registers.size - 2, 0)


def test_a_bar_that_is_not_there_is_named(edu: Edu) -> None:
    assert edu.device.region(1).size == 0
    with pytest.raises(UsageError, match="no BAR 1"):
        edu.device.bar(1)


def test_a_device_that_can_be_reset_is_reset(ioas_device: Device) -> None:
    if not ioas_device.info().flags & VFIO_DEVICE_FLAGS_RESET:
        with pytest.raises(InvalidArgument):
            ioas_device.reset()
        return
    ioas_device.config.write8(0x3C, 7)
    ioas_device.reset()
    assert ioas_device.config.read16(0) not in (0, 0xFFFF)
    assert len(ioas_device.bar(0).read(0, 4)) == 4


def test_descriptors_are_files_for_poll_and_fstat(ioas_device: Device, ioas_space: Ioas) -> None:
    for file in (ioas_space.iommufd, ioas_device):
        readable, writable, _ = select.select([file], [file], [], 0)
        assert (readable, writable) == ([file], [file])
        assert os.fstat(file.fileno())
        assert not os.get_inheritable(file.fileno())


def test_a_closed_device_says_so(ioas_host: BaseHost, ioas_bdf: str, ioas_space: Ioas) -> None:
    device = ioas_host.device(ioas_bdf)
    device.bind(ioas_space.iommufd)
    region: Region = device.config
    device.close()
    device.close()
    for use in (device.info, device.fileno, device.hw_info, lambda: region.read16(0), lambda: device.id):
        with pytest.raises(UsageError, match="closed"):
            use()
