"""The older way to a device: groups, and a container whose mappings are theirs. Skipped where a host has no groups."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from ioas.api import Container, Device, Ioas
from ioas.api.container_space import ContainerSpace
from ioas.api.host import BaseHost
from ioas.errors import AlreadyExists, Busy, InvalidArgument, NotFound, UsageError
from ioas.host import PAGE_SIZE
from ioas.testing.faults import expect_faults
from ioas.testing.suite.edu import IDS, IOVA, PATIENCE, Edu

KEPT = b"kept" * 4


@pytest.fixture
def container(ioas_host: BaseHost) -> Iterator[Container]:
    """An open /dev/vfio/vfio."""
    with ioas_host.container() as container:
        yield container


@pytest.fixture
def device(ioas_host: BaseHost, ioas_bdf: str, container: Container) -> Iterator[Device]:
    """The device by way of its group, in `container`."""
    try:
        device = ioas_host.device(ioas_bdf, via="group")
    except (NotFound, UsageError) as error:
        pytest.skip(f"no VFIO group: {error}")
    with device:
        device.bind(container)
        yield device


@pytest.fixture
def space(container: Container, device: Device) -> ContainerSpace:
    """What the container maps."""
    space = container.ioas()
    if not isinstance(space, ContainerSpace):
        pytest.skip("no IOMMU stands in front of the device")
    return space


@pytest.fixture
def edu(device: Device, space: ContainerSpace) -> Edu:
    """The device, as an edu that may do DMA."""
    if (device.config.read16(0), device.config.read16(2)) != IDS:
        pytest.skip(f"needs an edu device, and {device.bdf} is none")
    return Edu(device)


def test_a_container_tells_its_version_and_refuses_work_without_a_group(container: Container) -> None:
    assert container.api_version == 0
    with pytest.raises(UsageError):
        container.ioas()


def test_ranges_are_those_of_an_ioas(
    ioas_host: BaseHost, ioas_bdf: str, container: Container, device: Device, space: ContainerSpace
) -> None:
    ranges = space.ranges()
    device.close()
    container.close()
    with ioas_host.iommufd() as iommufd, ioas_host.device(ioas_bdf) as again, iommufd.ioas() as other:
        again.bind(iommufd)
        again.attach(other)
        assert other.ranges() == ranges
        again.detach()


def test_a_group_is_in_use_once(ioas_host: BaseHost, ioas_bdf: str, device: Device, ioas_space: Ioas) -> None:
    with ioas_host.device(ioas_bdf) as again, pytest.raises((Busy, InvalidArgument)):
        again.bind(ioas_space.iommufd)


def test_a_device_answers(device: Device) -> None:
    assert device.config.read16(0) not in (0, 0xFFFF)
    assert len(device.bar(0).read(0, 4)) == 4


def test_data_go_to_the_device_and_come_back(edu: Edu, space: ContainerSpace) -> None:
    with space.alloc(2 * PAGE_SIZE, writable=True, iova=IOVA) as buffer:
        buffer.view[: len(KEPT)] = KEPT
        edu.load(IOVA, len(KEPT))
        edu.store(IOVA + PAGE_SIZE, len(KEPT))
        assert buffer.view[PAGE_SIZE : PAGE_SIZE + len(KEPT)] == KEPT


def test_nothing_lands_after_unmapping(edu: Edu, ioas_host: BaseHost, space: ContainerSpace) -> None:
    memory = mmap.mmap(-1, PAGE_SIZE)
    space.map(memory, iova=IOVA).close()
    memory[: len(KEPT)] = KEPT
    with expect_faults(ioas_host, iova=IOVA, write=True):
        edu.store(IOVA, len(KEPT))
    assert memory[: len(KEPT)] == KEPT
    memory.close()


def test_mappings_do_not_overlap(space: ContainerSpace) -> None:
    with space.alloc(2 * PAGE_SIZE, iova=IOVA), pytest.raises(AlreadyExists):
        space.alloc(PAGE_SIZE, iova=IOVA + PAGE_SIZE)


def test_automatic_iovas_are_apart(space: ContainerSpace) -> None:
    with space.alloc(PAGE_SIZE) as one, space.alloc(3 * PAGE_SIZE) as other:
        assert one.mapping.last < other.iova or other.mapping.last < one.iova


def test_interrupts_come(edu: Edu) -> None:
    with edu.device.irq("msi") as irq:
        edu.interrupt()
        assert irq.wait(PATIENCE) == 1
        assert edu.acknowledge() == 1
