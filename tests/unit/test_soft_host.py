"""`SoftHost`: a machine is put together, opened and closed."""

from __future__ import annotations

import gc
import os
import re
import threading
from errno import ENODEV, ENOENT, EPERM
from pathlib import Path

import pytest

from ioas.errors import MachineError, UsageError
from ioas.host import Capability
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost, load_model, model_names, models
from ioas.soft.host.capabilities import parse_capabilities
from ioas.soft.iommu import Group
from ioas.soft.pci import CharDevice, Function
from ioas.soft.vfio import Cdev
from tests.support.models import Rich
from tests.support.vfio_client import Client, bound, refused, running


def test_without_anything_a_machine_has_one_edu() -> None:
    with SoftHost() as host:
        assert list(host.functions) == ["0000:01:00.0"]
        assert host.functions["0000:01:00.0"].model == "edu"
        assert host.grants == frozenset()
        assert host.system.isolation == "strict"


def test_a_machine_file_without_devices_has_none(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text("[machine]\nisolation = 'kernel'\n")
    with SoftHost(machine=file) as host:
        assert host.functions == {}
        assert host.system.isolation == "kernel"
    with SoftHost(machine=file, isolation="strict") as host:
        assert host.system.isolation == "strict"


@pytest.mark.parametrize(
    ("iommu", "name", "last"),
    [
        ("", "dmar0", 0xFFFF_FFFF_FFFF),
        ("address_width = 39", "dmar0", 0x7F_FFFF_FFFF),
        ('kind = "amd"', "ivhd0", 0xFFFF_FFFF_FFFF),
    ],
)
def test_the_unit_is_that_of_the_machine_file(tmp_path: Path, iommu: str, name: str, last: int) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(f"[iommu]\n{iommu}\n")
    with SoftHost(machine=file) as host:
        (unit,) = host.system.units
        assert (unit.name, unit.geometry.start, unit.geometry.last) == (name, 0, last)
        if name == "dmar0":
            capability = int(host.tree.read("/sys/class/iommu/dmar0/intel-iommu/cap"), 16)
            assert 1 << (capability >> 16 & 0x3F) + 1 == last + 1
        assert unit.geometry.force_aperture


def test_a_unit_that_can_be_passed_by_is_refused_for_user_dma_unless_the_policy_is_the_kernels(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[iommu]\nforce_aperture = false\n[[device]]\nmodel = "edu"\n')
    caller = LocalCaller()
    for isolation in ("strict", "kernel"):
        with SoftHost(machine=file, isolation=isolation) as host:
            client = Client(host, caller)
            client.bind()
            if isolation == "kernel":
                assert client.attach(client.ioas())
            else:
                with refused(EPERM):
                    client.attach(client.ioas())
            os.close(client.iommu_fd)
    caller.close()


def test_devices_stand_beside_those_of_the_machine_file(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[[device]]\nmodel = "edu"\naddr = "0000:02:00.0"\noptions = { dma_mask = 0xffff }\n')
    with SoftHost(["edu", "edu", "edu,addr=07:00.0"], machine=file) as host:
        assert list(host.functions) == ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:07:00.0"]
        assert host.functions["0000:02:00.0"].option_values["dma_mask"] == 0xFFFF


def test_a_function_made_by_the_caller_can_be_plugged_in() -> None:
    model = Rich()
    with SoftHost([model]) as host:
        assert host.functions["0000:01:00.0"] is model


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ("eduu", "eduu.*edu"),
        ("edu,colour=red", "colour.*dma_mask"),
        ("edu,dma_mask=red", "dma_mask.*red"),
        ("edu,addr=0000:00:00.0", "0000:00:00.0"),
    ],
)
def test_a_device_that_cannot_be_is_refused_in_one_line(device: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=f"(?s)--device {re.escape(device)}.*{complaint}") as info:
        SoftHost([device])
    assert "\n" not in str(info.value)


def test_a_busy_address_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0000:05:00\.0"):
        SoftHost(["edu,addr=05:00.0", "edu,addr=0000:05:00.0"])


def test_a_device_of_a_machine_file_is_refused_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('[machine]\n\n[[device]]\nmodel = "eduu"\n')
    with pytest.raises(MachineError, match=r"lab\.toml:3: .*eduu"):
        SoftHost(machine=file)


def test_devices_are_a_list_not_a_text() -> None:
    with pytest.raises(UsageError, match="edu"):
        SoftHost("edu")


@pytest.mark.parametrize("device", [7, None, Rich, b"edu"])
def test_a_device_is_a_text_or_a_function(device: object) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(device))):
        SoftHost([device])


def test_a_path_that_cannot_be_is_a_machine_error() -> None:
    with pytest.raises(MachineError, match="null"):
        SoftHost(machine="a\0b")


def test_an_unknown_isolation_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="strict or kernel"):
        SoftHost(isolation="loose")


@pytest.mark.parametrize("name", ["sys_rawio", "SYS_RAWIO", "CAP_SYS_RAWIO", "cap_sys_rawio"])
def test_capabilities_are_granted_by_name(name: str) -> None:
    with SoftHost(capabilities=[name, "ipc_lock"]) as host:
        assert host.grants == {Capability.SYS_RAWIO, Capability.IPC_LOCK}


def test_an_unknown_capability_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"net_raw.*ipc_lock.*sys_rawio"):
        parse_capabilities(["net_raw"])


def test_models_are_found_by_name() -> None:
    assert "edu" in model_names()
    assert load_model("edu").model == "edu"


