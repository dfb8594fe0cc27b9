"""Containers of VFIO's own: /dev/vfio/vfio (drivers/vfio/container.c, 7.3)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ioas.errors import UsageError
from ioas.soft.host import SoftHost
from ioas.uapi import vfio
from tests.support.group_client import GroupClient, program
from tests.support.vfio_client import refused

NODE = "/dev/vfio/vfio"


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program(container="vfio") as client:
        yield client


@pytest.fixture
def container(client: GroupClient) -> int:
    return client.open(NODE)


def test_a_container_tells_its_version(client: GroupClient, container: int) -> None:
    assert client.ioctl(container, vfio.VFIO_GET_API_VERSION) == 0
    assert client.ioctl(container, vfio.VFIO_CHECK_EXTENSION, 1000) == 0


def test_nothing_works_before_a_driver_is_chosen(client: GroupClient, container: int) -> None:
    """Reported by users of real systems: MAP before SET_IOMMU is EINVAL, and so is everything else."""
    for request in (vfio.VFIO_IOMMU_MAP_DMA, vfio.VFIO_IOMMU_GET_INFO, 0x1234):
        with refused(errno.EINVAL) as info:
            client.ioctl(container, request, bytearray(64))
        assert "VFIO_SET_IOMMU" in info.value.refusal.reason


def test_no_driver_without_a_group(client: GroupClient, container: int) -> None:
    with refused(errno.EINVAL) as info:
        client.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    assert "without a group" in info.value.refusal.reason


def test_a_type_that_nobody_knows_is_no_device(client: GroupClient, container: int) -> None:
    client.set_container(client.open(client.group_of()), container)
    with refused(errno.ENODEV):
        client.ioctl(container, vfio.VFIO_SET_IOMMU, 1000)


def test_a_device_wants_the_driver_first(client: GroupClient, container: int) -> None:
    group = client.open(client.group_of())
    client.set_container(group, container)
    with refused(errno.EINVAL) as info:
        client.device(group)
    assert "VFIO_SET_IOMMU" in info.value.refusal.reason


def test_a_group_in_a_container_owns_its_dma(client: GroupClient, container: int) -> None:
    group = client.open(client.group_of())
    client.set_container(group, container)
    members = client.host.functions["0000:01:00.0"].requester.group
    assert members is not None
    assert members.claimed
    client.unset_container(group)
    assert not members.claimed


def test_dma_that_belongs_to_another_keeps_the_group_out(client: GroupClient, container: int) -> None:
    members = client.host.functions["0000:01:00.0"].requester.group
    assert members is not None
    members.claim("somebody")
    with refused(errno.EPERM):
        client.set_container(client.open(client.group_of()), container)
    members.release("somebody")


def test_a_closed_container_lives_while_groups_are_in_it(client: GroupClient, container: int) -> None:
    group = client.open(client.group_of())
    client.set_container(group, container)
    client.close(container)
    assert client.status(group) & vfio.VFIO_GROUP_FLAGS_CONTAINER_SET
    client.unset_container(group)


def test_containers_are_files_without_contents(client: GroupClient, container: int) -> None:
    file = client.file(container)
    with refused(errno.EINVAL):
        file.read(client.caller, 1, None)
    with refused(errno.EINVAL):
        file.write(client.caller, b"x", None)
    with refused(errno.ENODEV):
        file.mmap(client.caller, 4096, 3, 1, 0)


def test_a_number_is_not_a_buffer(client: GroupClient, container: int) -> None:
    with pytest.raises(UsageError):
        client.ioctl(container, vfio.VFIO_SET_IOMMU, bytearray(4))


def test_a_machine_says_who_serves_the_node() -> None:
    with SoftHost(container="none") as host:
        assert NODE not in host.nodes
        assert "vfio" not in host.tree.listdir("/sys/class/misc")
        assert "parameters" not in host.tree.listdir("/sys/module/vfio")
    with pytest.raises(UsageError, match="no no-IOMMU mode"):
        SoftHost(container="none", no_iommu=True)
    with program(container="none") as client:
        iommufd = client.open("/dev/iommu")
        assert client.ioctl(iommufd, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_NOIOMMU_IOMMU) == 0
        assert client.ioctl(iommufd, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_TYPE1_IOMMU) == 1
    with SoftHost(container="iommufd") as host:
        assert NODE in host.nodes
        assert "vfio_iommu_type1" not in host.tree.listdir("/sys/module")
    with SoftHost() as host:
        assert "vfio_iommu_type1" in host.tree.listdir("/sys/module")
    with pytest.raises(UsageError, match="vfio, iommufd, none"):
        SoftHost(container="type1")
