"""Groups: /dev/vfio/N, by an iommufd in the place of a container (drivers/vfio/group.c, 7.3)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ioas.soft.pci.sysfs_driver import InUse
from ioas.uapi import iommufd, vfio
from tests.support.group_client import BDF, GroupClient, program
from tests.support.vfio_client import CONFIG, refused

VIABLE, CONTAINER_SET = vfio.VFIO_GROUP_FLAGS_VIABLE, vfio.VFIO_GROUP_FLAGS_CONTAINER_SET
CDEV = "/dev/vfio/devices/vfio0"
PAIR = ("edu,addr=0000:05:00.0", "edu,addr=0000:05:00.1")
"""Two functions of one slot that nothing isolates: one group."""


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program() as client:
        yield client


@pytest.fixture
def group(client: GroupClient) -> int:
    return client.open(client.group_of())


@pytest.fixture
def device(client: GroupClient, group: int) -> int:
    """The device, by its group and an iommufd."""
    client.set_container(group, client.open("/dev/iommu"))
    return client.device(group)


def test_a_group_is_viable_and_gets_a_container(client: GroupClient, group: int) -> None:
    assert client.status(group) == VIABLE
    client.set_container(group, client.open("/dev/iommu"))
    assert client.status(group) == VIABLE | CONTAINER_SET
    client.unset_container(group)
    assert client.status(group) == VIABLE


def test_a_group_is_open_once(client: GroupClient, group: int) -> None:
    with refused(errno.EBUSY) as info:
        client.open(client.group_of())
    assert "open already" in info.value.refusal.reason
    client.close(group)
    client.open(client.group_of())


def test_a_group_has_one_container(client: GroupClient, group: int) -> None:
    client.set_container(group, client.open("/dev/iommu"))
    with refused(errno.EINVAL):
        client.set_container(group, client.open("/dev/iommu"))


def test_what_is_no_container_is_refused(client: GroupClient, group: int) -> None:
    with refused(errno.EBADF):
        client.set_container(group, -1)
    with refused(errno.EBADFD):
        client.set_container(group, client.open(CDEV))
    with refused(errno.EFAULT):
        client.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, 16)
    with refused(errno.EINVAL):
        client.unset_container(group)


def test_status_wants_its_whole_structure(client: GroupClient, group: int) -> None:
    with refused(errno.EINVAL):
        client.call(group, vfio.VFIO_GROUP_GET_STATUS, vfio.vfio_group_status(argsz=7))
    with refused(errno.EFAULT):
        client.ioctl(group, vfio.VFIO_GROUP_GET_STATUS, 16)
    with refused(errno.ENOTTY):
        client.ioctl(group, vfio.VFIO_DEVICE_GET_INFO, bytearray(24))


def test_a_device_without_a_container_is_not_given_out(client: GroupClient, group: int) -> None:
    with refused(errno.EINVAL) as info:
        client.device(group)
    assert "container" in info.value.refusal.reason


@pytest.mark.parametrize("name", ["0000:02:00.0", "", "0000:01:00.01", "0000:01:00"])
def test_another_name_is_no_device_of_the_group(client: GroupClient, group: int, name: str) -> None:
    with refused(errno.ENODEV) as info:
        client.device(group, name)
    assert BDF in info.value.refusal.reason


@pytest.mark.parametrize(
    "name",
    [
        f"{BDF} vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
        f"{BDF} vf_token=bd8d9d2b-5a5f-4f5a-a211",
        f"{BDF} vf_token=bd8d9d2b.5a5f-4f5a-a211-f591514ba1f3",
        f"{BDF} token=1",
        "x" * 5000,
    ],
)
def test_a_token_for_a_function_without_one_is_refused(client: GroupClient, group: int, name: str) -> None:
    client.set_container(group, client.open("/dev/iommu"))
    with refused(errno.EINVAL):
        client.device(group, name)


def test_spaces_behind_a_name_are_nothing(client: GroupClient, device: int, group: int) -> None:
    client.device(group, f"{BDF}  ")


def test_a_device_answers_at_once(client: GroupClient, device: int) -> None:
    assert client.file(device).read(client.caller, 4, CONFIG) == bytes.fromhex("3412e811")
    assert client.file(device).device_number == (0, 0)


def test_a_device_of_a_group_does_not_know_what_cdevs_know(client: GroupClient, device: int) -> None:
    with refused(errno.ENOTTY):
        client.call(
            device,
            vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT,
            vfio.vfio_device_attach_iommufd_pt(argsz=16),
        )
    with refused(errno.ENOTTY):
        client.call(
            device,
            vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT,
            vfio.vfio_device_detach_iommufd_pt(argsz=12),
        )
    with refused(errno.EINVAL):
        client.bind(device, client.open("/dev/iommu"))
    with refused(errno.EFAULT):  # the argument comes first
        client.ioctl(device, vfio.VFIO_DEVICE_BIND_IOMMUFD, 16)


def test_all_files_of_a_device_are_one_device(client: GroupClient, device: int, group: int) -> None:
    other = client.device(group)
    file = client.file(device)
    file.write(client.caller, b"\x06\x00", CONFIG + 4)
    client.close(device)
    assert client.file(other).read(client.caller, 2, CONFIG + 4) == b"\x06\x00"
    client.close(other)
    again = client.device(group)
    assert client.file(again).read(client.caller, 2, CONFIG + 4) == b"\x03\x01"


def test_the_iommufd_has_an_address_space_for_the_group(client: GroupClient, group: int) -> None:
    context = client.open("/dev/iommu")
    with refused(errno.ENODEV):
        client.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    client.set_container(group, context)
    get = iommufd.iommu_vfio_ioas(size=12, op=iommufd.IOMMU_VFIO_IOAS_GET)
    assert client.call(context, iommufd.IOMMU_VFIO_IOAS, get).ioas_id == 1
    client.ioctl(context, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    client.device(group)
    assert client.host.functions[BDF].requester.domain is not None


def test_without_its_address_space_no_device_is_given_out(client: GroupClient, group: int) -> None:
    context = client.open("/dev/iommu")
    client.set_container(group, context)
    client.call(context, iommufd.IOMMU_VFIO_IOAS, iommufd.iommu_vfio_ioas(size=12, op=iommufd.IOMMU_VFIO_IOAS_CLEAR))
    with refused(errno.ENODEV):
        client.device(group)
    assert client.host.functions[BDF].requester.group is not None
    assert client.status(group) == VIABLE | CONTAINER_SET


def test_a_device_is_detached_with_its_last_file(client: GroupClient, device: int) -> None:
    requester = client.host.functions[BDF].requester
    assert requester.domain is not None
    client.close(device)
    assert requester.domain is None


def test_a_group_is_busy_while_a_cdev_is_bound(client: GroupClient) -> None:
    cdev = client.open(CDEV)
    client.bind(cdev, client.open("/dev/iommu"))
    with refused(errno.EBUSY) as info:
        client.open(client.group_of())
    assert "cdev" in info.value.refusal.reason
    assert str(info.value.refusal.culprit) == f"device {BDF}"
    client.close(cdev)
    client.open(client.group_of())


def test_a_cdev_is_not_bound_while_its_group_is_open(client: GroupClient, group: int) -> None:
    cdev = client.open(CDEV)
    context = client.open("/dev/iommu")
    with refused(errno.EBUSY) as info:
        client.bind(cdev, context)
    assert info.value.refusal.culprit is not None
    assert info.value.refusal.culprit.kind == "group"
    client.close(group)
    client.bind(cdev, context)


def test_a_refused_bind_does_not_keep_the_group_closed(client: GroupClient) -> None:
    cdev = client.open(CDEV)
    with refused(errno.EBADFD):
        client.bind(cdev, client.open(CDEV))
    client.open(client.group_of())


def test_a_device_stays_open_when_its_group_is_closed(client: GroupClient, device: int, group: int) -> None:
    """With an iommufd the group's file is not kept: the group can be opened again, and the device used once more."""
    client.close(group)
    assert len(client.file(device).read(client.caller, 4, CONFIG)) == 4
    again = client.open(client.group_of())
    client.set_container(again, client.open("/dev/iommu"))
    client.device(again)


