"""`ioas ls` and `ioas doctor` as commands, and machines whose files are not what they should be."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from ioas.inspect import Case, Machine, Wanted, diagnose, take
from ioas.inspect.doctor import CHECKS
from ioas.inspect.screens import diagnosis_lines, inventory_trees, show
from ioas.soft.pci import Directory, Link, Tree
from ioas.sysfs import Source
from tests.inspect.describe import DISK, NETWORK, PORTS, Pc

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/doctor.md"


def drawn(machine: Machine) -> str:
    """The screen of `ioas ls`, where standard output is no terminal."""
    with redirect_stdout(StringIO()) as out:
        show(inventory_trees(take(machine)), machine)
    return out.getvalue()


def test_a_tree_shows_units_groups_functions_and_drivers() -> None:
    pc = Pc()
    pc.group(PORTS[DISK], 3)
    assert drawn(pc.machine()).splitlines() == [
        "dmar0 (VT-d), 48 bits, remaps interrupts",
        "├── group 2 0000:00:02.0 PCI bridge 8086:1234 pcieport",
        "├── group 3",
        "│   ├── 0000:00:01.0 PCI bridge 8086:1234 pcieport",
        "│   └── 0000:01:00.0 NVMe 8086:1234 vfio-pci /dev/vfio/devices/vfio0",
        "└── group 4 0000:02:00.0 Ethernet 8086:1234",
    ]


def test_a_machine_without_an_iommu_shows_its_functions() -> None:
    pc = Pc()
    pc.no_iommu()
    lines = drawn(pc.machine()).splitlines()
    assert lines[0] == "without an IOMMU"
    assert lines[3] == "├── 0000:01:00.0 NVMe 8086:1234 nvme"
    assert drawn(Machine(Tree())) == "no PCI devices\n"


def test_long_lines_are_whole_where_there_is_no_terminal() -> None:
    pc = Pc()
    pc.driver(DISK, "x" * 300)
    assert "x" * 300 in drawn(pc.machine())


def test_no_iommu_mode_is_told_from_an_iommu() -> None:
    pc = Pc()
    pc.no_iommu()
    pc.text(f"{pc.path(DISK)}/vfio-dev/noiommu-vfio0/dev", "511:0")
    pc.driver(DISK, "vfio-pci")
    pc.group(DISK, 0)
    assert "no-IOMMU mode of VFIO: nothing translates or stops DMA\n└── group 0 0000:01:00.0 NVMe" in drawn(
        pc.machine()
    )


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    pc = Pc()
    pc.text("/sys/kernel/iommu_groups/3/type", "[bold]odd[/bold]")
    pc.driver(DISK, "[red]x")
    assert "group 3 ([bold]odd[/bold]) 0000:01:00.0 NVMe 8086:1234 [red]x" in drawn(pc.machine())


def test_the_inventory_as_json_names_its_schema() -> None:
    data = json.loads(json.dumps(take(Pc().machine()).as_json()))
    assert (data["schema"], data["version"]) == ("ioas.ls", 1)
    assert data["units"] == [{"name": "dmar0", "kind": "VT-d", "bits": 48, "interrupt_remapping": True}]
    assert data["groups"][2]["functions"] == [DISK]
    assert data["groups"][2]["reserved"] == [[0xFEE00000, 0xFEEFFFFF, "msi"]]
    assert data["functions"][2] == {
        "bdf": DISK,
        "vendor": 0x8086,
        "device": 0x1234,
        "class_code": 0x010802,
        "driver": "vfio-pci",
        "group": 3,
        "unit": "dmar0",
        "vfio": "vfio0",
        "resets": ["flr", "bus"],
        "numa_node": None,
        "link": None,
    }


def test_place_and_link_of_a_device_are_told() -> None:
    pc = Pc()
    pc.texts(pc.path(DISK), {"numa_node": "1", "current_link_speed": "8.0 GT/s PCIe", "current_link_width": "4"})
    case = Case(pc.machine(), DISK, "driver", Wanted())
    title = next(diagnosis_lines(case, diagnose(case))).plain
    assert title == f"{DISK} (NVMe 8086:1234, NUMA node 1, 8.0 GT/s PCIe x4) for a driver in user space: yes"


class Broken:
    """A source in which one file or link cannot be read, or is garbage."""

    def __init__(self, source: Source, path: str, number: int | None) -> None:
        self._source, self._path, self._number = source, path, number

    def read(self, path: str) -> bytes:
        return self._fail(path) or self._source.read(path)

    def listdir(self, path: str) -> Sequence[str]:
        return ["\udcff", "not-a-number"] if self._fail(path) else self._source.listdir(path)

    def readlink(self, path: str) -> str:
        return "../../garbage" if self._fail(path) else self._source.readlink(path)

    def _fail(self, path: str) -> bytes | None:
        if path != self._path:
            return None
        if self._number is not None:
            raise OSError(self._number, os.strerror(self._number), path)
        return b"\xff\x00 garbage [bold]\n0x 0x\n\n" * 3


def everything() -> list[str]:
    """Every path of the machine that is read."""
    pc = Pc()
    paths = [path for path, _ in pc.tree.walk()]
    for bdf in (DISK, NETWORK, *PORTS.values()):
        real = pc.path(bdf)
        paths += [
            f"/sys/bus/pci/devices/{bdf}{path.removeprefix(real)}" for path in paths if path.startswith(real + "/")
        ]
    return paths


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOENT, errno.ENODEV, errno.ELOOP, None])
def test_files_that_are_unreadable_or_gone_or_garbage_are_survived_and_named(number: int | None) -> None:
    pc = Pc()
    for path in everything():
        machine = Machine(Broken(pc.tree, path, number), pc.nodes.get)
        take(machine)
        for purpose in ("vm", "driver", "noiommu"):
            case = Case(machine, DISK, purpose, Wanted(1 << 30, 1 << 30, (0, 4095)))  # type: ignore[arg-type]
            list(diagnosis_lines(case, diagnose(case)))
        if number in (errno.EACCES, errno.EIO, errno.ELOOP):
            assert set(machine.unreadable) <= {path}
        else:
            assert machine.unreadable == {}


def test_what_could_not_be_read_is_kept_with_the_reason() -> None:
    pc = Pc()
    path = f"/sys/bus/pci/devices/{DISK}/class"
    machine = Machine(Broken(pc.tree, path, errno.EACCES), pc.nodes.get)
    with redirect_stderr(StringIO()) as complaints:
        drawn(machine)
    assert complaints.getvalue() == f"ioas: {path}: Permission denied\n"
    assert machine.unreadable == {path: "Permission denied"}


def ioas(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ioas", *arguments], capture_output=True, text=True, timeout=60)


def test_the_commands_answer_for_this_machine() -> None:
    done = ioas("ls", "--json")
    assert done.returncode == 0
    assert [one["bdf"] for one in json.loads(done.stdout)["functions"]] == (
        sorted(os.listdir("/sys/bus/pci/devices")) if os.path.isdir("/sys/bus/pci/devices") else []
    )
    assert "Traceback" not in ioas("ls").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0000:ff:1f.7"], "there is no PCI device '0000:ff:1f.7'; `ioas ls` shows those that there are"),
        (["01:00.0", "--memory", "lots"], "--memory: 'lots' is no size such as 512M or 8G"),
        (["01:00.0", "--hugepages", "-1"], "--hugepages: '-1' is no size"),
        (["01:00.0", "--iova", "7"], "--iova: '7' is no range such as 0x100000-0x1fffff"),
        (["01:00.0", "--iova", "2-1"], "--iova: '2-1' is no range"),
        (["01:00.0", "--machine", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = ioas("doctor", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["doctor", "bind", "unbind"])
def test_a_shell_completes_addresses(command: str) -> None:
    devices = sorted(os.listdir("/sys/bus/pci/devices")) if os.path.isdir("/sys/bus/pci/devices") else []
    environment = {**os.environ, "_IOAS_COMPLETE": "bash_complete", "COMP_WORDS": f"ioas {command} ", "COMP_CWORD": "2"}
    program = [sys.executable, "-m", "ioas"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, env=environment)
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == devices


@pytest.mark.parametrize("command", ["bind", "unbind"])
def test_binding_needs_to_know_what(command: str) -> None:
    done = ioas(command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "BDF" in done.stderr


def test_the_screens_in_the_documentation_are_what_the_commands_print(tmp_path: Path) -> None:
    text = PAGE.read_text()
    [machine] = re.findall(r"^```toml lab.toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "lab.toml").write_text(machine)
    screens = re.findall(r"^```\n\$ ioas (.*?lab.toml.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(screens) >= 2
    for command, screen in screens:
        done = subprocess.run(
            [sys.executable, "-m", "ioas", *command.split()], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert (done.stdout, done.stderr) == (screen, "")


def test_the_documentation_names_every_check() -> None:
    rows = re.findall(r"^\| ([\w -]+) \|", PAGE.read_text(), re.MULTILINE)
    assert [name for name in CHECKS if name not in rows] == []


def test_the_tree_of_the_description_is_a_tree() -> None:
    """What the other tests stand on: links of the described machine lead somewhere."""
    tree = Pc().tree
    for path, node in tree.walk("/sys/bus"):
        if isinstance(node, Link):
            assert isinstance(tree.get(path), Directory)


def test_the_doctor_tells_the_truth_about_this_machine_in_one_screen() -> None:
    """No IOMMU, or a kernel without VFIO, is said where it is so and nowhere else."""
    devices = sorted(os.listdir("/sys/bus/pci/devices")) if os.path.isdir("/sys/bus/pci/devices") else []
    if not devices:
        pytest.skip("this machine has no PCI devices")
    done = ioas("doctor", devices[-1], "--for", "driver")
    lines = done.stdout.splitlines()
    assert "Traceback" not in done.stderr
    assert len(lines) <= 40
    verdicts = {line[2:16].strip(): line[16:24].strip() for line in lines[1:] if line[2:3] != " "}
    grouped = os.path.exists(f"/sys/bus/pci/devices/{devices[-1]}/iommu_group")
    assert (verdicts["IOMMU"] == "ok") is grouped
    if os.path.isdir("/sys/bus/pci/drivers/vfio-pci"):
        assert verdicts["vfio-pci"] == "ok"
    elif not os.path.exists(f"/sys/bus/pci/devices/{devices[-1]}/driver"):
        assert verdicts["vfio-pci"] == "no"
    assert done.returncode == int("no" in verdicts.values())
