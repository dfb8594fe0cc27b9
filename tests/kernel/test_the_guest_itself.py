"""What the reference guest promises to programs in it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from tests.support import guest
from tools.reference.guest import DEVICES

PCI = Path("/sys/bus/pci/devices")
ADDRESSES = {"0000:01:00.0": "edu", "0000:02:00.0": "nvme", "0000:03:00.0": "igb"}
everywhere = pytest.mark.guests("iommu", "noiommu", "iommufd-container")


def ids(bdf: str) -> str:
    return ":".join((PCI / bdf / name).read_text().strip()[2:] for name in ("vendor", "device"))


@everywhere
def test_the_devices_belong_to_vfio_each_in_a_group_of_its_own() -> None:
    assert {bdf: ids(bdf) for bdf in ADDRESSES} == dict(zip(ADDRESSES, DEVICES.values(), strict=True))
    assert {(PCI / bdf / "driver").resolve().name for bdf in ADDRESSES} == {"vfio-pci"}
    assert len({(PCI / bdf / "iommu_group").resolve() for bdf in ADDRESSES}) == len(ADDRESSES)


@everywhere
def test_every_door_to_them_is_open() -> None:
    prefix = "noiommu-" if guest.variant() == "noiommu" else ""
    nodes = {path.name for path in Path("/dev/vfio/devices").iterdir()}

    assert {name.rstrip("0123456789") for name in nodes} == {f"{prefix}vfio"}
    assert len(nodes) == len(ADDRESSES)
    for bdf in ADDRESSES:
        assert Path(f"/dev/vfio/{prefix}{(PCI / bdf / 'iommu_group').resolve().name}").is_char_device()
    assert Path("/dev/iommu").is_char_device()
    assert Path("/dev/vfio/vfio").is_char_device()


def test_the_kernel_is_the_reference() -> None:
    assert platform.release().startswith("7.3.")
    assert Path("/sys/kernel/debug/iommufd_test").exists() or Path("/sys/kernel/debug/fail_iommufd").exists()


def test_what_is_written_stays_in_the_guest() -> None:
    for directory in (Path(__file__).parent, Path("/tmp"), Path("/var/tmp"), Path("/etc")):
        probe = directory / f"ioas-guest-{os.getpid()}"
        probe.write_text("gone tomorrow")
        assert probe.read_text() == "gone tomorrow"


def test_physical_addresses_can_be_found_out() -> None:
    page = bytearray(b"x" * (1 << 12))
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(id(page) // 4096 * 8)
        assert int.from_bytes(pagemap.read(8), sys.byteorder) & ((1 << 55) - 1)


def test_orphans_are_reaped() -> None:
    """By the first process, as on every Linux: a test that waits for a process to vanish must not wait for ever."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        if (orphan := os.fork()) == 0:
            os.execv("/bin/sh", ["sh", "-c", "exit 0"])
        os.write(write, str(orphan).encode())
        os._exit(0)
    os.waitpid(child, 0)
    orphan = int(os.read(read, 20))
    while Path(f"/proc/{orphan}").exists():  # as a zombie it would for ever, which the time limit of tests ends
        os.sched_yield()
