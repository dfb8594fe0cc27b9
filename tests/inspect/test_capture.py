"""A captured machine gives the answers of the machine itself, and says no more than that takes."""

from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ioas.errors import MachineError
from ioas.inspect import Case, Machine, Wanted, capture, diagnose, looked_at, take
from ioas.inspect.capture import scrubbed
from ioas.sysfs import Source
from tests.inspect.describe import DISK, Pc
from tests.inspect.test_doctor import HEALTHY, REFUSALS, Refusal, bound_sibling

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
        ("{", "is no capture of a machine: JSONDecodeError"),
        ("{}", "is no capture of a machine: KeyError"),
        ('{"schema": "ioas.ls", "version": 1}', r"is ioas\.ls version 1, not ioas\.capture 1"),
        ('{"schema": "ioas.capture", "version": 2}', r"is ioas\.capture version 2, not ioas\.capture 1"),
        ('{"schema": "ioas.capture", "version": 1, "nodes": []}', "is no capture of a machine: AttributeError"),
    ],
)
def test_a_file_that_is_no_capture_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    file.write_text(text)
    with pytest.raises(MachineError, match=message), looked_at(file):
        pytest.fail("it was looked at")


def test_files_that_are_not_there_or_cannot_be_unpacked_are_named(tmp_path: Path) -> None:
    data = capture(Pc().machine())
    file = tmp_path / "machine.json"
    for files in ({"/x": "%"}, {"/x": 1}, None):
        file.write_text(json.dumps({**data, "files": files}))
        with pytest.raises(MachineError, match=r"machine\.json is no capture"), looked_at(file):
            pytest.fail("it was looked at")
    with pytest.raises(MachineError, match="nowhere"), looked_at(tmp_path / "nowhere"):
        pytest.fail("it was looked at")
