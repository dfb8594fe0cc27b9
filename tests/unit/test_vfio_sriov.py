"""Virtual functions under vfio-pci: sriov_numvfs, VF tokens, and what their device files show (7.3)."""

from __future__ import annotations

import errno
import os
import struct
import uuid
from collections.abc import Iterator

import pytest

from ioas.soft.pci.sysfs_driver import InUse
from ioas.uapi import vfio
from tests.support.group_client import GroupClient, program
from tests.support.sriov_model import VENDOR, VF_DEVICE, VFS, Physical, Virtual
from tests.support.vfio_client import CONFIG, MSIX, counter, eventfds, refused

PF, VF0, VF1 = "0000:01:00.0", "0000:01:10.0", "0000:01:10.2"
SYSFS = "/sys/bus/pci/devices"
DRIVER = "/sys/bus/pci/drivers/vfio-pci"
ONE, TWO = uuid.UUID(int=1 << 100).bytes, uuid.UUID(int=2 << 100).bytes
TOKEN = vfio.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN
SET, GET, PROBE = vfio.VFIO_DEVICE_FEATURE_SET, vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_PROBE


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program(Physical(), "edu") as client:
        yield client


def write(client: GroupClient, path: str, text: str) -> int:
    """Write as echo does; the errno, 0 for none."""
    try:
        client.host.tree.write(path, f"{text}\n".encode())
    except OSError as error:
        return error.errno or -1
    return 0


def enable(client: GroupClient, number: int | str) -> int:
    return write(client, f"{SYSFS}/{PF}/sriov_numvfs", str(number))


def show(client: GroupClient, path: str) -> str:
    return client.host.tree.read(f"{SYSFS}/{path}").decode().strip()


def node(client: GroupClient, bdf: str) -> str:
    (name,) = client.host.tree.listdir(f"{SYSFS}/{bdf}/vfio-dev")
    return f"/dev/vfio/devices/{name}"


def bind(client: GroupClient, bdf: str, token: bytes | None = None, iommufd: int | None = None) -> int:
    """The cdev of `bdf`, bound with a token or without."""
    fd = client.open(node(client, bdf))
    request = vfio.vfio_device_bind_iommufd(
        argsz=24, iommufd=client.open("/dev/iommu") if iommufd is None else iommufd, flags=0 if token is None else 1
    )
    if token is not None:
        place = client.caller.memory.map(1)
        client.caller.memory.write(place, token)
        request.token_uuid_ptr = place
    client.call(fd, vfio.VFIO_DEVICE_BIND_IOMMUFD, request)
    return fd


def by_group(client: GroupClient, bdf: str, options: str = "") -> int:
    group = client.open(client.group_of(bdf))
    client.set_container(group, client.open("/dev/iommu"))
    return client.device(group, bdf + options)


def set_token(client: GroupClient, device: int, token: bytes) -> None:
    client.ioctl(device, vfio.VFIO_DEVICE_FEATURE, bytearray(struct.pack("II", 24, TOKEN | SET) + token))


def test_sysfs_tells_how_many_vfs_there_can_be_and_are(client: GroupClient) -> None:
    expected = {"totalvfs": str(VFS), "numvfs": "0", "offset": "128", "stride": "2", "vf_device": "51f1"}
    assert {name: show(client, f"{PF}/sriov_{name}") for name in expected} == expected
    assert enable(client, 2) == 0
    assert show(client, f"{PF}/sriov_numvfs") == "2"
    assert "sriov_totalvfs" not in client.host.tree.listdir(f"{SYSFS}/0000:02:00.0")


