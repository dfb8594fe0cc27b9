"""Devices without an IOMMU (VFIO's no-IOMMU mode). Skipped where one stands before the device.

A software machine is made without one. On the running kernel, where a stray DMA would bring the machine down, devices
are opened, bound and attached, and do no DMA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ioas.api import Device, Ioas, PhysicalSpace, SoftHost, Space
from ioas.api.host import BaseHost, Way
from ioas.errors import InvalidArgument, NoDevice, NotFound, NotSupported, Overflow, UnknownRequest, UsageError
from ioas.host import PAGE_SIZE
from ioas.testing.faults import expect_faults
from ioas.testing.hosts import counterpart, is_untranslated
from ioas.testing.suite.edu import IDS, Edu
from ioas.uapi.vfio import VFIO_IOMMU_GET_INFO, VFIO_NOIOMMU_IOMMU, VFIO_TYPE1v2_IOMMU

IOVA = 0x7_0000_0000


@pytest.fixture
def host(request: pytest.FixtureRequest, ioas_host: BaseHost, ioas_soft_host: Callable[..., SoftHost]) -> BaseHost:
    """A machine whose first edu has no IOMMU."""
    if isinstance(ioas_host, SoftHost):
        return ioas_soft_host(["edu"], no_iommu=True, capabilities=["sys_rawio"])
    if not is_untranslated(ioas_host, bdf_of(request, ioas_host)):
        pytest.skip("an IOMMU stands before the device")
    return ioas_host


@pytest.fixture
def bdf(request: pytest.FixtureRequest, host: BaseHost) -> str:
    """The device."""
    return bdf_of(request, host)


def bdf_of(request: pytest.FixtureRequest, host: BaseHost) -> str:
    """The device that the user names, or else an edu."""
    chosen = request.config.getoption("ioas_device")
    if chosen and not isinstance(host, SoftHost):
        return str(chosen)
    try:
        return counterpart(host, "edu")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["cdev", "group"])
def device(request: pytest.FixtureRequest, host: BaseHost, bdf: str) -> Iterator[Device]:
    """The device, bound and attached, by both ways."""
    way: Way = request.param
    with host.device(bdf, via=way) as device:
        yield device


@pytest.fixture
def physical(device: Device) -> Space:
    """What the device reaches: everything."""
    return device.space()


@pytest.fixture
def space(host: BaseHost, bdf: str) -> Iterator[Ioas]:
    """An IOAS to which the device is attached."""
    with host.device(bdf, via="cdev") as device, host.iommufd() as iommufd:
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        yield space


def test_the_device_is_known_to_have_no_iommu(device: Device, physical: Space) -> None:
    assert device.no_iommu
    assert physical.physical


def test_each_page_has_a_physical_address_of_its_own(physical: Space) -> None:
    with physical.alloc(16 * PAGE_SIZE, memory="anonymous") as buffer:
        assert len(set(buffer.pages)) == 16
        assert all(address % PAGE_SIZE == 0 for address in buffer.pages)


def test_a_lookup_goes_as_far_as_memory_is_contiguous_and_as_was_asked_for(space: Ioas) -> None:
    with space.alloc(4 * PAGE_SIZE, iova=IOVA, memory="anonymous") as buffer:
        for offset in (0, 1, PAGE_SIZE, 3 * PAGE_SIZE + 17):
            address, length = space.physical_address(IOVA + offset, 1 << 40)
            assert address == buffer.pages[offset // PAGE_SIZE] + offset % PAGE_SIZE
            assert PAGE_SIZE - offset % PAGE_SIZE <= length <= 4 * PAGE_SIZE - offset
            assert space.physical_address(IOVA + offset, 1) == (address, 1)


def test_a_lookup_of_nothing_is_refused(space: Ioas) -> None:
    with space.alloc(PAGE_SIZE, iova=IOVA):
        with pytest.raises(InvalidArgument):
            space.physical_address(IOVA, 0)
        with pytest.raises(NotFound):
            space.physical_address(IOVA + PAGE_SIZE, 1)
        with pytest.raises(Overflow):
            space.physical_address((1 << 64) - 1, 1)
    with pytest.raises(NotFound):
        space.physical_address(IOVA, 1)


def test_an_address_space_without_the_device_has_no_physical_addresses(space: Ioas) -> None:
    with space.iommufd.ioas() as other, other.alloc(PAGE_SIZE, iova=IOVA), pytest.raises(NotSupported):
        other.physical_address(IOVA, 1)


def test_a_container_without_an_iommu_maps_nothing(host: BaseHost, bdf: str) -> None:
    with host.device(bdf, via="group") as device:
        space = device.space()
        assert isinstance(space, PhysicalSpace)
        container = space.container
        assert container.extension(VFIO_NOIOMMU_IOMMU) == 1
        assert container.extension(VFIO_TYPE1v2_IOMMU) == 0
        with pytest.raises((UnknownRequest, NoDevice)):  # VFIO's own container, or an iommufd in its place
            container.ioctl(VFIO_IOMMU_GET_INFO, bytearray(24))
        with pytest.raises(UsageError, match="addresses are physical"):
            space.alloc(PAGE_SIZE, iova=IOVA)


@pytest.fixture
def edu(host: BaseHost, device: Device, physical: Space) -> Edu:
    """The device as an edu that may do DMA; skips on hardware."""
    found = device.config.read16(0), device.config.read16(2)
    if found != IDS or not isinstance(host, SoftHost):
        pytest.skip("no DMA without an IOMMU but on a software machine")
    return Edu(device)


def test_data_go_from_page_to_page(edu: Edu, physical: Space) -> None:
    with physical.alloc(2 * PAGE_SIZE, writable=True, memory="anonymous") as buffer:
        buffer.view[:5] = b"first"
        edu.load(buffer.pages[0], 5)
        edu.store(buffer.pages[1] + 7, 5)
        assert bytes(buffer.view[PAGE_SIZE + 7 : PAGE_SIZE + 12]) == b"first"


def test_no_dma_reaches_what_is_unmapped(host: BaseHost, edu: Edu, physical: Space) -> None:
    with physical.alloc(PAGE_SIZE, writable=True, memory="anonymous") as buffer:
        where = buffer.pages[0]
    with expect_faults(host, reason="no memory", write=True):
        edu.store(where, 4)
