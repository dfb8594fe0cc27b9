"""Hot resets of a bus whose functions are in groups of their own: who owns what, by iommufd and by groups (7.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from errno import EBADF, EFAULT, EINVAL, ENOSPC
from typing import ClassVar

import pytest

from ioas.soft.host import models
from ioas.soft.pci import Acs, Capability, Pcie
from ioas.soft.pci.sysfs_driver import InUse
from ioas.uapi import vfio
from tests.support.group_client import GroupClient, program
from tests.support.models import Unresettable
from tests.support.vfio_client import refused

FIRST, SECOND = "0000:01:00.0", "0000:01:00.1"
SLOT = (f"isolated,addr={FIRST}", f"isolated,addr={SECOND}")
DEV_ID, ALL_OWNED = vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID, vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
NOT_OWNED = vfio.VFIO_PCI_DEVID_NOT_OWNED & 0xFFFF_FFFF
DRIVER = "/sys/bus/pci/drivers/vfio-pci"


class Isolated(Unresettable):
    """Functions of one slot in groups of their own."""

    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(), Acs())


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[GroupClient]:
    monkeypatch.setitem(models._BUILT_IN, "isolated", f"{__name__}:Isolated")
    with program(*SLOT) as client:
        yield client


def resets(client: GroupClient) -> list[int]:
    return [function.resets for function in client.host.functions.values() if isinstance(function, Unresettable)]


def info(client: GroupClient, device: int, room: int = 2) -> tuple[int, list[int]]:
    """The flags and the ids, of groups or of objects."""
    data = bytearray(bytes(vfio.vfio_pci_hot_reset_info(argsz=12 + 8 * room)) + bytes(8 * room))
    client.ioctl(device, vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, data)
    header = vfio.vfio_pci_hot_reset_info.from_buffer_copy(data)
    return header.flags, [struct.unpack_from("=I", data, 12 + 8 * index)[0] for index in range(header.count)]


def hot_reset(client: GroupClient, device: int, *groups: int, count: int | None = None, flags: int = 0) -> None:
    header = vfio.vfio_pci_hot_reset(argsz=12, flags=flags, count=len(groups) if count is None else count)
    data = bytearray(bytes(header) + struct.pack(f"{len(groups)}i", *groups))
    client.ioctl(device, vfio.VFIO_DEVICE_PCI_HOT_RESET, data)


def cdev(client: GroupClient, index: int, iommufd: int) -> int:
    fd = client.open(f"/dev/vfio/devices/vfio{index}")
    client.bind(fd, iommufd)
    return fd


def by_group(client: GroupClient, bdf: str) -> tuple[int, int]:
    """An open group, and its device."""
    group = client.open(client.group_of(bdf))
    client.set_container(group, client.open("/dev/iommu"))
    return group, client.device(group, bdf)


def group_id(client: GroupClient, bdf: str) -> int:
    return int(client.group_of(bdf).rsplit("/", 1)[1])


def test_functions_bound_to_one_iommufd_are_reset_together(client: GroupClient) -> None:
    iommufd = client.open("/dev/iommu")
    first, second = cdev(client, 0, iommufd), cdev(client, 1, iommufd)
    flags, ids = info(client, first)
    assert flags == DEV_ID | ALL_OWNED
    assert ids == [device.device_id for device in client.host.devices.values()]
    assert info(client, second) == (flags, ids)
    hot_reset(client, second)
    assert resets(client) == [1, 1]


def unopened(client: GroupClient) -> None:
    pass


def with_another_iommufd(client: GroupClient) -> None:
    cdev(client, 1, client.open("/dev/iommu"))


def through_its_group(client: GroupClient) -> None:
    by_group(client, SECOND)


def unbound(client: GroupClient) -> None:
    client.host.tree.write(f"{DRIVER}/unbind", SECOND.encode())


@pytest.mark.parametrize("other", [unopened, with_another_iommufd, through_its_group, unbound])
def test_a_function_in_other_hands_is_told_and_forbids_the_reset(
    client: GroupClient, other: Callable[[GroupClient], None]
) -> None:
    first = cdev(client, 0, client.open("/dev/iommu"))
    other(client)
    flags, (own, foreign) = info(client, first)
    assert (flags, foreign) == (DEV_ID, NOT_OWNED)
    assert own == client.host.devices[FIRST].device_id
    with refused(EINVAL) as caught:
        hot_reset(client, first)
    assert caught.value.refusal.culprit is not None
    assert caught.value.refusal.culprit.name == SECOND
    assert resets(client) == [0, 0]


def test_by_groups_the_information_names_groups(client: GroupClient) -> None:
    _, device = by_group(client, FIRST)
    assert info(client, device) == (0, [group_id(client, FIRST), group_id(client, SECOND)])
    with refused(ENOSPC):
        info(client, device, 1)


def test_groups_prove_ownership_of_their_devices_opened_or_not(client: GroupClient) -> None:
    group, device = by_group(client, FIRST)
    other = client.open(client.group_of(SECOND))
    hot_reset(client, device, group, other)
    hot_reset(client, device, other, group)
    assert resets(client) == [2, 2]


def test_a_group_that_is_missing_forbids_the_reset(client: GroupClient) -> None:
    group, device = by_group(client, FIRST)
    for groups in ((group,), (group, group)):
        with refused(EINVAL) as caught:
            hot_reset(client, device, *groups)
        assert caught.value.refusal.culprit is not None
        assert caught.value.refusal.culprit.name == SECOND
    assert resets(client) == [0, 0]


def test_a_function_that_vfio_does_not_have_forbids_the_reset_whatever_groups_are_given(client: GroupClient) -> None:
    group, device = by_group(client, FIRST)
    second = client.open(client.group_of(SECOND))
    client.host.tree.write(f"{DRIVER}/unbind", SECOND.encode())
    assert info(client, device)[1] == [group_id(client, FIRST), group_id(client, SECOND)]
    with refused(EINVAL) as caught:
        hot_reset(client, device, group, second)
    assert caught.value.refusal.culprit is not None
    assert caught.value.refusal.culprit.name == SECOND


def test_the_descriptors_are_of_groups_and_no_more_than_there_are_functions(client: GroupClient) -> None:
    group, device = by_group(client, FIRST)
    foreign = 99
    client.caller.foreign.add(foreign)
    for groups, number in (
        ((-1,), EBADF),
        ((99999,), EBADF),
        ((foreign,), EINVAL),
        ((device,), EINVAL),
        ((client.open("/dev/iommu"),), EINVAL),
        ((group, group, group), EINVAL),
        ((), EINVAL),
    ):
        with refused(number):
            hot_reset(client, device, *groups)
    with refused(EFAULT):
        hot_reset(client, device, count=2)
    with refused(EINVAL):
        hot_reset(client, device, group, flags=1)
    assert resets(client) == [0, 0]


def test_a_device_that_is_given_back_to_the_driver_is_reset_with_the_others_again(client: GroupClient) -> None:
    first = cdev(client, 0, client.open("/dev/iommu"))
    client.host.tree.write(f"{DRIVER}/unbind", SECOND.encode())
    client.host.tree.write(f"{DRIVER}/bind", SECOND.encode())
    client.close(first)
    assert resets(client) == [1, 1]


def test_while_its_driver_waits_for_a_program_a_device_counts_as_the_drivers(client: GroupClient) -> None:
    iommufd = client.open("/dev/iommu")
    first, second = cdev(client, 0, iommufd), cdev(client, 1, iommufd)
    with pytest.raises(InUse):
        client.host.tree.write(f"{DRIVER}/unbind", SECOND.encode())
    hot_reset(client, first)
    assert resets(client) == [1, 1]
    client.close(second)