def test_vfs_appear_with_vfio_pci_in_groups_and_with_nodes_of_their_own(client: GroupClient) -> None:
    assert enable(client, 2) == 0
    tree = client.host.tree
    for index, bdf in enumerate((VF0, VF1)):
        assert tree.realpath(f"{SYSFS}/{PF}/virtfn{index}") == tree.realpath(f"{SYSFS}/{bdf}")
        assert tree.realpath(f"{SYSFS}/{bdf}/physfn") == tree.realpath(f"{SYSFS}/{PF}")
        assert tree.realpath(f"{SYSFS}/{bdf}/driver") == DRIVER
        assert show(client, f"{bdf}/vendor") == f"{VENDOR:#06x}"
        assert show(client, f"{bdf}/device") == f"{VF_DEVICE:#06x}"
        assert show(client, f"{bdf}/driver_override") == "vfio-pci"
        assert tree.listdir(f"{SYSFS}/{bdf}/iommu_group/devices") == (bdf,)
        assert client.group_of(bdf) in client.host.nodes
        assert node(client, bdf) in client.host.nodes
    lines = show(client, f"{PF}/resource").splitlines()
    start, last, _ = (int(word, 0) for word in lines[7].split())
    assert last - start + 1 == 0x4000 * VFS
    assert int(show(client, f"{VF1}/resource").split()[0], 0) == start + 0x4000


def test_vfs_disappear_without_a_trace(client: GroupClient) -> None:
    before = sorted(path for path, _ in client.host.tree.walk())
    nodes = set(client.host.nodes)
    for _ in range(2):
        assert enable(client, VFS) == 0
        assert enable(client, 0) == 0
        assert sorted(path for path, _ in client.host.tree.walk()) == before
        assert set(client.host.nodes) == nodes
    assert list(client.host.functions) == list(client.host.devices) == [PF, "0000:02:00.0"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (str(VFS + 1), errno.ERANGE),
        ("65536", errno.EINVAL),
        ("-1", errno.EINVAL),
        ("one", errno.EINVAL),
        ("", errno.EINVAL),
        ("1 2", errno.EINVAL),
        ("0", 0),
        ("0x2", 0),
        ("02", 0),
    ],
)
def test_the_number_is_a_number_up_to_the_total(client: GroupClient, text: str, number: int) -> None:
    assert enable(client, text) == number


def test_vfs_are_enabled_all_at_once(client: GroupClient) -> None:
    assert enable(client, 1) == 0
    assert enable(client, 1) == 0
    assert enable(client, 2) == errno.EBUSY
    assert enable(client, 0) == 0
    assert enable(client, 2) == 0


def test_without_a_driver_or_its_parameter_there_are_no_vfs(client: GroupClient) -> None:
    assert write(client, "/sys/module/vfio_pci/parameters/enable_sriov", "N") == 0
    assert enable(client, 1) == errno.ENOENT
    assert write(client, "/sys/module/vfio_pci/parameters/enable_sriov", "Y") == 0
    assert write(client, f"{DRIVER}/unbind", PF) == 0
    assert enable(client, 1) == errno.ENOENT
    assert write(client, f"{DRIVER}/bind", PF) == 0
    assert enable(client, 1) == 0


def test_without_autoprobe_vfs_get_the_driver_that_they_are_meant_for(client: GroupClient) -> None:
    assert write(client, f"{SYSFS}/{PF}/sriov_drivers_autoprobe", "0") == 0
    assert show(client, f"{PF}/sriov_drivers_autoprobe") == "0"
    assert enable(client, 1) == 0
    assert node(client, VF0) in client.host.nodes
    assert enable(client, 0) == 0
    assert write(client, f"{SYSFS}/{PF}/sriov_drivers_autoprobe", "maybe") == errno.EINVAL


@pytest.mark.parametrize("of", ["numvfs", "unbind"])
def test_vfs_that_are_open_keep_whoever_wants_them_gone_waiting(client: GroupClient, of: str) -> None:
    enable(client, 2)
    device = bind(client, PF, ONE)
    virtual = bind(client, VF1, ONE)
    (event,) = eventfds(1)
    data = struct.pack("IIIIIi", 24, vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 4, 0, 1, event)
    client.ioctl(virtual, vfio.VFIO_DEVICE_SET_IRQS, bytearray(data))
    path, text = (f"{SYSFS}/{PF}/sriov_numvfs", b"0") if of == "numvfs" else (f"{DRIVER}/unbind", PF.encode())
    with pytest.raises(InUse) as waiting:
        client.host.tree.write(path, text)
    assert not waiting.value.ended()
    assert counter(event) == 1
    assert VF0 not in client.host.functions
    client.close(virtual)
    client.close(device)
    assert waiting.value.ended()
    assert not client.host.functions[PF].virtual_functions
    os.close(event)


