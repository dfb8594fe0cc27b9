"""Reads the Test Anything Protocol as the kernel's kselftest harness prints it.

One line for each test (``ok 3 fixture.variant.test``, ``not ok 4 ...``, ``ok 5 ... # SKIP why``) after a plan
(``1..122``); lines that begin with "# " before it are what the test had to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["pass", "fail", "skip"]
_RESULT = re.compile(r"(?P<bad>not )?ok \d+ (?P<name>\S+)(?: # (?P<directive>\w+)\s*(?P<words>.*))?")
_CHATTER = re.compile(r"#\s+(RUN|OK|FAIL)\s")


@dataclass(frozen=True)
class Result:
    """One test: its name, what came of it, and the lines it printed before."""

    name: str
    outcome: Outcome
    said: Sequence[str] = ()


@dataclass
class Report:
    """All of a program's results, in order, and how many its plan announced (0: none was printed)."""

    planned: int = 0
    results: list[Result] = field(default_factory=list)


def parse(lines: Iterable[str]) -> Report:
    """Read a program's output; lines that are no TAP are kept with the next result."""
    report = Report()
    said: list[str] = []
    for line in (line.rstrip() for line in lines):
        if plan := re.fullmatch(r"1\.\.(\d+)", line):
            report.planned = int(plan[1])
        elif match := _RESULT.fullmatch(line):
            report.results.append(Result(match["name"], _outcome(match), tuple(said)))
            said = []
        elif line and not _CHATTER.match(line):
            said.append(line.removeprefix("# "))
    return report


def _outcome(match: re.Match[str]) -> Outcome:
    if match["bad"]:
        return "fail"
    return "skip" if match["directive"] == "SKIP" else "pass"