@pytest.mark.parametrize("names", ["sys_rawio", [7]])
def test_capabilities_are_a_list_of_names(names: object) -> None:
    with pytest.raises(UsageError, match=r"sys_rawio|7"):
        parse_capabilities(names)


MODELS = """
from typing import ClassVar
from ioas.soft.pci import Function, Msi, Option

class Blinker(Function):
    model: ClassVar[str] = "blinker"
    vendor_id: ClassVar[int] = 0x1AF4
    capabilities = (Msi(2),)
    colour = Option("red", "what it shines", choices=("red", "green"))
    rate = Option(1.0, "how often, in Hz", minimum=0.1)

class Plain(Function):
    def __init__(self) -> None:
        super().__init__()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that registers models, some of which do not load."""
    entries = {
        "blinker": "blinkers:Blinker",
        "fancy": "blinkers:Blinker [colours]",
        "plain": "blinkers:Plain",
        "edu": "blinkers:Blinker",
        "unparsable": "blinkers_unparsable:X",
        "failing": "blinkers_failing:X",
    }
    metadata = tmp_path / "blinkers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: blinkers\nVersion: 1.0\n")
    lines = "".join(f"{name} = {place}\n" for name, place in entries.items())
    (metadata / "entry_points.txt").write_text(f"[ioas.devices]\n{lines}")
    (tmp_path / "blinkers.py").write_text(MODELS)
    (tmp_path / "blinkers_unparsable.py").write_text("def (")
    (tmp_path / "blinkers_failing.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
def test_models_of_other_packages_are_found_and_cannot_take_the_name_of_a_built_in_one() -> None:
    assert {"blinker", "fancy", "edu"} <= set(model_names())
    assert load_model("edu").vendor_id == 0x1234
    with SoftHost(["blinker,colour=green,rate=2", "fancy"]) as host:
        assert [str(function) for function in host.functions.values()] == [
            "blinker 0000:01:00.0",
            "blinker 0000:02:00.0",
        ]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ("blinker,colour=blue", "one of red, green"),
        ("blinker,rate=nan", "at least 0.1"),
        ("plain,rate=1", "Plain has no option 'rate'"),
        ("unparsable", "blinkers_unparsable:X.*SyntaxError"),
        ("failing", "blinkers_failing:X.*ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_a_model_of_another_package_is_said_in_one_line(device: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as info:
        SoftHost([device])
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("place", ["no_such_package:Model", "ioas.devices.edu:Missing", "ioas.errors:UsageError", "os"])
def test_a_model_that_does_not_load_is_refused_by_its_place(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models._BUILT_IN, "broken", place)
    with pytest.raises(UsageError, match=re.escape(place)):
        load_model("broken")


def _group(function: Function) -> Group:
    assert function.requester.group is not None
    return function.requester.group


def test_nodes_have_the_numbers_that_sysfs_shows() -> None:
    with SoftHost(["edu", "edu"]) as host:
        groups = sorted(f"/dev/vfio/{group.id}" for group in map(_group, host.functions.values()))
        assert sorted(host.nodes) == [
            "/dev/iommu",
            *groups,
            "/dev/vfio/devices/vfio0",
            "/dev/vfio/devices/vfio1",
            "/dev/vfio/vfio",
        ]
        for index, address in enumerate(host.functions):
            node = host.nodes[f"/dev/vfio/devices/vfio{index}"]
            directory = f"/sys/bus/pci/devices/{address}/vfio-dev/vfio{index}"
            assert host.tree.read(f"{directory}/dev") == f"{node.major}:{node.minor}\n".encode()
        for path, node in host.nodes.items():
            entry = host.tree.get(path)
            assert isinstance(entry, CharDevice)
            assert (entry.major, entry.minor, entry.mode) == node


def test_an_open_file_has_the_number_of_its_node() -> None:
    with running() as client:
        for path, node in client.host.nodes.items():
            file = client.open(path)
            assert file.device_number == (node.major, node.minor)
            file.close()


@pytest.mark.parametrize("path", ["/dev/null", "/dev/vfio", "/dev/vfio/devices/vfio1", "/dev/vfio/8", ""])
def test_a_path_that_is_no_node_is_enoent(path: str) -> None:
    with running() as client, refused(ENOENT):
        client.open(path)


def test_a_cdev_can_be_opened_any_number_of_times() -> None:
    with running() as client:
        files = [client.open("/dev/vfio/devices/vfio0") for _ in range(3)]
        assert client.host.leaks() == {"files": 5}
        for file in files:
            file.close()
            file.close()
        assert client.host.leaks() == {"files": 2}


def test_closing_a_machine_closes_its_files_and_stops_its_threads() -> None:
    before = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    caller = LocalCaller()
    host = SoftHost()
    client = Client(host, caller)
    client.bind()
    client.attach(client.ioas())
    client.set_config(4, 2, 6)
    client.set_bar(0x08, 5)  # a factorial: the machine's time begins
    host.close()
    host.close()
    assert host.leaks() == {}
    with refused(ENODEV):
        host.open(caller, "/dev/iommu", os.O_RDWR)
    os.close(client.iommu_fd)
    caller.close()
    assert set(threading.enumerate()) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_machines_one_after_another_leave_nothing_behind() -> None:
    gc.collect()  # what other tests have left to it
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with bound() as client:
            client.attach(client.ioas())
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_opened_read_only_a_cdev_is_a_cdev() -> None:
    with running() as client:
        file = client.open("/dev/vfio/devices/vfio0", os.O_RDONLY)
        assert isinstance(file, Cdev)
        file.close()
