"""A captured machine gives the answers of the machine itself, and says no more than that takes."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ioas.errors import MachineError
from ioas.inspect import Case, Machine, Wanted, capture, diagnose, looked_at, take
from ioas.inspect.capture import scrubbed
from ioas.sysfs import Source
from tests.inspect.cases import HEALTHY, REFUSALS, Refusal, bound_sibling
from tests.inspect.describe import DISK, Pc

MACHINES = [*(Refusal(change, "", "", "") for change in HEALTHY), *REFUSALS]


def stored(machine: Machine, file: Path, *, whole: bool = False) -> Path:
    file.write_text(json.dumps(capture(machine, whole=whole)))
    return file


@pytest.mark.parametrize("case", MACHINES, ids=lambda case: f"{case.change.__name__}-{case.check}-{case.verdict}")
def test_a_capture_gives_the_same_answers(case: Refusal, tmp_path: Path) -> None:
    pc = Pc()
    case.change(pc)
    wanted = Wanted(**case.wanted)  # type: ignore[arg-type]
    with looked_at(stored(pc.machine(), tmp_path / "machine.json")) as captured:
        assert take(captured) == take(pc.machine())
        for bdf in [function.bdf for function in take(captured).functions]:
            here, there = (diagnose(Case(one, bdf, case.purpose, wanted)) for one in (pc.machine(), captured))
            assert there == here


def test_a_capture_of_a_capture_is_the_same(tmp_path: Path) -> None:
    file = stored(Pc().machine(), tmp_path / "machine.json")
    with looked_at(file) as captured:
        assert capture(captured) == json.loads(file.read_text())


SECRETS = {
    "/proc/cmdline": (b"root=UUID=1234-5678 intel_iommu=on user.password=x\n", b"intel_iommu=on\n"),
    "/proc/mounts": (
        b"proc /proc proc rw 0 0\n/dev/sda1 / ext4 rw 0 0\n/dev/sda2 /home/alice ext4 rw 0 0\n",
        b"/dev/sda1 /\n/dev/sda2 (elsewhere)\n",
    ),
    "/proc/net/route": (
        b"Iface\tDestination\tGateway\neth0\t00000000\t0102A8C0\neth0\t0002A8C0\t00000000\n",
        b"Iface Destination\neth0 00000000\n",
    ),
    "/proc/interrupts": (b"  25:  7  IR-PCI-MSI-0000:00:01.0  0-edge  secret\n", b"0: 0 IR-\n"),
    "/proc/cpuinfo": (b"model name : secret\nflags : fpu tdx_guest\nserial : 7\n", b"flags : tdx_guest\n"),
    "/boot/config-7.3.4": (b'CONFIG_CC_VERSION="secret"\nCONFIG_VFIO_PCI=m\n', b"CONFIG_VFIO_PCI=m\n"),
    "/lib/modules/7.3.4/modules.dep": (b"a/secret.ko: b.ko\nd/vfio-pci.ko: a.ko\n", b"d/vfio-pci.ko:\n"),
}


@pytest.mark.parametrize("path", SECRETS)
def test_what_the_doctor_does_not_need_is_cut_out(path: str) -> None:
    before, after = SECRETS[path]
    assert scrubbed(path, before) == after
    assert scrubbed(path, after) == after


def test_packed_options_are_cut_as_well() -> None:
    packed = gzip.compress(b"CONFIG_SECRET=y\nCONFIG_VFIO=m\n")
    assert gzip.decompress(scrubbed("/proc/config.gz", packed)) == b"CONFIG_VFIO=m\n"
    assert scrubbed("/proc/config.gz", b"garbage") == b""


def test_serial_numbers_are_zeros_unless_they_are_asked_for(tmp_path: Path) -> None:
    def extended(number: int, following: int, body: bytes) -> bytes:
        return (number | 1 << 16 | following << 20).to_bytes(4, "little") + body

    config = bytes(0x100) + extended(1, 0x110, bytes(12)) + extended(3, 0x120, b"\xab" * 8) + bytes(4)
    config += extended(0xD, 0x100, b"\xcd" * 8) + bytes(0x1000 - 0x12C)  # and around again
    found = scrubbed(f"/sys/bus/pci/devices/{DISK}/config", config)
    assert found == config.replace(b"\xab", b"\0")
    pc = Pc()
    bound_sibling(pc)  # then it matters whether the device has ACS
    pc.text(f"{pc.path(DISK)}/config", config)
    for whole in (False, True):
        with looked_at(stored(pc.machine(), tmp_path / "machine.json", whole=whole)) as captured:
            assert (b"\xab" in captured.source.read(f"/sys/bus/pci/devices/{DISK}/config")) is whole


class Locked:
    """A source in which every configuration space is root's."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.listdir: Callable[[str], Sequence[str]] = source.listdir
        self.readlink: Callable[[str], str] = source.readlink

    def read(self, path: str) -> bytes:
        if path.endswith("/class"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return self._source.read(path)


def test_what_could_not_be_read_cannot_be_read_in_the_capture_either(tmp_path: Path) -> None:
    machine = Machine(Locked(Pc().tree))
    with looked_at(stored(machine, tmp_path / "machine.json")) as captured:
        take(captured)
        assert captured.unreadable[f"/sys/bus/pci/devices/{DISK}/class"] == "Permission denied"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no capture of a machine: Expecting property name"),
        ('{"x": ' + "[" * 100_000, "is no capture of a machine: .*recursion"),
        ("{}", "is None version None, not"),
        ('{"schema": "ioas.ls", "version": 1}', r"is 'ioas\.ls' version 1, not ioas\.capture 1"),
        ('{"schema": "ioas.capture", "version": 2}', r"is 'ioas\.capture' version 2, not ioas\.capture 1"),
        ('{"schema": "ioas.capture", "version": 1}', "is no capture of a machine: 'files' is missing"),
    ],
)
def test_a_file_that_is_no_capture_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    file.write_text(text)
    with pytest.raises(MachineError, match=message), looked_at(file):
        pytest.fail("it was looked at")


