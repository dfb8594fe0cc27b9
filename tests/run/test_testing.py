"""`ioas.testing` and ``ioas run``: programs as a fixture runs them, and the public suite as an unmodified program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ioas.testing import Run

ROOT = Path(__file__).parents[2]

PROGRAM = """
import fcntl, os, sys

fd = os.open("/dev/iommu", os.O_RDWR)
print("hello", *sys.argv[1:])
print("ioas said", file=sys.stderr)
try:
    fcntl.ioctl(fd, 0x3B80, bytearray((8).to_bytes(4, "little") + (99).to_bytes(4, "little")))
except OSError as error:
    sys.exit(error.errno)
"""


def test_a_program_tells_how_it_ended_and_what_was_refused() -> None:
    ran = Run()(sys.executable, "-c", PROGRAM, "there", devices=["edu", "edu"], check=False)
    assert (ran.status, ran.output, ran.errors) == (2, "hello there\n", "ioas said\n")
    (refused,) = ran.refused
    assert "IOMMU_DESTROY" in refused
    assert "ENOENT" in refused
    assert ran.faults == ()


def test_a_program_that_fails_says_what_it_said() -> None:
    with pytest.raises(AssertionError, match="ended with 2\nhello"):
        Run()(sys.executable, "-c", PROGRAM)


def test_stopped_dma_is_told() -> None:
    ran = Run()(sys.executable, ROOT / "examples/edu.py", "0000:01:00.0")
    (fault,) = ran.faults
    assert "0x100000" in fault


def test_the_public_suite_passes_as_an_unmodified_program() -> None:
    """The suite on the running kernel's interface, which the supervisor serves: the same tests by another way in."""
    command = (
        "-m",
        "pytest",
        "-q",
        "-rfE",
        "-p",
        "ioas.testing.plugin",
        "-p",
        "no:cacheprovider",
        "--ioas-host=kernel",
    )
    ran = Run()(sys.executable, *command, "src/ioas/testing/suite", cwd=ROOT, timeout=250, check=False)
    assert ran.status == 0, ran.output[-3000:]
    assert " passed" in ran.output
