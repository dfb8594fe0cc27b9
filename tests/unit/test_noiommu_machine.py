"""A machine without an IOMMU: what vfio-pci takes, what sysfs shows, and what taints (vfio_main.c, group.c, 7.3)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioas import SoftHost as ApiHost
from ioas.cli.main import main
from ioas.errors import MachineError
from ioas.soft.host import SoftHost
from ioas.soft.host.machine_file import parse_machine
from ioas.soft.iommu import Taint
from ioas.soft.pci.sysfs_parameters import UNSAFE_NOIOMMU as SWITCH

DRIVER = "/sys/bus/pci/drivers/vfio-pci"
BDF = "0000:01:00.0"
FUNCTION = f"/sys/bus/pci/devices/{BDF}"


@pytest.fixture
def host() -> Iterator[SoftHost]:
    with SoftHost(["edu", "edu"], no_iommu=True) as host:
        yield host


@pytest.fixture
def safe(tmp_path: Path) -> Iterator[SoftHost]:
    """Without an IOMMU, and without VFIO's unsafe mode."""
    file = tmp_path / "lab.toml"
    file.write_text('[iommu]\nkind = "none"\n[[device]]\nmodel = "edu"\n')
    with SoftHost(machine=file) as host:
        yield host


def write(host: SoftHost, path: str, text: str) -> int:
    """Write as echo does; the errno, 0 for none."""
    try:
        host.tree.write(path, f"{text}\n".encode())
    except OSError as error:
        return error.errno or -1
    return 0


def test_nodes_and_groups_say_that_there_is_no_iommu(host: SoftHost) -> None:
    assert sorted(host.nodes) == [
        "/dev/iommu",
        "/dev/vfio/devices/noiommu-vfio0",
        "/dev/vfio/devices/noiommu-vfio1",
        "/dev/vfio/noiommu-0",
        "/dev/vfio/noiommu-1",
        "/dev/vfio/vfio",
    ]
    assert host.tree.read(f"{FUNCTION}/iommu_group/name") == b"vfio-noiommu\n"
    assert host.tree.read(f"{FUNCTION}/iommu_group/type") == b"unknown\n"
    assert host.tree.read(f"{FUNCTION}/iommu_group/reserved_regions") == b""
    assert host.tree.listdir("/sys/kernel/iommu_groups/1/devices") == ("0000:02:00.0",)
    assert host.tree.listdir("/sys/class/iommu") == ()
    assert host.tree.listdir(f"{FUNCTION}/vfio-dev") == ("noiommu-vfio0",)
    uevent = host.tree.read("/sys/class/vfio/noiommu-1/uevent")
    assert b"DEVNAME=vfio/noiommu-1\n" in uevent


def test_each_device_that_vfio_takes_taints_the_machine(host: SoftHost, safe: SoftHost) -> None:
    assert [taint.device for taint in host.system.taints.record] == [BDF, "0000:02:00.0"]
    assert host.system.taints.flags == 64
    assert (safe.system.taints.record, safe.system.taints.flags) == ([], 0)
    with SoftHost() as usual:
        assert usual.system.taints.flags == 0


def test_who_listens_is_told_of_a_taint(host: SoftHost) -> None:
    told: list[Taint] = []
    host.system.taints.on_taint.append(told.append)
    assert write(host, f"{DRIVER}/unbind", BDF) == 0
    assert write(host, f"{DRIVER}/bind", BDF) == 0
    assert [taint.device for taint in told] == [BDF]


def test_an_unbound_function_is_in_no_group_and_a_bound_one_in_a_new_one(host: SoftHost) -> None:
    assert write(host, f"{DRIVER}/unbind", BDF) == 0
    assert "/dev/vfio/noiommu-0" not in host.nodes
    assert "iommu_group" not in host.tree.listdir(FUNCTION)
    assert host.tree.listdir("/sys/kernel/iommu_groups") == ("1",)
    assert host.system.taints.flags == 64  # nothing takes it back
    assert write(host, f"{DRIVER}/bind", BDF) == 0
    assert host.tree.realpath(f"{FUNCTION}/iommu_group") == "/sys/kernel/iommu_groups/0"
    assert "/dev/vfio/devices/noiommu-vfio0" in host.nodes


