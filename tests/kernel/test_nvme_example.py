"""The NVMe example on a real controller, by every way to it.

It takes QEMU's controller alone, whose disk the reference guest throws away.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import ioas
from ioas.api import Space
from tests.support import lanes

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = EXAMPLES.parent / "docs/nvme.md"
PCI = Path("/sys/bus/pci")
QEMU_NVME = (0x1B36, 0x0010)
"""Vendor and device ID: hardware of any other make is somebody's."""


class Disk(NamedTuple):
    """QEMU's controller: its address, and whether an IOMMU stands in front of it."""

    bdf: str
    no_iommu: bool

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the program, and allow no-IOMMU mode where there is no other."""
        return program(self.bdf, *options, *["--no-iommu"] * self.no_iommu)


@pytest.fixture(scope="module")
def disk() -> Disk:
    """The controller (lane kernel)."""
    with ioas.KernelHost() as host:
        devices = [host.sysfs.device(bdf) for bdf in host.devices()]
    for device in devices:
        if (device.vendor, device.device) == QEMU_NVME:
            return Disk(device.bdf, "noiommu" in (device.vfio_device or ""))
    return lanes.require("kernel", "no QEMU nvme is bound to vfio-pci")


@pytest.fixture(scope="module")
def driver() -> Iterator[ModuleType]:
    """The module `nvme_driver`, which stands beside the program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import nvme_driver  # type: ignore[import-not-found]

        yield nvme_driver


@contextmanager
def opened(disk: Disk, driver: ModuleType, interrupts: bool = False) -> Iterator[tuple[Any, Space]]:
    """The disk by the driver in this process, and a space for buffers."""
    with ioas.KernelHost() as host, host.device(disk.bdf) as device:
        space = device.space()
        with driver.opened(device, space, interrupts) as controller:
            yield controller, space


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    command = [sys.executable, EXAMPLES / "nvme.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.guests("iommu", "noiommu", "iommufd-container")
@pytest.mark.parametrize("interrupts", [[], ["--interrupts"]])
@pytest.mark.parametrize("via", ["iommufd", "container"])
def test_data_are_written_and_verified(disk: Disk, via: str, interrupts: list[str]) -> None:
    done = disk.run("--via", via, "--write", *interrupts)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'model "QEMU NVMe Ctrl"' in done.stdout
    assert "wrote 2048 blocks by 2 commands" in done.stdout
    assert "read 2048 blocks by 128 commands: what was written" in done.stdout


def test_the_screen_in_the_documentation_is_what_it_prints(disk: Disk) -> None:
    pattern = r"^```\n# python3 examples/nvme.py (.*?)\n(.*?)^```$"
    [screen] = re.findall(pattern, PAGE.read_text(), re.MULTILINE | re.DOTALL)
    done = program(*screen[0].split())
    assert done.stdout == screen[1]


@pytest.mark.guests("iommu", "noiommu")
def test_completions_come_by_interrupt_when_asked(disk: Disk, driver: ModuleType) -> None:
    for interrupts in (False, True):
        with opened(disk, driver, interrupts) as (controller, space), space.alloc(4096, writable=True) as page:
            controller.transfer(driver.READ, 0, 8, page, [1])
            assert bool(counted(disk.bdf)) is interrupts


def counted(bdf: str) -> int:
    """How many interrupts of the device the kernel has counted for VFIO, on all processors."""
    lines = Path("/proc/interrupts").read_text().splitlines()
    return sum(int(word) for line in lines if f"({bdf})" in line for word in line.split()[1:] if word.isdigit())


def test_what_was_written_is_what_linux_reads(disk: Disk, driver: ModuleType) -> None:
    data = os.urandom(777 * 512)
    with opened(disk, driver, True) as (controller, space), space.alloc(len(data)) as buffer:
        buffer.view[:] = data
        controller.transfer(driver.WRITE, 5, 777, buffer, [1, 9, 100])
        controller.flush()
    with driven_by(disk.bdf, "nvme"):
        assert block_device(disk.bdf).read_bytes()[5 * 512 :][: len(data)] == data


@contextmanager
def driven_by(bdf: str, name: str) -> Iterator[None]:
    """Another driver of the device instead of vfio-pci."""
    bind(bdf, name)
    try:
        yield
    finally:
        bind(bdf, "vfio-pci")


def bind(bdf: str, name: str) -> None:
    (PCI / "devices" / bdf / "driver_override").write_text(name)
    (PCI / "devices" / bdf / "driver/unbind").write_text(bdf)
    (PCI / "drivers_probe").write_text(bdf)


def block_device(bdf: str) -> Path:
    """The node of namespace 1, which comes a moment after the driver."""
    deadline = time.monotonic() + 30
    while not (found := list((PCI / "devices" / bdf).glob("nvme/nvme*/nvme*n1"))):
        assert time.monotonic() < deadline, "the kernel's driver shows no namespace"
        time.sleep(0.05)
    return Path("/dev") / found[0].name


def test_without_being_asked_it_writes_nothing(disk: Disk, driver: ModuleType) -> None:
    written = disk.run("--write", "--blocks", "100")
    assert written.returncode == 0, written.stderr
    before = first_blocks(disk, driver)
    done = disk.run("--blocks", "100")
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote" not in done.stdout
    assert "read 100 blocks by 8 commands: the same again" in done.stdout
    assert first_blocks(disk, driver) == before


def first_blocks(disk: Disk, driver: ModuleType) -> bytes:
    with opened(disk, driver) as (controller, space), space.alloc(100 * 512, writable=True) as buffer:
        controller.transfer(driver.READ, 0, 100, buffer, [100])
        return bytes(buffer.view)


@pytest.mark.guests("iommu", "noiommu")
def test_no_iommu_mode_has_to_be_allowed(disk: Disk) -> None:
    done = program(disk.bdf, "--blocks", "8")
    if disk.no_iommu:
        message = f"nvme: no IOMMU stands in front of {disk.bdf}, and --no-iommu was not given\n"
        assert (done.returncode, done.stderr) == (1, message)
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_is_a_message_and_status_1(disk: Disk) -> None:
    for done, message in [
        (disk.run("--blocks", "200000"), "200000 blocks cannot be tested: the disk has 131072"),
        (program("0000:ff:1f.7"), "there is no PCI device '0000:ff:1f.7'"),
    ]:
        assert (done.returncode, done.stderr) == (1, f"nvme: {message}\n")
