"""The client that holds page identity against pagemap and VmPin, on the real kernel: there it holds for everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "run/clients/identity.py"


def test_the_kernel_agrees_with_itself() -> None:
    """With private memory that moves, which the software host takes for other pages (docs/run.md)."""
    command = [sys.executable, "-B", str(CLIENT), "moved-private"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("half of it unmapped: ")