def test_without_the_unsafe_mode_vfio_takes_no_device_that_has_no_iommu(safe: SoftHost) -> None:
    assert sorted(safe.nodes) == ["/dev/iommu", "/dev/vfio/vfio"]
    assert "driver" not in safe.tree.listdir(FUNCTION)
    assert write(safe, f"{DRIVER}/bind", BDF) == errno.EINVAL
    assert safe.tree.read(SWITCH) == b"N\n"
    assert write(safe, SWITCH, "1") == 0
    assert safe.tree.read(SWITCH) == b"Y\n"
    assert write(safe, f"{DRIVER}/bind", BDF) == 0
    assert "/dev/vfio/devices/noiommu-vfio0" in safe.nodes
    assert safe.system.taints.flags == 64


def test_turning_the_unsafe_mode_off_lets_devices_be_until_they_are_bound_again(host: SoftHost) -> None:
    assert host.tree.read(SWITCH) == b"Y\n"
    for word in ("off", "n", "F", "0"):
        assert write(host, SWITCH, word) == 0
    assert "/dev/vfio/noiommu-0" in host.nodes
    assert write(host, f"{DRIVER}/unbind", BDF) == 0
    assert write(host, f"{DRIVER}/bind", BDF) == errno.EINVAL


@pytest.mark.parametrize("word", ["", "maybe", "2", "o"])
def test_the_switch_takes_what_a_parameter_of_the_kernel_does(host: SoftHost, word: str) -> None:
    assert write(host, SWITCH, word) == errno.EINVAL
    assert host.system.unsafe_noiommu


def test_the_unsafe_mode_changes_nothing_for_devices_with_an_iommu(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[machine]\nunsafe_noiommu = true\n[[device]]\nmodel = "edu"\n')
    with SoftHost(machine=file) as host:
        assert "/dev/vfio/devices/vfio0" in host.nodes
        assert host.system.unsafe_noiommu
        assert host.system.taints.flags == 0


def test_no_iommu_takes_the_unit_of_a_machine_file_away(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[iommu]\nkind = "amd"\n[[device]]\nmodel = "edu"\n')
    with SoftHost(machine=file, no_iommu=True) as host:
        assert (host.system.units, host.system.unsafe_noiommu) == ([], True)


def test_a_machine_file_describes_a_machine_without_an_iommu() -> None:
    machine = parse_machine('[machine]\nunsafe_noiommu = true\n[iommu]\nkind = "none"')
    assert (machine.units, machine.unsafe_noiommu) == ((), True)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("[machine]\nunsafe_noiommu = 1", 2, "unsafe_noiommu"),
        ('[iommu]\nkind = "none"\naddress_width = 48', 3, "address_width"),
        ('[iommu]\nkind = "none"\nscalable = false', 3, "scalable"),
    ],
)
def test_a_wrong_machine_file_is_refused_with_line_and_key(text: str, line: int, key: str) -> None:
    with pytest.raises(MachineError, match=rf"^lab.toml:{line}: .*'{key}'"):
        parse_machine(text, "lab.toml")


def test_pages_stand_where_a_device_of_28_address_lines_reaches() -> None:
    machine = ApiHost(no_iommu=True, capabilities=["sys_rawio"])
    with machine as host, host.iommufd() as iommufd, host.device(BDF) as device:
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        with space.alloc(64 * 4096, writable=True, memory="anonymous") as buffer:
            assert max(buffer.pages) < 1 << 28
            assert len(set(buffer.pages)) == 64


def test_inspection_tells_no_iommu_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[machine]\nunsafe_noiommu = true\n[iommu]\nkind = "none"\n[[device]]\nmodel = "edu"\n')
    with pytest.raises(SystemExit):
        main(["ls", "--machine", str(file)])
    assert "no-IOMMU mode of VFIO: nothing translates or stops DMA" in capsys.readouterr().out
