"""Devices without an IOMMU by their groups and containers, and who may open them (VFIO's no-IOMMU mode, 7.3)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ioas.errors import KernelError
from ioas.host import Capability, File
from ioas.soft.pci.sysfs_parameters import UNSAFE_NOIOMMU as SWITCH
from ioas.uapi import iommufd, vfio
from tests.support.group_client import BDF, GroupClient, program
from tests.support.vfio_client import CONFIG, refused

GROUP, CDEV = "/dev/vfio/noiommu-0", "/dev/vfio/devices/noiommu-vfio0"
VFIO = "/dev/vfio/vfio"
TYPE = vfio.VFIO_NOIOMMU_IOMMU
SET_IOMMU, EXTENSION = vfio.VFIO_SET_IOMMU, vfio.VFIO_CHECK_EXTENSION


@pytest.fixture
def client() -> Iterator[GroupClient]:
    """Where VFIO serves the container."""
    with program("edu", "edu", no_iommu=True, container="vfio") as client:
        yield client


@pytest.fixture
def compat() -> Iterator[GroupClient]:
    """Where iommufd does."""
    with program("edu", "edu", no_iommu=True, container="iommufd") as client:
        yield client


def blames_privilege(info: pytest.ExceptionInfo[KernelError]) -> bool:
    return str(info.value.refusal.culprit) == "capability CAP_SYS_RAWIO"


@pytest.mark.parametrize("path", [GROUP, CDEV])
def test_opening_is_for_sys_rawio(client: GroupClient, path: str) -> None:
    client.caller.capabilities.discard(Capability.SYS_RAWIO)
    with refused(errno.EPERM) as info:
        client.open(path)
    assert blames_privilege(info)
    client.open(VFIO)
    client.open("/dev/iommu")
    client.caller.capabilities.add(Capability.SYS_RAWIO)
    client.open(path)


def test_privilege_is_asked_for_before_anything_else(client: GroupClient) -> None:
    group = client.open(GROUP)
    client.caller.capabilities.discard(Capability.SYS_RAWIO)
    with refused(errno.EPERM):
        client.open(GROUP)
    client.caller.capabilities.add(Capability.SYS_RAWIO)
    with refused(errno.EBUSY):
        client.open(GROUP)
    client.close(group)


def test_each_step_is_for_sys_rawio(client: GroupClient) -> None:
    """vfio_container_attach_group, vfio_noiommu_open, vfio_group_use_container."""
    group, container = client.open(GROUP), client.open(VFIO)
    steps = (
        lambda: client.set_container(group, container),
        lambda: client.ioctl(container, SET_IOMMU, TYPE),
        lambda: client.device(group),
    )
    for step in steps:
        client.caller.capabilities.discard(Capability.SYS_RAWIO)
        with refused(errno.EPERM) as info:
            step()
        assert blames_privilege(info)
        client.caller.capabilities.add(Capability.SYS_RAWIO)
        step()


def test_a_container_of_type_8_knows_one_thing(client: GroupClient) -> None:
    group, container = client.open(GROUP), client.open(VFIO)
    client.set_container(group, container)
    for kind in (vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU, vfio.VFIO_UNMAP_ALL, vfio.VFIO_DMA_CC_IOMMU, 1000):
        assert client.ioctl(container, EXTENSION, kind) == 0
        with refused(errno.ENODEV):
            client.ioctl(container, SET_IOMMU, kind)
    assert client.ioctl(container, EXTENSION, TYPE) == 1
    assert client.ioctl(container, SET_IOMMU, TYPE) == 0
    assert client.ioctl(container, EXTENSION, TYPE) == 1
    assert client.ioctl(container, EXTENSION, vfio.VFIO_TYPE1v2_IOMMU) == 0
    assert client.ioctl(container, vfio.VFIO_GET_API_VERSION) == 0
    with refused(errno.EINVAL):
        client.ioctl(container, SET_IOMMU, TYPE)
    for request in (vfio.VFIO_IOMMU_MAP_DMA, vfio.VFIO_IOMMU_UNMAP_DMA, vfio.VFIO_IOMMU_GET_INFO, 0x1234):
        with refused(errno.ENOTTY) as info:
            client.ioctl(container, request, bytearray(64))
        assert "maps nothing" in info.value.refusal.reason


def test_several_groups_share_a_container_and_its_driver_goes_with_the_last(client: GroupClient) -> None:
    first, second, container = client.open(GROUP), client.open("/dev/vfio/noiommu-1"), client.open(VFIO)
    client.set_container(first, container)
    client.ioctl(container, SET_IOMMU, TYPE)
    client.set_container(second, container)
    client.close(client.device(second, "0000:02:00.0"))
    client.unset_container(first)
    assert client.ioctl(container, EXTENSION, TYPE) == 1
    client.unset_container(second)
    with refused(errno.EINVAL):
        client.ioctl(container, SET_IOMMU, TYPE)


def test_without_the_unsafe_mode_type_8_is_unknown(client: GroupClient) -> None:
    """The parameter decides at each question, also for containers that are open."""
    group, container = client.open(GROUP), client.open(VFIO)
    client.set_container(group, container)
    client.host.tree.write(SWITCH, b"N\n")
    assert client.ioctl(container, EXTENSION, TYPE) == 0
    with refused(errno.ENODEV):
        client.ioctl(container, SET_IOMMU, TYPE)
    client.host.tree.write(SWITCH, b"Y\n")
    client.ioctl(container, SET_IOMMU, TYPE)
    client.host.tree.write(SWITCH, b"N\n")
    assert client.ioctl(container, EXTENSION, TYPE) == 0
    client.device(group)


def test_the_group_is_viable_and_gives_out_its_device(client: GroupClient) -> None:
    group, container = client.open(GROUP), client.open(VFIO)
    assert client.status(group) == vfio.VFIO_GROUP_FLAGS_VIABLE
    client.set_container(group, container)
    client.ioctl(container, SET_IOMMU, TYPE)
    device = client.device(group)
    assert client.status(group) == vfio.VFIO_GROUP_FLAGS_VIABLE | vfio.VFIO_GROUP_FLAGS_CONTAINER_SET
    assert client.file(device).read(client.caller, 4, CONFIG) == bytes.fromhex("3412e811")
    with refused(errno.EBUSY):
        client.unset_container(group)
    client.close(device)
    client.unset_container(group)


def test_group_and_cdev_exclude_each_other(client: GroupClient) -> None:
    cdev = client.open(CDEV)
    client.bind(cdev, client.open("/dev/iommu"))
    with refused(errno.EBUSY) as info:
        client.open(GROUP)
    assert str(info.value.refusal.culprit) == f"device {BDF}"


def test_groups_with_and_without_an_iommu_do_not_mix(client: GroupClient) -> None:
    with program(container="vfio") as other:  # a group of another machine stands for one with an IOMMU
        untranslated, translated = client.open(GROUP), other.open(other.group_of())
        container = client.open(VFIO)
        client.set_container(untranslated, container)
        with refused(errno.EPERM) as info:
            _into(other.file(translated), client, container)
        assert "do not mix" in info.value.refusal.reason
        container = other.open(VFIO)
        other.set_container(translated, container)
        with refused(errno.EPERM) as info:
            _into(client.file(client.open("/dev/vfio/noiommu-1")), other, container)
        assert "do not mix" in info.value.refusal.reason


def _into(group: File, client: GroupClient, container: int) -> None:
    """SET_CONTAINER with a container of another machine's program."""
    group.ioctl(client.caller, vfio.VFIO_GROUP_SET_CONTAINER, bytearray(container.to_bytes(4, "little")))


