"""The public suite on the running kernel: what passes on the software host everywhere passes here as well."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ioas
from ioas.errors import UsageError
from ioas.testing.hosts import counterpart
from tests.support import lanes

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "src/ioas/testing/suite"
MODULES = sorted(path.name for path in SUITE.glob("test_*.py"))
PARTS = [MODULES[start::3] for start in range(3)]
"""Three, so that none comes near a test's time limit, and starting Python in the guest does not take most of it."""
SKIPS = ("EOPNOTSUPP", "an IOMMU stands before the device")
"""The reasons of every skip where there is an IOMMU: what QEMU's cannot, and what is without one."""


def suite(*modules: str) -> str:
    """Run modules of the suite on the kernel; what pytest says when they pass."""
    with ioas.KernelHost() as host:
        try:
            bdf = counterpart(host, "edu")
        except UsageError as error:
            lanes.require("kernel", str(error))
    command = [sys.executable, "-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider", "--ioas-host=kernel"]
    done = subprocess.run(
        [*command, f"--ioas-device={bdf}", *(SUITE / name for name in modules)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.guests("iommu", "iommufd-container")
@pytest.mark.parametrize("modules", PARTS, ids="+".join)
def test_the_public_suite_passes_on_the_running_kernel(modules: list[str]) -> None:
    said = suite(*modules)
    assert re.search(r"\d+ passed", said)
    skipped = [line for line in said.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skipped if not any(reason in line for reason in SKIPS)] == []


@pytest.mark.guests("noiommu")
def test_without_an_iommu_devices_are_left_alone_and_the_rest_passes() -> None:
    said = suite("test_dma.py", "test_objects.py")
    assert re.search(r"\d+ passed", said)
    assert "no IOMMU stands between" in said


@pytest.mark.guests("noiommu")
def test_what_is_without_an_iommu_passes_but_for_dma() -> None:
    said = suite("test_no_iommu.py")
    assert re.search(r"\d+ passed", said)
    skipped = [line for line in said.splitlines() if line.startswith("SKIPPED")]
    assert [line for line in skipped if "no DMA without an IOMMU" not in line] == []
