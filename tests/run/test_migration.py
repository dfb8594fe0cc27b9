"""A device is taken from one `ioas run` to another in the middle of its DMA, by unmodified programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.run.conftest import CLIENTS, Runner

OPTIONS = ("--device", "edu,migration=on")
LANDED = "under way 0x110 0\n"
"""What the device moved, its interrupt status (raised before, and the end of its DMA), and that it is done."""


def command(run: Runner, what: str, *options: str) -> list[str]:
    return run.command(sys.executable, "-B", str(CLIENTS / "migrate.py"), what, options=[*OPTIONS, *options])


def test_dma_and_interrupts_go_on_in_another_machine_over_a_pipe(run_as_anyone: Runner) -> None:
    run, environment = run_as_anyone, run_as_anyone.environment()
    with subprocess.Popen(command(run, "leave"), stdout=subprocess.PIPE, env=environment) as source:
        arriving = command(run, "arrive")
        there = subprocess.run(
            arriving, stdin=source.stdout, capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        assert source.wait(60) == 0
    assert (there.returncode, there.stdout) == (0, LANDED), there.stderr


def test_dma_and_interrupts_go_on_later_from_a_file(run: Runner, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with state.open("wb") as file:
        subprocess.run(command(run, "leave"), stdout=file, check=True, timeout=60)
    for _ in range(2):
        with state.open("rb") as file:
            there = subprocess.run(
                command(run, "arrive"), stdin=file, capture_output=True, text=True, timeout=60, check=False
            )
        assert (there.returncode, there.stdout) == (0, LANDED), there.stderr


def test_what_is_wrong_with_a_state_is_explained(run: Runner) -> None:
    there = subprocess.run(
        command(run, "arrive", "--explain"), input="x" * 5000, capture_output=True, text=True, timeout=60, check=False
    )
    assert there.returncode
    assert "= -1 EINVAL: these bytes are no state of a device model" in there.stderr