def test_iommufd_as_a_container_serves_type_8_and_no_other(compat: GroupClient) -> None:
    group, container = compat.open(GROUP), compat.open(VFIO)
    assert [compat.ioctl(container, EXTENSION, kind) for kind in (1, 3, 8, 9)] == [1, 1, 1, 1]
    with refused(errno.EINVAL):
        compat.ioctl(container, SET_IOMMU, TYPE)
    compat.caller.capabilities.discard(Capability.SYS_RAWIO)
    compat.set_container(group, container)  # asks for no privilege here
    assert [compat.ioctl(container, EXTENSION, kind) for kind in (1, 3, 8, 9)] == [0, 0, 1, 0]
    with refused(errno.EPERM) as info:
        compat.ioctl(container, SET_IOMMU, TYPE)
    assert blames_privilege(info)
    with refused(errno.EPERM) as info:
        compat.device(group)
    assert blames_privilege(info)
    compat.caller.capabilities.add(Capability.SYS_RAWIO)
    for kind in (1, 3, 1000):
        with refused(errno.EINVAL):
            compat.ioctl(container, SET_IOMMU, kind)
    compat.ioctl(container, SET_IOMMU, TYPE)
    with refused(errno.ENODEV):
        compat.ioctl(container, vfio.VFIO_IOMMU_GET_INFO, bytearray(16 * b"\x10"))
    assert compat.file(compat.device(group)).read(compat.caller, 2, CONFIG) == b"\x34\x12"


def test_no_device_without_an_iommu_where_somebody_expects_translation(compat: GroupClient) -> None:
    """A compatibility IOAS before the group comes is EINVAL, one that is set afterwards EPERM."""
    group, container = compat.open(GROUP), compat.open("/dev/iommu")
    ioas = compat.call(container, iommufd.IOMMU_IOAS_ALLOC, iommufd.iommu_ioas_alloc(size=12)).out_ioas_id
    assign = iommufd.iommu_vfio_ioas(size=12, ioas_id=ioas, op=iommufd.IOMMU_VFIO_IOAS_SET)
    clear = iommufd.iommu_vfio_ioas(size=12, op=iommufd.IOMMU_VFIO_IOAS_CLEAR)
    compat.call(container, iommufd.IOMMU_VFIO_IOAS, assign)
    with refused(errno.EINVAL) as info:
        compat.set_container(group, container)
    assert f"object IOAS {ioas}" == str(info.value.refusal.culprit)
    compat.call(container, iommufd.IOMMU_VFIO_IOAS, clear)
    compat.set_container(group, container)
    compat.call(container, iommufd.IOMMU_VFIO_IOAS, assign)
    with refused(errno.EPERM) as info:
        compat.device(group)
    assert f"object IOAS {ioas}" == str(info.value.refusal.culprit)
    compat.call(container, iommufd.IOMMU_VFIO_IOAS, clear)
    compat.device(group)


def test_an_iommufd_that_serves_a_group_without_an_iommu_takes_no_other(compat: GroupClient) -> None:
    with program() as other:
        container = compat.open("/dev/iommu")
        compat.set_container(compat.open(GROUP), container)
        with refused(errno.EINVAL) as info:
            _into(other.file(other.open(other.group_of())), compat, container)
        assert "do not mix" in info.value.refusal.reason
