"""What `ioas run` costs a program that does not use it: computing, and walking the file system."""

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
ROUNDS = 7
SUM_IN_PYTHON = "sum(i * i & 0xFF for i in range(20_000_000))"
SUM_IN_C = """
#include <stdio.h>
int main(void)
{
	unsigned long sum = 0;
	for (unsigned long i = 0; i < 1500000000ul; i++)
		sum += (i * 2654435761u) ^ (sum >> 7);
	printf("%lu\\n", sum);
}
"""


def measure() -> Iterator[Line]:
    """Start-up, computing beyond start-up, `find /usr/share`, and importing the package."""
    with tempfile.TemporaryDirectory() as directory:
        yield from _computing(_computing_program(Path(directory)))
    find = ["find", "/usr/share"]
    native, under = _both(find)
    yield Line("find /usr/share, native", 1000 * native, "ms")
    yield Line("find /usr/share under ioas run, start-up included", under / native, "x", FIND_RATIO)
    yield _import_time()


def _computing(program: Sequence[str]) -> Iterator[Line]:
    bare, bare_under = _both(["true"])
    native, under = _both(program)
    yield Line("ioas run true, over native: start-up", 1000 * (bare_under - bare), "ms")
    yield Line("computing program, native", 1000 * native, "ms")
    slower = 100 * ((under - bare_under) / (native - bare) - 1)
    yield Line("computing program under ioas run, over native beyond start-up", slower, "%", COMPUTE_PERCENT)


def _both(command: Sequence[str]) -> tuple[float, float]:
    """Median seconds of `command`, native and under ``ioas run``, taken in turns so that drift hits both."""
    commands.seconds(command)  # warms the page cache
    pairs = [(commands.seconds(command), commands.seconds([*commands.IOAS_RUN, *command])) for _ in range(ROUNDS)]
    return statistics.median(native for native, _ in pairs), statistics.median(under for _, under in pairs)


def _computing_program(directory: Path) -> list[str]:
    cc = commands.compiler()
    if cc is None:
        return [sys.executable, "-S", "-c", SUM_IN_PYTHON]
    source = directory / "sum.c"
    source.write_text(SUM_IN_C)
    commands.seconds([cc, "-O2", "-o", str(directory / "sum"), str(source)])
    return [str(directory / "sum")]


def _import_time() -> Line:
    """`import ioas` in a fresh interpreter, beyond the interpreter's own start."""
    bare = [commands.seconds([sys.executable, "-c", "pass"]) for _ in range(ROUNDS)]
    full = [commands.seconds([sys.executable, "-c", "import ioas; ioas.SoftHost"]) for _ in range(ROUNDS)]
    seconds = statistics.median(full) - statistics.median(bare)
    return Line("import ioas, with SoftHost", 1000 * seconds, "ms", IMPORT_MS)
