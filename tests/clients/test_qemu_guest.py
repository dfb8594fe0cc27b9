"""Debian's QEMU, unmodified, passes our edu through to a Linux guest, whose programs drive it as if it were there.

The guest's programs know nothing of any of this: lspci, a driver without an IOMMU, and the edu example, which in the
guest has an IOMMU of its own that QEMU emulates and whose mappings it makes on ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.clients.conftest import ADDRESS, EDU, Passthrough

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples/edu.c"
WAYS = pytest.mark.parametrize(
    ("device", "backends"),
    [
        pytest.param(f"vfio-pci,host={ADDRESS},iommufd=i", ("-object", "iommufd,id=i"), id="iommufd"),
        pytest.param(f"vfio-pci,host={ADDRESS}", (), id="container"),
    ],
)
# lspci says more where libkmod is configured, which is no business of ours
SCRIPT = 'lspci -n -s "$1" 2>/dev/null && lspci -v -n -s "$1" 2>/dev/null | grep driver && exec "$2" "$1" "$3"'


OPEN_AND_EXECUTE = """
import os, sys
for path, number in (("/dev/iommu", 60), ("/dev/vfio/devices/vfio0", 61)):
    os.dup2(os.open(path, os.O_RDWR), number)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def drive(
    boot: Passthrough, program: Path, device: str, backends: tuple[str, ...], before: Sequence[str] = ()
) -> list[str]:
    """The lines of lspci and of the driver without an IOMMU, in a guest that edu is passed through to."""
    words = ["sh", "-ec", SCRIPT, "sh", ADDRESS, str(program), "/dev/vfio/noiommu-0"]
    return boot("noiommu", device, words, backends, before).splitlines()


EXPECTED = [
    f"01:00.0 00ff: {EDU} (rev 10)",
    "\tKernel driver in use: vfio-pci",
    "identification 0x10000ed",
    "liveness 0xedcba987",
    "factorial 3628800",
    "factorial by interrupt 479001600",
    "DMA both ways, 4096 bytes each",
    "the kernel has counted 3 interrupts",
]


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "x-no-mmap"])
@WAYS
def test_a_linux_guest_finds_and_drives_the_device(
    boot: Passthrough, compiled: Callable[[Path], Path], device: str, backends: tuple[str, ...], mapped: bool
) -> None:
    device += "" if mapped else ",x-no-mmap=on"
    assert drive(boot, compiled(HERE / "edu_noiommu.c"), device, backends) == EXPECTED


def test_qemu_takes_descriptors_that_another_program_has_opened(
    boot: Passthrough, compiled: Callable[[Path], Path]
) -> None:
    """As libvirt starts it: files opened by another, under numbers of its choice, handed down by exec."""
    backends = ("-object", "iommufd,id=i,fd=60")
    before = [sys.executable, "-c", OPEN_AND_EXECUTE]
    assert drive(boot, compiled(HERE / "edu_noiommu.c"), "vfio-pci,fd=61,iommufd=i", backends, before) == EXPECTED


@WAYS
def test_an_iommu_in_the_guest_stops_the_device_there(
    boot: Passthrough, compiled: Callable[[Path], Path], device: str, backends: tuple[str, ...]
) -> None:
    lines = boot("iommu", device, [str(compiled(EXAMPLE)), ADDRESS], backends).splitlines()

    assert lines[1:] == [
        "identification 0x010000ed, alive",
        "10! = 3628800",
        'memory to device by DMA: "Hello from user space", interrupt received',
        'device to memory by DMA: "Hello from user space", interrupt received',
        "device to memory after unmapping: stopped by the IOMMU, memory unchanged",
    ]