@pytest.mark.parametrize("second", ["numvfs", "unbind"])
def test_two_who_want_the_same_vfs_gone_wait_for_the_same(client: GroupClient, second: str) -> None:
    enable(client, 2)
    bind(client, PF, ONE)
    virtual, waiting = bind(client, VF1, ONE), []
    numvfs = f"{SYSFS}/{PF}/sriov_numvfs", b"0"
    for path, text in (numvfs, numvfs if second == "numvfs" else (f"{DRIVER}/unbind", PF.encode())):
        with pytest.raises(InUse) as each:
            client.host.tree.write(path, text)
        waiting.append(each.value)
    client.close(virtual)
    assert waiting[0].ended()
    assert not client.host.functions[PF].virtual_functions
    assert waiting[1].ended() == (second == "numvfs")  # who unbinds the PF waits for that as well
    client.close()
    assert waiting[1].ended()


def test_vfs_that_vfio_pci_does_not_take_appear_without_a_driver_and_go_again() -> None:
    with program(Physical(), no_iommu=True) as client:
        assert write(client, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N") == 0
        assert enable(client, 2) == 0
        assert show(client, f"{PF}/sriov_numvfs") == "2"
        assert "driver" not in client.host.tree.listdir(f"{SYSFS}/{VF1}")
        assert write(client, "/sys/bus/pci/drivers_probe", VF0) == 0  # nobody wants it, which is no error
        assert write(client, f"{DRIVER}/bind", VF0) == errno.EINVAL
        assert enable(client, 0) == 0
        assert list(client.host.functions) == [PF]


def test_a_model_of_a_vf_that_cannot_be_made_is_named_and_no_vf_appears(
    client: GroupClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(function: Virtual, physical: Physical, index: int) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Virtual, "__init__", raises)
    with pytest.raises(OSError, match=f"VF 0 of physical {PF} cannot be made: RuntimeError: a bug") as caught:
        client.host.tree.write(f"{SYSFS}/{PF}/sriov_numvfs", b"2")
    assert caught.value.errno == errno.EIO
    monkeypatch.undo()
    assert show(client, f"{PF}/sriov_numvfs") == "0"
    assert not client.host.devices[PF].has_virtual
    assert enable(client, 2) == 0


def test_a_vf_is_opened_with_the_token_of_its_pf(client: GroupClient) -> None:
    enable(client, 2)
    bind(client, PF, ONE)
    for token in (None, TWO):
        with refused(errno.EACCES) as caught:
            bind(client, VF0, token)
        assert caught.value.refusal.culprit is not None
        assert caught.value.refusal.culprit.name == VF0
    bind(client, VF0, ONE)
    by_group(client, VF1, f" vf_token={uuid.UUID(bytes=ONE)}")


def test_by_groups_the_token_stands_behind_the_name(client: GroupClient) -> None:
    enable(client, 1)
    by_group(client, PF, f" vf_token={uuid.UUID(bytes=TWO)}")
    group = client.open(client.group_of(VF0))
    client.set_container(group, client.open("/dev/iommu"))
    for options in ("", f" vf_token={uuid.UUID(bytes=ONE)}"):
        with refused(errno.EACCES):
            client.device(group, VF0 + options)
    client.device(group, f"{VF0} vf_token={uuid.UUID(bytes=TWO)}")


def test_the_token_stays_when_the_pf_is_closed_and_nobody_knows_the_first_one(client: GroupClient) -> None:
    enable(client, 1)
    for token in (None, ONE, bytes(16)):
        with refused(errno.EACCES):
            bind(client, VF0, token)
    client.close(bind(client, PF, ONE))
    client.close(bind(client, PF))
    bind(client, VF0, ONE)


def test_a_pf_whose_vfs_are_open_is_opened_with_the_same_token_and_can_change_it(client: GroupClient) -> None:
    enable(client, 1)
    device = bind(client, PF, ONE)
    virtual = bind(client, VF0, ONE)
    client.close(device)
    for token in (None, TWO):
        with refused(errno.EACCES):
            bind(client, PF, token)
    device = bind(client, PF, ONE)
    set_token(client, device, TWO)
    client.close(virtual)
    with refused(errno.EACCES):
        bind(client, VF0, ONE)
    client.close(bind(client, VF0, TWO))
    client.close(device)
    bind(client, PF, ONE)


def test_the_token_feature_is_set_and_not_got_and_is_a_pfs_alone(client: GroupClient) -> None:
    enable(client, 1)
    device = bind(client, PF, ONE)
    client.ioctl(device, vfio.VFIO_DEVICE_FEATURE, bytearray(struct.pack("II", 8, TOKEN | SET | PROBE)))
    for flags, data, number in (
        (GET, bytes(16), errno.EINVAL),
        (GET | PROBE, b"", errno.EINVAL),
        (0, bytes(16), errno.EINVAL),
        (SET, bytes(15), errno.EINVAL),
    ):
        with refused(number):
            client.ioctl(
                device, vfio.VFIO_DEVICE_FEATURE, bytearray(struct.pack("II", 8 + len(data), TOKEN | flags) + data)
            )
    with refused(errno.EFAULT):
        client.ioctl(device, vfio.VFIO_DEVICE_FEATURE, bytearray(struct.pack("II", 24, TOKEN | SET)))
    with refused(errno.ENOTTY):
        set_token(client, bind(client, VF0, ONE), TWO)


def test_tokens_are_refused_where_there_is_no_sriov(client: GroupClient) -> None:
    with refused(errno.EINVAL):
        bind(client, "0000:02:00.0", ONE)


def test_a_vfs_configuration_space_shows_its_ids_and_memory_decoding_on(client: GroupClient) -> None:
    enable(client, 1)
    bind(client, PF, ONE)
    device = client.file(bind(client, VF0, ONE))
    assert device.read(client.caller, 4, CONFIG) == struct.pack("HH", VENDOR, VF_DEVICE)
    assert device.read(client.caller, 2, CONFIG + 4) == b"\x02\0"
    assert device.read(client.caller, 1, CONFIG + 0x3D) == b"\0"
    device.write(client.caller, b"\xff" * 8, CONFIG + 0x10)
    assert device.read(client.caller, 8, CONFIG + 0x10) == struct.pack("<Q", (1 << 64) - 0x4000 | 0xC)


def test_a_vfs_memory_answers_whatever_its_command_register_says(client: GroupClient) -> None:
    enable(client, 1)
    bind(client, PF, ONE)
    device = client.file(bind(client, VF0, ONE))
    device.write(client.caller, bytes(2), CONFIG + 4)
    device.write(client.caller, b"\x07\0\0\0", 0)
    assert device.read(client.caller, 4, 0) == b"\x07\0\0\0"


def test_a_vf_interrupts_and_is_reset_by_itself(client: GroupClient) -> None:
    enable(client, 2)
    bind(client, PF, ONE)
    fds = [bind(client, bdf, ONE) for bdf in (VF0, VF1)]
    events = eventfds(2)
    flags = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
    for fd, event in zip(fds, events, strict=True):
        client.ioctl(fd, vfio.VFIO_DEVICE_SET_IRQS, bytearray(struct.pack("IIIIIi", 24, flags, MSIX, 0, 1, event)))
        client.file(fd).write(client.caller, b"\x04\0", CONFIG + 4)
        client.file(fd).write(client.caller, b"\x05\0\0\0", 0)
    client.file(fds[1]).write(client.caller, bytes(8), 8)
    assert [counter(event) for event in events] == [0, 1]
    client.ioctl(fds[0], vfio.VFIO_DEVICE_RESET)
    assert [client.file(fd).read(client.caller, 4, 0) for fd in fds] == [bytes(4), b"\x05\0\0\0"]
    for event in events:
        os.close(event)


def test_a_pf_with_vfs_does_not_sleep_and_its_bus_cannot_be_reset(client: GroupClient) -> None:
    enable(client, 1)
    iommufd = client.open("/dev/iommu")
    device, virtual = bind(client, PF, ONE, iommufd), bind(client, VF0, ONE, iommufd)
    for fd, culprit in ((device, VF0), (virtual, PF)):
        with refused(errno.EINVAL) as caught:
            client.call(fd, vfio.VFIO_DEVICE_PCI_HOT_RESET, vfio.vfio_pci_hot_reset(argsz=12))
        assert caught.value.refusal.culprit is not None
        assert caught.value.refusal.culprit.name == culprit
    assert client.host.functions[PF].reset_methods == ("flr",)
