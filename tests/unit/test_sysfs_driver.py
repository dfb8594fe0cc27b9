"""Writing to the files of vfio-pci takes devices from it and gives them to it, with the errors of Linux 7.3.4."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from ioas.errors import NotFound
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost
from ioas.soft.pci.sysfs_driver import InUse

DRIVER = "/sys/bus/pci/drivers/vfio-pci"
FIRST, SECOND = "0000:01:00.0", "0000:02:00.0"
DEVICE = f"/sys/bus/pci/devices/{FIRST}"


@pytest.fixture
def host() -> Iterator[SoftHost]:
    with SoftHost(["edu", "edu"]) as machine:
        yield machine


def write(host: SoftHost, path: str, text: str) -> int:
    """Write as echo does; the errno, 0 for none."""
    try:
        host.tree.write(path, f"{text}\n".encode())
    except OSError as error:
        return error.errno or -1
    return 0


def bound(host: SoftHost) -> set[str]:
    """What is bound, checked against everything that shows it."""
    found = {name for name in host.tree.listdir(DRIVER) if name.startswith("0000:")}
    for bdf in (FIRST, SECOND):
        names = host.tree.listdir(f"/sys/bus/pci/devices/{bdf}")
        assert ("driver" in names) == ("vfio-dev" in names) == (bdf in found)
        assert (b"DRIVER=vfio-pci\n" in host.tree.read(f"/sys/bus/pci/devices/{bdf}/uevent")) == (bdf in found)
    nodes = set(host.tree.listdir("/dev/vfio/devices"))
    assert nodes == set(host.tree.listdir("/sys/class/vfio-dev"))
    assert nodes == {os.path.basename(path) for path in host.nodes if "vfio/devices" in path}
    assert len(nodes) == len(found)
    return found


def test_unbind_takes_the_device_and_its_node_away_and_bind_brings_them_back(host: SoftHost) -> None:
    assert bound(host) == {FIRST, SECOND}
    assert write(host, f"{DEVICE}/driver/unbind", FIRST) == 0
    assert bound(host) == {SECOND}
    with pytest.raises(NotFound):
        host.open(LocalCaller(), "/dev/vfio/devices/vfio0", os.O_RDWR)
    assert write(host, f"{DRIVER}/bind", FIRST) == 0
    assert bound(host) == {FIRST, SECOND}
    host.open(LocalCaller(), "/dev/vfio/devices/vfio0", os.O_RDWR).close()


def test_bind_and_unbind_refuse_what_the_kernel_refuses(host: SoftHost) -> None:
    assert write(host, f"{DRIVER}/bind", FIRST) == errno.EBUSY
    assert write(host, f"{DRIVER}/bind", "0000:09:00.0") == errno.ENODEV
    assert write(host, f"{DRIVER}/unbind", "0000:09:00.0") == errno.ENODEV
    assert write(host, f"{DRIVER}/unbind", f"{FIRST}\n") == errno.ENODEV  # one newline is forgiven
    assert write(host, f"{DRIVER}/unbind", FIRST) == 0
    assert write(host, f"{DRIVER}/unbind", FIRST) == errno.ENODEV
    assert write(host, f"{DEVICE}/driver_override", "nosuch") == 0
    assert write(host, f"{DRIVER}/bind", FIRST) == errno.ENODEV
    assert write(host, f"{DEVICE}/driver_override", "") == 0
    assert write(host, f"{DRIVER}/bind", FIRST) == errno.ENODEV
    assert bound(host) == {SECOND}


def test_an_override_names_the_driver_and_nothing_clears_it(host: SoftHost) -> None:
    for text, shown in (("nosuch", b"nosuch\n"), ("", b"(null)\n"), ("vfio-pci\nmore", b"vfio-pci\n")):
        assert write(host, f"{DEVICE}/driver_override", text) == 0
        assert host.tree.read(f"{DEVICE}/driver_override") == shown
    assert bound(host) == {FIRST, SECOND}


def test_probing_binds_what_a_driver_wants_and_is_no_error_otherwise(host: SoftHost) -> None:
    assert write(host, f"{DRIVER}/unbind", FIRST) == 0
    assert write(host, f"{DEVICE}/driver_override", "nosuch") == 0
    assert write(host, "/sys/bus/pci/drivers_probe", FIRST) == 0
    assert bound(host) == {SECOND}
    assert write(host, f"{DEVICE}/driver_override", "vfio-pci") == 0
    assert write(host, "/sys/bus/pci/drivers_probe", FIRST) == 0 == write(host, "/sys/bus/pci/drivers_probe", FIRST)
    assert bound(host) == {FIRST, SECOND}
    assert write(host, "/sys/bus/pci/drivers_probe", "0000:77:00.0") == errno.ENODEV


def test_new_id_takes_every_free_device_of_the_kind(host: SoftHost) -> None:
    for bdf in (FIRST, SECOND):
        assert write(host, f"{DRIVER}/unbind", bdf) == 0
        assert write(host, f"/sys/bus/pci/devices/{bdf}/driver_override", "") == 0
    assert write(host, f"{DRIVER}/new_id", "1234 ffff") == 0
    assert write(host, f"{DRIVER}/new_id", "1234 11e8 1 2") == 0
    assert bound(host) == set()
    assert write(host, f"{DRIVER}/new_id", "1234 11e8") == 0
    assert bound(host) == {FIRST, SECOND}
    assert write(host, f"{DRIVER}/new_id", "1234 11e8") == errno.EEXIST
    assert write(host, f"{DRIVER}/new_id", "zz") == errno.EINVAL == write(host, f"{DRIVER}/remove_id", "1234")
    assert write(host, f"{DRIVER}/remove_id", "1234 11e8") == 0
    assert write(host, f"{DRIVER}/remove_id", "1234 11e8") == errno.ENODEV


def test_a_device_that_is_bound_again_takes_the_lowest_free_name(host: SoftHost) -> None:
    for bdf in (FIRST, SECOND):
        assert write(host, f"{DRIVER}/unbind", bdf) == 0
    assert write(host, f"{DRIVER}/bind", SECOND) == 0 == write(host, f"{DRIVER}/bind", FIRST)
    assert host.tree.listdir(f"/sys/bus/pci/devices/{SECOND}/vfio-dev") == ("vfio0",)
    assert host.tree.listdir(f"{DEVICE}/vfio-dev") == ("vfio1",)
    shown = host.tree.read(f"{DEVICE}/vfio-dev/vfio1/dev").decode().strip()
    assert shown == ":".join(map(str, host.nodes["/dev/vfio/devices/vfio1"][:2]))


def test_unbinding_waits_until_the_device_is_closed(host: SoftHost) -> None:
    file = host.open(LocalCaller(), "/dev/vfio/devices/vfio0", os.O_RDWR)
    with pytest.raises(InUse) as waiting:
        host.tree.write(f"{DRIVER}/unbind", FIRST.encode())
    assert "vfio0" not in host.tree.listdir("/dev/vfio/devices")  # nobody else gets it
    assert "driver" in host.tree.listdir(DEVICE)
    assert not waiting.value.ended()
    file.close()
    assert waiting.value.ended()
    assert bound(host) == {SECOND}


def test_a_second_who_unbinds_does_not_take_the_device_from_whoever_has_bound_it_since(host: SoftHost) -> None:
    file, waiting = host.open(LocalCaller(), "/dev/vfio/devices/vfio0", os.O_RDWR), []
    for _ in range(2):
        with pytest.raises(InUse) as each:
            host.tree.write(f"{DRIVER}/unbind", FIRST.encode())
        waiting.append(each.value)
    file.close()
    assert waiting[0].ended()
    assert write(host, f"{DRIVER}/bind", FIRST) == 0
    assert waiting[1].ended()
    host.open(LocalCaller(), "/dev/vfio/devices/vfio0", os.O_RDWR).close()
    assert bound(host) == {FIRST, SECOND}
    assert "driver" in host.tree.listdir(DEVICE)
