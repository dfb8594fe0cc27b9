"""The command line answers a wrong call with one line and an exit status, never with a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest


def ioas(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ioas", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bogus"], "bogus"),
        (["run"], "no program to run"),
        (["run", "--bogus"], "--bogus"),
        (["run", "--device"], "--device"),
        (["run", "--device", "bogus", "--", "true"], "bogus"),
        (["run", "--device", "edu,bogus=1", "--", "true"], "bogus"),
        (["run", "--device", "edu,addr=1:2", "--", "true"], "1:2"),
        (["run", "--device", "edu,addr=05:00.0", "--device", "edu,addr=05:00.0", "--", "true"], "05:00.0"),
        (["run", "--cap", "bogus", "--", "true"], "bogus"),
        (["run", "--machine", "/does/not/exist.toml", "--", "true"], "/does/not/exist.toml"),
    ],
)
def test_a_wrong_command_line_is_answered_by_one_line_that_names_the_culprit(arguments: list[str], named: str) -> None:
    done = ioas(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("program", "status"), [("./not-there", 127), ("not-in-path", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_be_run_is_told_in_one_line_with_the_status_of_a_shell(program: str, status: int) -> None:
    done = ioas("run", "--", program)
    assert done.returncode == status
    assert program in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_names_every_command() -> None:
    done = ioas("--help")
    assert done.returncode == 0
    assert "run" in done.stdout
    assert "devices" in done.stdout


def test_devices_lists_the_models_and_their_options() -> None:
    done = ioas("devices")
    assert done.returncode == 0
    assert "edu" in done.stdout
    assert "dma_mask" in done.stdout
