"""How many allocations a program that sweeps fail-nth lets fail, and whether the ledgers are the same each time.

A small library, preloaded (failpoints.c), says each N that the program asks for and what is pinned and locked then. It
is the same on the real kernel and under ``ioas run``, so the numbers are comparable.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from ioas.errors import EnvironmentRefusal
from tools.kernel import cache
from tools.kernel.tap import Result

SOURCE = Path(__file__).with_name("failpoints.c")
_LINE = re.compile(r"fail-nth (\d+) VmPin (-?\d+) VmLck (-?\d+)")


class Points(NamedTuple):
    """What one test has swept: how many allocations failed, and (pinned, locked) kB as each sweep began."""

    hit: int
    ledgers: frozenset[tuple[int, int]]


def of_test(result: Result) -> Points:
    """What a test said. The last N is the one that no allocation was left for."""
    found = [match.groups() for line in result.said if (match := _LINE.fullmatch(line))]
    hit = max((int(number) for number, _, _ in found), default=1) - 1
    return Points(hit, frozenset((int(pinned), int(locked)) for _, pinned, locked in found))


def library() -> Path:
    """The library, built unless it is in the cache. Raises EnvironmentRefusal without a C compiler."""
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    target = cache.root() / "selftests" / f"failpoints-{version}.so"
    if not target.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            raise EnvironmentRefusal("counting failure points needs a C compiler: install gcc and libc6-dev")
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(".new")
        with cache.exclusive("build"):
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)], check=True)
            made.rename(target)
    return target


def preloaded(program: Path) -> list[str]:
    """The command that runs `program` with the library."""
    return ["env", f"LD_PRELOAD={library()}", str(program)]
