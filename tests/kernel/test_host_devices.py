"""Devices through `KernelHost`: every way to them, DMA by every kind of memory, registers in the program's memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import ioas
from ioas.api import Container, ContainerSpace, Device, GroupDevice, MappedRegion, Memory, PhysicalSpace
from ioas.api.host import Way
from ioas.api.memory import HUGE_PAGE, MemoryKind
from ioas.errors import AlreadyExists, InputOutput, InvalidArgument, NotFound, UnknownRequest, UsageError
from ioas.testing.suite.edu import IDENTITY, IOVA, PATIENCE, Edu
from tests.support.kernel_host import IGB, address, edu_address, low_page

HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
PAGE = 4096
_COMMAND, _MEMORY = 4, 1 << 1


@pytest.fixture
def host() -> Iterator[ioas.KernelHost]:
    with ioas.KernelHost() as host:
        yield host
    assert host.caller.held() == {}


@pytest.fixture
def device(host: ioas.KernelHost) -> Iterator[Device]:
    with host.device(edu_address(host)) as device:
        device.space()
        yield device


@pytest.fixture
def container(host: ioas.KernelHost) -> Iterator[tuple[Container, Device]]:
    with host.container() as container, host.device(edu_address(host), via="group") as device:
        device.bind(container)
        yield container, device


@pytest.mark.guests("iommu", "noiommu", "iommufd-container")
@pytest.mark.parametrize("via", ["cdev", "group"])
def test_one_driver_runs_by_every_way_to_a_device(host: ioas.KernelHost, via: Way, guest_variant: str) -> None:
    with host.device(edu_address(host), via=via) as device, ExitStack() as rest:
        space = device.space()
        assert space.physical == device.no_iommu == (guest_variant == "noiommu")
        edu, page = Edu(device), low_page(space, rest)
        page.view[:8] = b"one way!"
        with device.irq("msi") as irq:
            edu.load(page.iova, 8)
            page.view[:8] = bytes(8)
            edu.store(page.iova, 8)
            edu.interrupt()
            assert irq.wait(PATIENCE) == 1
        assert page.view[:8] == b"one way!"


@pytest.mark.guests("iommu", "noiommu", "iommufd-container")
def test_without_a_wish_the_newest_way_is_taken(host: ioas.KernelHost) -> None:
    with host.device(edu_address(host)) as device:
        assert device.path.startswith("/dev/vfio/devices/")
        with pytest.raises(UsageError, match="ways are cdev and group"):
            host.device(device.bdf, via="pci")  # type: ignore[arg-type]


@pytest.mark.guests("noiommu")
@pytest.mark.parametrize("via", ["cdev", "group"])
def test_without_an_iommu_addresses_are_physical(host: ioas.KernelHost, via: Way) -> None:
    with host.device(edu_address(host), via=via) as device:
        space = device.space()
        with space.alloc(64 * PAGE, memory="anonymous") as scattered:
            assert len(set(scattered.pages)) == 64
            assert host.physical.runs(scattered.memory.address, PAGE) == [(scattered.pages[0], PAGE)]
        HUGE_PAGES.write_text("2")
        with space.alloc(64 * PAGE) as huge:
            assert huge.memory.kind == "hugetlb"
            assert list(huge.pages)[:64] == list(range(huge.iova, huge.iova + 64 * PAGE, PAGE))
        HUGE_PAGES.write_text("0")


@pytest.mark.guests("noiommu")
def test_a_container_without_an_iommu_maps_nothing_and_takes_no_wishes(host: ioas.KernelHost) -> None:
    with host.device(edu_address(host), via="group") as device:
        space = device.space()
        assert isinstance(space, PhysicalSpace)
        with pytest.raises(UsageError, match="addresses are physical"):
            space.alloc(PAGE, iova=IOVA)
        with pytest.raises(NotFound):
            space.unmap(0x1000, PAGE)
        locked = host.caller.memory.locked_pages
        with space.alloc(PAGE):
            assert host.caller.memory.locked_pages == locked + 1
        assert host.caller.memory.locked_pages == locked


@pytest.mark.guests("iommu", "iommufd-container")
@pytest.mark.parametrize("via", ["cdev", "group"])
@pytest.mark.parametrize("kind", ["anonymous", "hugetlb", "memfd"])
def test_devices_reach_every_kind_of_memory(host: ioas.KernelHost, via: Way, kind: MemoryKind) -> None:
    if kind == "hugetlb":
        HUGE_PAGES.write_text("2")
    with host.device(edu_address(host), via=via) as device:
        space, edu = device.space(), Edu(device)
        with space.alloc(PAGE, writable=True, iova=HUGE_PAGE, memory=kind) as buffer:
            buffer.view[:4] = b"kind"
            edu.load(buffer.iova, 4)
            edu.store(buffer.iova + 100, 4)
            assert buffer.view[100:104] == b"kind"
            assert buffer.mapping.length == (HUGE_PAGE if kind == "hugetlb" else PAGE)
    HUGE_PAGES.write_text("0")


def test_pages_are_pinned_while_they_are_mapped(host: ioas.KernelHost, device: Device) -> None:
    with host.iommufd() as iommufd, Memory(16 * PAGE) as memory:
        device.close()
        with host.device(device.bdf) as again:
            again.bind(iommufd)
            space = iommufd.ioas()
            again.attach(space)
            before = host.caller.memory.pinned_pages
            mapping = space.map(memory)
            assert host.caller.memory.pinned_pages == before + 16
            mapping.close()
            assert host.caller.memory.pinned_pages == before


def test_registers_stand_in_the_programs_memory(device: Device) -> None:
    region = device.bar(0)
    assert isinstance(region, MappedRegion)
    assert region.read32(0) == IDENTITY
    assert region.mapped
    region.write32(4, 0x1234_5678)
    assert region.read32(4) == 0xEDCB_A987
    region.write64(0x80, 0x1_2345)
    assert region.read64(0x80) == 0x1_2345
    view = region.view(4)
    assert view[0] == IDENTITY
    assert region is device.bar(0)
    device.close()
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(UsageError, match="closed"):
        region.read32(0)


def test_a_register_is_read_by_one_load_and_written_without_being_read(host: ioas.KernelHost) -> None:
    icr, ics, cause = 0xC0, 0xC8, 1 << 2  # of QEMU's igb: reading ICR clears it, writing ICS sets causes in it
    with host.device(address(host, IGB)) as device:
        device.space()
        region = device.bar(0)
        region.read32(icr)
        assert region.mapped
        for _ in range(3):
            region.write32(ics, cause)
            assert region.read32(icr) & cause
            assert not region.read32(icr) & cause
            region.write32(ics, cause)
            region.write32(icr, 0)
            assert region.read32(icr) & cause


@pytest.mark.parametrize("offset", [-4, 1 << 20, (1 << 20) - 2, 1 << 70])
def test_offsets_outside_a_region_are_refused(device: Device, offset: int) -> None:
    region = device.bar(0)
    for access in (lambda: region.read32(offset), lambda: region.write32(offset, 0)):
        with pytest.raises(UsageError, match="outside"):
            access()
    for value in (-1, 1 << 32):
        with pytest.raises(UsageError, match="value"):
            region.write32(4, value)


def test_a_region_that_does_not_answer_is_an_error_and_no_signal(device: Device) -> None:
    region, config = device.bar(0), device.config
    assert region.read32(0) == IDENTITY
    command = config.read16(_COMMAND)
    config.write16(_COMMAND, command & ~_MEMORY)
    for access in (lambda: region.read32(0), lambda: region.write32(4, 0)):
        with pytest.raises(InputOutput):
            access()
    with pytest.raises(UsageError, match="cannot be had"):
        region.view(4)
    config.write16(_COMMAND, command)
    assert region.read32(0) == IDENTITY
    assert region.mapped
    device.reset()
    assert region.read32(0) == IDENTITY


@pytest.mark.guests("iommu", "iommufd-container")
def test_a_container_serves_several_groups_with_one_space(host: ioas.KernelHost) -> None:
    with host.container() as container:
        with pytest.raises(UsageError, match="before a device is bound"):
            container.ioas()
        edu, igb = (host.device(bdf, via="group") for bdf in (edu_address(host), address(host, IGB)))
        edu.bind(container)
        space = container.ioas()
        buffer = space.alloc(PAGE)
        igb.bind(container)
        assert igb.attach(space) == edu.attach(space) == 0
        assert container.kind == "type1v2"
        assert isinstance(edu, GroupDevice)
        assert edu.group.viable
        edu.close()
        assert buffer.mapping.mapped
        igb.close()
        assert not buffer.mapping.mapped
        assert container.kind is None
        with pytest.raises(UsageError, match="last group"):
            space.alloc(PAGE)


@pytest.mark.guests("iommu", "iommufd-container")
def test_a_container_maps_as_an_ioas_does(container: tuple[Container, Device]) -> None:
    space = container[0].ioas()
    assert isinstance(space, ContainerSpace)
    assert space.alignment == PAGE
    assert space.ranges()[0].last == 0xFEDF_FFFF
    with space.alloc(PAGE, iova=IOVA), pytest.raises(AlreadyExists, match="0x100000-0x100fff"):
        space.alloc(PAGE, iova=IOVA)
    for wrong in ({"iova": 0xFEE0_0000}, {"iova": 1}, {"readable": False}):
        with pytest.raises(InvalidArgument):
            space.alloc(PAGE, **wrong)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        space.unmap(IOVA, PAGE)
    buffers = [space.alloc(PAGE) for _ in range(50)]
    assert len({buffer.iova for buffer in buffers}) == 50
    assert space.unmap_all() == 50 * PAGE
    assert not any(buffer.mapping.mapped for buffer in buffers)


@pytest.mark.guests("iommu", "iommufd-container")
def test_a_container_of_vfios_own_tells_dirty_pages(container: tuple[Container, Device], guest_variant: str) -> None:
    space = container[0].ioas()
    assert isinstance(space, ContainerSpace)
    space.alloc(4 * PAGE, writable=True, iova=IOVA)
    if guest_variant == "iommufd-container":  # iommufd does not emulate that
        with pytest.raises(UnknownRequest):
            space.track_dirty(True)
        return
    assert container[0].info().dirty_page_sizes == PAGE
    space.track_dirty(True)
    assert space.dirty(IOVA, 4 * PAGE) == b"\x0f"
    space.track_dirty(False)


def test_nothing_stays_open(host: ioas.KernelHost) -> None:
    before = os.listdir("/proc/self/fd")
    for via in ("cdev", "group"):
        with host.device(edu_address(host), via=via) as device:  # type: ignore[arg-type]
            device.space().alloc(PAGE, memory="memfd").close()
            device.bar(0).read32(0)
            device.irqs("msi", 1).close()
    assert os.listdir("/proc/self/fd") == before
