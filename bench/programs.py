"""What `ioas run` costs a program that does not use it: starting, computing, and walking the file system."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import commands
from bench.report import Line

COMPUTE_PERCENT = 2
FIND_RATIO = 1.5
IMPORT_MS = 150
ROUNDS = 9
# The programs time themselves, so what they print is free of start-up, which varies more than what is looked for.
FIND = """
import subprocess, time
start = time.perf_counter_ns()
subprocess.run(["find", "/usr/share"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(time.perf_counter_ns() - start)
"""
SUM_IN_PYTHON = """
import time
start = time.perf_counter_ns()
total = sum(i * i & 0xFF for i in range(8_000_000))
print(time.perf_counter_ns() - start, total)
"""
SUM_IN_C = """
#include <stdio.h>
#include <time.h>
int main(void)
{
	struct timespec from, to;
	unsigned long sum = 0;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (unsigned long i = 0; i < 600000000ul; i++)
		sum += (i * 2654435761u) ^ (sum >> 7);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%ld %lu\\n", (to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec, sum);
}
"""


def measure() -> Iterator[Line]:
    """Start-up, computing, `find /usr/share`, and importing the package."""
    yield from _starting()
    with tempfile.TemporaryDirectory() as directory:
        native, under = _both(_computing_program(Path(directory)))
    yield Line("computing program, native", native, "ms")
    yield Line("computing program under ioas run, over native", 100 * (under / native - 1), "%", COMPUTE_PERCENT)
    native, under = _both([sys.executable, "-S", "-c", FIND])
    yield Line("find /usr/share, native", native, "ms")
    yield Line("find /usr/share under ioas run, over native", under / native, "x", FIND_RATIO)
    yield from _importing()


def _starting() -> Iterator[Line]:
    true = ["true"]
    pairs = [(commands.seconds(true), commands.seconds([*commands.IOAS_RUN, *true])) for _ in range(ROUNDS)]
    extra = statistics.median(under - native for native, under in pairs)
    yield Line("ioas run true, over native: start-up", 1000 * extra, "ms")


def _both(program: Sequence[str]) -> tuple[float, float]:
    """Median milliseconds that `program` says it took, native and under ioas run, in turns so that drift hits both."""
    _self_timed(program)  # warms the page cache
    pairs = [(_self_timed(program), _self_timed([*commands.IOAS_RUN, *program])) for _ in range(ROUNDS)]
    return statistics.median(native for native, _ in pairs), statistics.median(under for _, under in pairs)


def _self_timed(program: Sequence[str]) -> float:
    return int(commands.output(program).split()[0]) / 1e6


def _computing_program(directory: Path) -> list[str]:
    cc = commands.compiler()
    if cc is None:
        return [sys.executable, "-S", "-c", SUM_IN_PYTHON]
    source = directory / "sum.c"
    source.write_text(SUM_IN_C)
    commands.seconds([cc, "-O2", "-o", str(directory / "sum"), str(source)])
    return [str(directory / "sum")]


def _importing() -> Iterator[Line]:
    """Imports in a fresh interpreter, beyond the interpreter's own start."""
    bare = _interpreter("pass")
    yield Line("import numpy", 1000 * (_interpreter("import numpy") - bare), "ms")
    yield Line("import ioas", 1000 * (_interpreter("import ioas") - bare), "ms", IMPORT_MS)
    yield Line(
        "import ioas, and the software machine with it",
        1000 * (_interpreter("import ioas; ioas.SoftHost") - bare),
        "ms",
    )


def _interpreter(code: str) -> float:
    return statistics.median(commands.seconds([sys.executable, "-c", code]) for _ in range(ROUNDS))
