"""Functions that a driver of the machine's own has: their groups are not user space's, until it lets go."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioas.errors import Busy, NotPermitted
from ioas.soft.host import SoftHost
from ioas.uapi import vfio
from tests.support.group_client import program
from tests.support.lab import Lab, lab

AUDIO, GPU = "0000:01:00.1", "0000:01:00.0"
DRIVER = "/sys/bus/pci/drivers/snd_hda_intel"
CARD = f"""
[[device]]
model = "edu"
addr = "{GPU}"

[[device]]
model = "edu"
addr = "{AUDIO}"
driver = "snd_hda_intel"

[[device]]
model = "edu"
driver = "none"

[[device]]
model = "edu"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path, CARD) as found:
        yield found


def write(host: SoftHost, path: str, text: str) -> int:
    """Write as echo does; the errno, 0 for none."""
    try:
        host.tree.write(path, f"{text}\n".encode())
    except OSError as error:
        return error.errno or -1
    return 0


def test_sysfs_shows_who_has_what(machine: Lab) -> None:
    tree = machine.host.machine.tree
    device = "/sys/bus/pci/devices"
    assert tree.realpath(f"{device}/{AUDIO}/driver") == DRIVER
    assert b"DRIVER=snd_hda_intel\n" in tree.read(f"{device}/{AUDIO}/uevent")
    assert tree.realpath(f"{DRIVER}/module") == "/sys/module/snd_hda_intel"
    assert AUDIO in tree.listdir(DRIVER)
    assert tree.read(f"{device}/{AUDIO}/driver_override") == b"(null)\n"
    assert "driver" not in tree.listdir(f"{device}/0000:02:00.0")
    assert b"DRIVER" not in tree.read(f"{device}/0000:02:00.0/uevent")
    assert tree.realpath(f"{device}/{GPU}/driver") == "/sys/bus/pci/drivers/vfio-pci"


def test_vfio_has_nodes_for_its_own_functions_alone_numbered_from_0(machine: Lab) -> None:
    nodes = sorted(path for path in machine.host.machine.nodes if "devices" in path)
    assert nodes == ["/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1"]
    tree = machine.host.machine.tree
    assert tree.listdir(f"/sys/bus/pci/devices/{GPU}/vfio-dev") == ("vfio0",)
    assert tree.listdir("/sys/bus/pci/devices/0000:03:00.0/vfio-dev") == ("vfio1",)


def test_a_sibling_of_the_hosts_keeps_the_group_from_user_space_and_is_named(machine: Lab) -> None:
    with pytest.raises(NotPermitted) as info:
        machine.device(1)
    assert "not viable: the host's driver snd_hda_intel has 0000:01:00.1" in info.value.refusal.reason
    assert str(info.value.refusal.culprit) == f"device {AUDIO}"
    assert write(machine.host.machine, f"{DRIVER}/unbind", AUDIO) == 0
    machine.device(1).attach(machine.iommufd.ioas())


def test_a_group_says_by_its_flags_whether_it_is_viable(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(CARD)
    with program(machine=str(file)) as client:
        group, container = client.open(client.group_of(GPU)), client.open("/dev/vfio/vfio")
        assert client.status(group) == 0
        with pytest.raises(NotPermitted, match=f"snd_hda_intel has {AUDIO}"):
            client.set_container(group, container)
        assert write(client.host, f"{DRIVER}/unbind", AUDIO) == 0
        assert client.status(group) == vfio.VFIO_GROUP_FLAGS_VIABLE
        client.set_container(group, container)


def test_a_sibling_is_not_given_to_its_driver_while_user_space_has_the_group(machine: Lab) -> None:
    host = machine.host.machine
    assert write(host, f"{DRIVER}/unbind", AUDIO) == 0
    device = machine.device(1)
    assert write(host, f"{DRIVER}/bind", AUDIO) == errno.EBUSY
    assert write(host, "/sys/bus/pci/drivers_probe", AUDIO) == errno.EINVAL
    assert "driver" not in host.tree.listdir(f"/sys/bus/pci/devices/{AUDIO}")
    device.close()
    assert write(host, f"{DRIVER}/bind", AUDIO) == 0


def test_the_refusal_of_a_late_driver_names_both(machine: Lab) -> None:
    group = machine.function(3).requester.group
    assert group is not None
    machine.device(3)
    with pytest.raises(Busy, match=r"e1000e cannot have 0000:03:00\.0: user space has its group"):
        group.use("0000:03:00.0", "e1000e")


def test_a_function_moves_from_its_driver_to_vfio_pci_and_back_as_on_a_real_machine(machine: Lab) -> None:
    host = machine.host.machine
    device, vfio_pci = f"/sys/bus/pci/devices/{AUDIO}", "/sys/bus/pci/drivers/vfio-pci"
    assert write(host, f"{vfio_pci}/bind", AUDIO) == errno.ENODEV, "which does not want it"
    assert write(host, f"{device}/driver_override", "vfio-pci") == 0
    assert write(host, f"{vfio_pci}/bind", AUDIO) == errno.EBUSY, "its driver has it"
    assert write(host, f"{device}/driver/unbind", AUDIO) == 0
    assert write(host, "/sys/bus/pci/drivers_probe", AUDIO) == 0
    assert host.tree.realpath(f"{device}/driver") == vfio_pci
    assert write(host, f"{DRIVER}/bind", AUDIO) == errno.ENODEV, "driver_override says otherwise"
    assert write(host, f"{device}/driver/unbind", AUDIO) == 0
    assert write(host, f"{device}/driver_override", "") == 0
    assert write(host, "/sys/bus/pci/drivers_probe", AUDIO) == 0
    assert host.tree.realpath(f"{device}/driver") == DRIVER
    assert b"DRIVER=snd_hda_intel\n" in host.tree.read(f"{device}/uevent")


@pytest.mark.parametrize(
    ("file", "bdf", "number"),
    [
        ("unbind", GPU, errno.ENODEV),
        ("bind", GPU, errno.ENODEV),
        ("bind", "0000:0f:00.0", errno.ENODEV),
        ("bind", AUDIO, errno.EBUSY),
    ],
)
def test_what_the_driver_does_not_have_or_take_is_refused(machine: Lab, file: str, bdf: str, number: int) -> None:
    assert write(machine.host.machine, f"{DRIVER}/{file}", bdf) == number


def test_a_function_without_driver_can_be_given_to_vfio_pci(machine: Lab) -> None:
    host = machine.host.machine
    assert write(host, "/sys/bus/pci/devices/0000:02:00.0/driver_override", "vfio-pci") == 0
    assert write(host, "/sys/bus/pci/drivers_probe", "0000:02:00.0") == 0
    machine.device(2).attach(machine.iommufd.ioas())
    assert os.path.basename(machine.device(2).path) == "vfio2"
