"""A type 1 container maps the memory of BARs, where a program has mapped them: DMA from device to device."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ioas.host import PAGE_SIZE, DeviceMapping
from ioas.uapi import vfio
from tests.support.group_client import READ, GroupClient, program
from tests.support.models import Rich
from tests.support.vfio_client import CONFIG, refused

IOVA = 0x10_0000
BAR = 0x7E00_0000_0000
"""Where the program has mapped the BAR."""
SIZE = 4 * PAGE_SIZE


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program(Rich(), "edu") as client:
        yield client


@pytest.fixture
def container(client: GroupClient) -> int:
    """A container with both, in which the first one's BAR can be mapped."""
    first, second = client.host.functions
    container = client.container(vfio.VFIO_TYPE1v2_IOMMU, first, second)
    groups = client.fds[-2:]
    device = client.file(client.device(groups[0], first))
    device.write(client.caller, b"\x06\x00", CONFIG + 4)
    client.caller.memory.devices.append(DeviceMapping(BAR, SIZE, device, 0, True))
    return container


def registers(client: GroupClient) -> bytes:
    """The first bytes of the BAR, as the device has them."""
    return next(iter(client.host.functions.values())).bar_read(0, 0, 4)


def test_another_device_reaches_the_registers(client: GroupClient, container: int) -> None:
    client.map(container, BAR, SIZE, IOVA)
    other = list(client.host.functions.values())[1].requester.dma
    assert other.write(IOVA, b"\x01\x02\x03\x04")
    assert registers(client) == other.read(IOVA, 4)
    assert client.unmap(container, IOVA, SIZE) == SIZE
    assert other.read(IOVA, 4) is None


def test_device_memory_is_not_counted_as_locked(client: GroupClient, container: int) -> None:
    client.map(container, BAR, SIZE, IOVA)
    assert client.caller.memory.locked_pages == 0


def test_memory_and_device_memory_stand_side_by_side(client: GroupClient, container: int) -> None:
    memory = client.caller.memory
    memory.map(1, at=BAR - PAGE_SIZE)
    memory.map(2, at=BAR + SIZE)
    memory.write(BAR + SIZE, b"ram")
    client.map(container, BAR - PAGE_SIZE, SIZE + 3 * PAGE_SIZE, IOVA)
    assert memory.locked_pages == 3
    other = list(client.host.functions.values())[1].requester.dma
    assert other.read(IOVA + PAGE_SIZE + SIZE, 3) == b"ram"
    assert other.read(IOVA + PAGE_SIZE, 4) == registers(client)


def test_a_part_of_a_bar_is_mapped_from_where_it_begins(client: GroupClient, container: int) -> None:
    client.map(container, BAR + PAGE_SIZE, 2 * PAGE_SIZE, IOVA)
    domain = list(client.host.functions.values())[1].requester.domain
    assert domain is not None
    assert domain.phys(IOVA + PAGE_SIZE) == (domain.phys(IOVA) or 0) + PAGE_SIZE


def test_a_hole_beside_a_bar_leaves_nothing(client: GroupClient, container: int) -> None:
    with refused(errno.EFAULT):
        client.map(container, BAR, SIZE + PAGE_SIZE, IOVA)
    client.map(container, BAR, SIZE, IOVA)


def test_a_bar_that_does_not_answer_is_not_there(client: GroupClient, container: int) -> None:
    device = client.caller.memory.devices[0].file
    device.write(client.caller, b"\x04\x00", CONFIG + 4)
    with refused(errno.EFAULT):
        client.map(container, BAR, SIZE, IOVA)


def test_a_bar_that_is_mapped_for_reading_is_mapped_for_reading(client: GroupClient, container: int) -> None:
    memory = client.caller.memory
    memory.devices[0] = memory.devices[0]._replace(writable=False)
    with refused(errno.EFAULT):
        client.map(container, BAR, SIZE, IOVA)
    client.map(container, BAR, SIZE, IOVA, READ)


def test_an_iommufd_does_not_map_bars() -> None:
    with program(Rich()) as client:
        group, context = client.open(client.group_of()), client.open("/dev/iommu")
        client.set_container(group, context)
        device = client.file(client.device(group))
        device.write(client.caller, b"\x06\x00", CONFIG + 4)
        client.caller.memory.devices.append(DeviceMapping(BAR, SIZE, device, 0, True))
        with refused(errno.EFAULT):
            client.map(context, BAR, SIZE, IOVA)
