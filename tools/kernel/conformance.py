"""Runs the kernel's test programs under ``ioas run`` and holds what they report against expected.toml."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ioas.errors import EnvironmentRefusal
from tools.kernel import points
from tools.kernel.expectations import Suite
from tools.kernel.points import Points
from tools.kernel.tap import Outcome, Report, Result, parse

LIMIT_SECONDS = 1200
HUGEPAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
IOAS = (sys.executable, "-m", "ioas")


@dataclass(frozen=True)
class Verdict:
    """A suite that was run: the report, the needs that were not met, the seconds it took."""

    suite: Suite
    report: Report
    missing: Set[str]
    seconds: float
    partly: Set[str] = frozenset()
    """Needs of `missing` that were met in part: a test may get by with that."""

    def allows(self, result: Result) -> bool:
        """Whether a test did what it should."""
        entry = self.suite.difference(result.name, self.missing)
        met = entry is not None and entry.without in self.partly and result.outcome == "pass"
        return met or result.outcome == self.expected(result.name)

    def expected(self, test: str) -> Outcome:
        """What `test` should have done here."""
        entry = self.suite.difference(test, self.missing)
        return entry.ours if entry else "pass"

    def on_kernel(self, test: str) -> Outcome:
        """What `test` does on the real kernel (run as root, with huge pages)."""
        entry = self.suite.difference(test, frozenset())
        return entry.kernel if entry else "pass"

    def deviations(self) -> list[str]:
        """A line for each difference from what was expected, in either direction; empty when all is well."""
        lines = [
            f"{result.name}: {result.outcome}, expected {self.expected(result.name)}"
            + "".join(f"\n    {line}" for line in result.said[:8])
            for result in self.report.results
            if not self.allows(result)
        ]
        lines += [
            f"{name}: {found.hit} allocations failed, and the ledgers were {sorted(found.ledgers)} by turns"
            for name, found in self.points().items()
            if not found.hit or len(found.ledgers) != 1
        ]
        if (count := len(self.report.results)) != self.suite.tests:
            lines.append(f"{self.suite.name}: {count} tests reported of {self.suite.tests}")
        return lines

    def points(self) -> dict[str, Points]:
        """What each test of a program that sweeps fail-nth has swept; empty for other programs."""
        return {result.name: points.of_test(result) for result in self.report.results if self.suite.points}

    def fixtures(self) -> dict[str, tuple[Counter[Outcome], Counter[Outcome]]]:
        """For each fixture, how many tests came out how: here, and on the real kernel."""
        table: dict[str, tuple[Counter[Outcome], Counter[Outcome]]] = {}
        for result in self.report.results:
            ours, kernel = table.setdefault(result.name.split(".")[0], (Counter(), Counter()))
            ours[result.outcome] += 1
            kernel[self.on_kernel(result.name)] += 1
        return table


def run(suite: Suite, program: Path, options: Sequence[str] = ()) -> Verdict:
    """Run `suite`, whose program was built as `program`, with further `options` of ``ioas run``.

    Raises EnvironmentRefusal when it printed no TAP at all: then nothing was tested.
    """
    with _huge_pages(suite.hugepages) as free:
        partly = {"hugepages"} if 0 < free < suite.hugepages else set()
        missing = ({"hugepages"} if free < suite.hugepages else set()) | ({"root"} if os.geteuid() else set())
        started = time.monotonic()
        command = points.preloaded(program) if suite.points else [str(program)]
        output = output_of([*IOAS, "run", *suite.ioas, *options, "--", *command, *suite.arguments])
        seconds = time.monotonic() - started
    report = parse(output)
    if not report.planned:
        raise EnvironmentRefusal(f"{suite.program} printed no test plan; its last words: {' / '.join(output[-4:])}")
    return Verdict(suite, report, missing, seconds, partly)


def output_of(command: Sequence[str]) -> list[str]:
    """All that `command` prints, both streams, in lines; a run that takes too long ends with what it had printed."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate()
    return output.splitlines()


@contextmanager
def _huge_pages(count: int) -> Iterator[int]:
    """How many huge pages are free for the block; as root `count` are reserved, and given back after."""
    total = HUGEPAGES / "nr_hugepages"
    if not count or not total.exists():
        yield 0
        return
    before = int(total.read_text())
    lacking = count - int((HUGEPAGES / "free_hugepages").read_text())
    if lacking > 0 and os.access(total, os.W_OK):
        total.write_text(str(before + lacking))
    try:
        yield int((HUGEPAGES / "free_hugepages").read_text())
    finally:
        if os.access(total, os.W_OK):
            total.write_text(str(before))
