"""Runs whole commands, natively and under ``ioas run``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

IOAS_RUN = (sys.executable, "-m", "ioas", "run", "--")
HERE = Path(__file__).parent


def compiler() -> str | None:
    """A C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc")


def compiled(name: str, directory: Path) -> list[str]:
    """The command that runs bench/`name`: the C program, compiled into `directory`, or else the Python one."""
    cc = compiler()
    if cc is None:
        return [sys.executable, str(HERE / f"{name}.py")]
    program = directory / name
    subprocess.run([cc, "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True)
    return [str(program)]


def output(command: Sequence[str]) -> str:
    """What `command` prints. Raises subprocess.CalledProcessError when it fails."""
    done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return done.stdout


def seconds(command: Sequence[str]) -> float:
    """The wall-clock time of `command`, its output thrown away."""
    start = time.perf_counter()
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=dict(os.environ, LC_ALL="C")
    )
    return time.perf_counter() - start
