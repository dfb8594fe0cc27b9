"""A driver that goes the way DPDK goes, on the running kernel: the very files that ``ioas run --no-iommu`` runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ioas
from tests.support.kernel_host import edu_address

pytestmark = pytest.mark.guests("noiommu")
EXAMPLES = Path(__file__).parents[2] / "examples"
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
HUGE, ORDINARY = "memory: a huge page, physically contiguous: yes", "memory: 2 ordinary pages, locked"


@pytest.mark.parametrize("example", ["noiommu.c", "noiommu.py"])
@pytest.mark.parametrize(("pages", "memory"), [(4, HUGE), (0, ORDINARY)])
def test_the_example_runs_as_it_is(
    example: str, pages: int, memory: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    command: list[str | Path] = [sys.executable, EXAMPLES / example]
    if example == "noiommu.c":
        command = [tmp_path / "noiommu"]
        compiler = request.getfixturevalue("cc")
        subprocess.run([compiler, "-O2", "-o", tmp_path / "noiommu", EXAMPLES / example], check=True)
    with ioas.KernelHost() as host:
        edu = edu_address(host)
    HUGE_PAGES.write_text(str(pages))
    done = subprocess.run([*command, edu], capture_output=True, text=True, timeout=120)
    HUGE_PAGES.write_text("0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"edu {edu} is in /dev/vfio/noiommu-0: no IOMMU stands before it",
        memory,
        'to the device and back by DMA, from one page to the next: "Hello from user space"',
    ]


def test_the_kernel_is_tainted() -> None:
    assert int(Path("/proc/sys/kernel/tainted").read_text()) & 64