USER = {"uid": 0, "gids": [0], "memlock": None, "capabilities": []}
MALFORMED: list[tuple[str, object, str]] = [
    ("files", None, "'files' is None, and should be an object"),
    ("files", {"/x": 1}, "1 in 'files' of '/x' should be a text"),
    ("files", {"/x": "%"}, "'files' of '/x': "),
    ("files", {"/x": "\u00e9"}, "'files' of '/x': "),
    ("files", {"/\ud800": ""}, "in 'files' is no text"),
    ("directories", 5, "'directories' is 5, and should be an object"),
    ("directories", {"/x": 5}, "5 in 'directories' of '/x' should be a list of texts"),
    ("directories", {"/x": "ab"}, "'ab' in 'directories' of '/x' should be a list of texts"),
    ("directories", {"/x": ["a/b", 5]}, "5] in 'directories' of '/x' should be a list of texts"),
    ("directories", {"/x": ["\udfff"]}, "should be a list of texts"),
    ("links", {"/x": ["a"]}, "in 'links' of '/x' should be a text"),
    ("failures", {"/x": "x"}, "'x' in 'failures' of '/x' should be an error number"),
    ("failures", {"/x": 1 << 40}, "should be an error number"),
    ("failures", {"/x": True}, "should be an error number"),
    ("nodes", [], "'nodes' is [], and should be an object"),
    ("nodes", {"/dev/x": [0o600, 0]}, "[384, 0] in 'nodes' of '/dev/x' should be mode, user and group"),
    ("nodes", {"/dev/x": [0o600, 0, "root"]}, "should be mode, user and group"),
    ("holders", {"/dev/x": "qemu"}, "'qemu' in 'holders' of '/dev/x' should be a list of texts"),
    ("user", {}, "'uid' is missing in 'user'"),
    ("user", {**USER, "uid": "root"}, "'root' in 'uid' of 'user' should be a number"),
    ("user", {**USER, "gids": 5}, "5 in 'gids' of 'user' should be a list of numbers"),
    ("user", {**USER, "memlock": 1e400}, "inf in 'memlock' of 'user' should be a number or null"),
    ("user", {**USER, "capabilities": [[]]}, "[[]] in 'capabilities' of 'user' should be a list of numbers"),
]


@pytest.mark.parametrize(("part", "value", "message"), MALFORMED)
def test_what_is_wrong_in_a_capture_is_said_in_one_line(part: str, value: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({**capture(Pc().machine()), part: value}))
    with pytest.raises(MachineError, match=re.escape(message)) as caught, looked_at(file):
        pytest.fail("it was looked at")
    assert str(caught.value).startswith(f"{file} is no capture of a machine: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_need_not_end_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for file in ("/dev/zero", pipe, tmp_path):
        with pytest.raises(MachineError, match=f"{file} is not a regular file"), looked_at(file):
            pytest.fail("it was looked at")


@pytest.mark.parametrize("count", ["\u00b2", "x", "9" * 5000])
def test_what_no_kernel_says_of_huge_pages_counts_as_none(count: str) -> None:
    pc = Pc()
    pc.text("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", count)
    findings = dict(diagnose(Case(pc.machine(), DISK, "driver", Wanted(hugepages=1))).findings)
    assert "and 0 bytes are free" in findings["huge pages"].text


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="nowhere"), looked_at(tmp_path / "nowhere"):
        pytest.fail("it was looked at")