def test_devices_of_a_group_go_together() -> None:
    with program(*PAIR) as client:
        group = client.open(client.group_of("0000:05:00.0"))
        assert client.group_of("0000:05:00.1") == client.group_of("0000:05:00.0")
        client.set_container(group, client.open("/dev/iommu"))
        client.device(group, "0000:05:00.1")
        domains = {client.host.functions[bdf].requester.domain for bdf in ("0000:05:00.0", "0000:05:00.1")}
        assert len(domains) == 1
        assert None not in domains


def test_dma_that_belongs_to_another_makes_a_group_not_viable() -> None:
    """The second function is bound by its cdev elsewhere: then the group cannot be opened; before, it was free."""
    with program(*PAIR) as client:
        group = client.open(client.group_of("0000:05:00.0"))
        members = client.host.functions["0000:05:00.0"].requester.group
        assert members is not None
        members.claim("somebody")
        assert client.status(group) == 0
        client.set_container(group, client.open("/dev/iommu"))
        assert client.status(group) == VIABLE | CONTAINER_SET  # an iommufd finds out with the first device
        with refused(errno.EPERM):
            client.device(group, "0000:05:00.0")
        members.release("somebody")


def test_a_group_goes_with_the_last_function_of_vfio_pci(client: GroupClient, group: int) -> None:
    node = client.group_of()
    client.host.tree.write("/sys/bus/pci/drivers/vfio-pci/unbind", f"{BDF}\n".encode())
    assert node not in client.host.nodes
    assert node.rsplit("/", 1)[-1] not in client.host.tree.listdir("/sys/class/vfio")
    with refused(errno.ENODEV):
        client.status(group)
    with refused(errno.ENODEV):
        client.set_container(group, client.open("/dev/iommu"))
    with refused(errno.ENODEV):
        client.device(group)
    client.host.tree.write("/sys/bus/pci/drivers/vfio-pci/bind", f"{BDF}\n".encode())
    assert client.status(client.open(node)) == VIABLE


