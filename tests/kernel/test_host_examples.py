"""The edu examples on the running kernel: the very files that run on the software machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ioas
from tests.support.kernel_host import edu_address

EXAMPLES = Path(__file__).parents[2] / "examples"
TELLS = [
    "10! = 3628800",
    'memory to device by DMA: "Hello from user space", interrupt received',
    'device to memory by DMA: "Hello from user space", interrupt received',
    "device to memory after unmapping: stopped by the IOMMU, memory unchanged",
]


@pytest.mark.parametrize(
    ("example", "options"),
    [
        ("edu.c", []),
        ("edu_group.c", []),
        ("edu.py", []),
        ("edu_api.py", ["--kernel"]),
        ("edu_api.py", ["--kernel", "--group"]),
    ],
)
def test_the_edu_examples_run_as_they_are(
    example: str, options: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    command: list[str | Path] = [sys.executable, EXAMPLES / example, *options]
    if example.endswith(".c"):
        command = [tmp_path / "edu"]
        subprocess.run([request.getfixturevalue("cc"), "-O2", "-o", tmp_path / "edu", EXAMPLES / example], check=True)
    with ioas.KernelHost() as host:
        done = subprocess.run([*command, edu_address(host)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert [tell for tell in TELLS if tell not in done.stdout] == []
