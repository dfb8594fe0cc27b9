"""What a load or store on a mapped BAR costs, trapped and polled, and what a mapped BAR costs who does not touch it."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import commands
from bench.report import Line

TRAP_US = 15
DOORBELL_US = 2
COMPUTE_PERCENT = 2
ROUNDS = 5
RUNS = 3
"""Of which the best counts: whatever else runs on the machine is no cost of a trap."""
_RUN = (*commands.IOAS_RUN[:-1], "--mmio", "trap", "--")
_BELL = (sys.executable, "-m", "bench.doorbell_host")


def measure() -> Iterator[Line]:
    """Trapped loads and stores, alone and from two threads at once; a computation beside a mapped BAR."""
    with tempfile.TemporaryDirectory() as directory:
        client = commands.compiled("mmio_client", Path(directory))
        runs = [_figures([*_RUN, *client]) for _ in range(RUNS)]
        bell = commands.compiled("doorbell_client", Path(directory))
        rung = statistics.median(_figures([*_BELL, *bell])["doorbell"] for _ in range(ROUNDS))
        rounds = [_computing(client) for _ in range(ROUNDS)]
    figures = {name: min(run[name] for run in runs) for name in runs[0]}
    native, mapped = (min(each[index] for each in rounds) for index in (0, 1))
    yield Line("trapped load of 4 bytes from a mapped BAR", figures["load"], "us", TRAP_US)
    yield Line("trapped store of 4 bytes", figures["store"], "us", TRAP_US)
    yield Line("trapped load, from two threads at once, unpinned", figures["load_two"], "us", TRAP_US)
    yield Line("    mean of the same, the other one's turns included", figures["load_two_mean"], "us")
    yield Line("trapped store, from two threads at once, unpinned", figures["store_two"], "us", TRAP_US)
    yield Line("polled doorbell of 8 bytes, from the store to the model (--mmio poll)", rung, "us", DOORBELL_US)
    yield Line(
        f"computing with a BAR mapped, over native, best of {ROUNDS}", 100 * (mapped / native - 1), "%", COMPUTE_PERCENT
    )


def _computing(client: list[str]) -> tuple[float, float]:
    """How long it takes natively, and right afterwards beside a mapped BAR."""
    return _figures([*client, "other"])["compute"], _figures([*_RUN, *client, "mapped"])["compute"]


def _figures(command: list[str]) -> dict[str, float]:
    """The client's "name nanoseconds" lines, in microseconds."""
    return {name: int(value) / 1000 for name, value in map(str.split, commands.output(command).splitlines())}