def test_unbinding_waits_for_devices_that_a_group_has_given_out(client: GroupClient, device: int, group: int) -> None:
    with pytest.raises(InUse) as waiting:
        client.host.tree.write("/sys/bus/pci/drivers/vfio-pci/unbind", f"{BDF}\n".encode())
    with refused(errno.ENODEV):
        client.device(group)
    assert client.group_of() in client.host.nodes
    client.close(device)
    assert waiting.value.ended()
    assert client.group_of() not in client.host.nodes


def test_a_device_is_let_go_of_when_its_closing_is_over_and_not_before(
    client: GroupClient, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InUse) as waiting:
        client.host.tree.write("/sys/bus/pci/drivers/vfio-pci/unbind", f"{BDF}\n".encode())
    function = client.host.devices[BDF]
    meanwhile, close = [], function.close

    def asked_meanwhile() -> None:
        meanwhile.append(waiting.value.ended())
        close()

    monkeypatch.setattr(function, "close", asked_meanwhile)
    client.close(device)
    assert meanwhile == [False]
    assert waiting.value.ended()


@pytest.mark.parametrize("way", ["cdev", "container"])
def test_a_device_that_vfio_pci_is_to_let_go_of_is_named_as_long_as_it_is_in_the_way(way: str) -> None:
    with program(*PAIR) as client:
        first, second = client.host.functions
        if way == "cdev":
            cdev = client.open(CDEV)
            client.bind(cdev, client.open("/dev/iommu"))
        else:
            client.container(vfio.VFIO_TYPE1v2_IOMMU, first)
            group = client.fds[-1]
            client.device(group, first)
        with pytest.raises(InUse):
            client.host.tree.write("/sys/bus/pci/drivers/vfio-pci/unbind", first.encode())
        with refused(errno.EBUSY) as info:
            client.open(client.group_of(second)) if way == "cdev" else client.unset_container(group)
        assert str(info.value.refusal.culprit) == f"device {first}"


def test_a_group_stays_until_the_last_open_device_of_functions_that_are_all_to_go_is_closed() -> None:
    unbind = "/sys/bus/pci/drivers/vfio-pci/unbind"
    with program(*PAIR) as client:
        first, second = client.host.functions
        container = client.container(vfio.VFIO_TYPE1v2_IOMMU, first)
        group, node = client.fds[-1], client.group_of(first)
        device = client.device(group, first)
        with pytest.raises(InUse) as waiting:
            client.host.tree.write(unbind, first.encode())
        client.host.tree.write(unbind, second.encode())
        assert node in client.host.nodes
        assert client.status(group) == VIABLE | CONTAINER_SET
        assert client.info(container)[0].iova_pgsizes & 4096
        assert not waiting.value.ended()
        client.close(device)
        assert waiting.value.ended()
        assert node not in client.host.nodes
        with refused(errno.EINVAL):
            client.info(container)


@pytest.mark.parametrize("request_", [vfio.VFIO_GROUP_SET_CONTAINER, vfio.VFIO_GROUP_GET_DEVICE_FD])
def test_a_call_on_a_group_that_is_closed_meanwhile_is_refused_and_leaves_nothing(
    client: GroupClient, group: int, request_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = client.caller.memory
    place = memory.map(1)
    fd = client.open("/dev/iommu").to_bytes(4, "little")
    memory.write(place, fd if request_ == vfio.VFIO_GROUP_SET_CONTAINER else f"{BDF}\0".encode())
    file, read = client.file(group), memory.read

    def closing(address: int, length: int) -> bytes:
        file.close()
        return read(address, length)

    monkeypatch.setattr(memory, "read", closing)
    with refused(errno.EBADF):
        client.ioctl(group, request_, place)
    assert client.status(client.open(client.group_of())) == VIABLE


def test_groups_are_files_without_contents(client: GroupClient, group: int) -> None:
    file = client.file(group)
    with refused(errno.EINVAL):
        file.read(client.caller, 1, None)
    with refused(errno.EINVAL):
        file.write(client.caller, b"x", None)
    with refused(errno.ENODEV):
        file.mmap(client.caller, 4096, 3, 1, 0)
