"""What expected.toml says: which programs are run, and which tests differ from "pass" there and here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast, get_args

from tools.kernel.tap import Outcome

EXPECTED = Path(__file__).with_name("expected.toml")


@dataclass(frozen=True)
class Difference:
    """Tests (patterns) that do not simply pass: what they do here, on the real kernel, and why.

    `without` names the need in whose absence this counts; None for always.
    """

    tests: tuple[str, ...]
    ours: Outcome
    kernel: Outcome
    reason: str
    without: str | None = None


@dataclass(frozen=True)
class Suite:
    """One run of a program: its arguments, the options of ``ioas run``, how many tests it has, what differs."""

    name: str
    program: str
    arguments: tuple[str, ...]
    ioas: tuple[str, ...]
    tests: int
    hugepages: int
    differs: tuple[Difference, ...]
    points: Mapping[str, int] = field(default_factory=dict)
    """For a program that sweeps fail-nth: how many allocations fail on the real kernel, by test."""

    def difference(self, test: str, missing: Set[str]) -> Difference | None:
        """The entry for `test` where the needs in `missing` are not met; the first that fits."""
        for entry in self.differs:
            if (entry.without is None or entry.without in missing) and _matches(test, entry.tests):
                return entry
        return None


def load(path: Path = EXPECTED) -> dict[str, Suite]:
    """Read the suites of an expectation file; raises KeyError, TypeError or ValueError for a malformed one."""
    return {name: _suite(name, table) for name, table in tomllib.loads(path.read_text()).items()}


def _suite(name: str, table: Mapping[str, object]) -> Suite:
    entries = table.get("differs", [])
    return Suite(
        name=name,
        program=str(table["program"]),
        arguments=_words(table["arguments"]),
        ioas=_words(table["ioas"]),
        tests=int(str(table["tests"])),
        hugepages=int(str(table.get("hugepages", 0))),
        differs=tuple(_difference(entry) for entry in _tables(entries)),
        points=_numbers(table.get("points", {})),
    )


def _difference(entry: Mapping[str, object]) -> Difference:
    without = entry.get("without")
    return Difference(
        tests=_words(entry["tests"]),
        ours=_outcome(entry["ours"]),
        kernel=_outcome(entry["kernel"]),
        reason=str(entry["reason"]),
        without=None if without is None else str(without),
    )


def _outcome(value: object) -> Outcome:
    for outcome in get_args(Outcome):
        if value == outcome:
            return cast(Outcome, outcome)
    raise ValueError(f"{value!r} is none of {get_args(Outcome)}")


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(f"{value!r} is not a list of strings")
    return tuple(value)


def _numbers(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not all(isinstance(number, int) for number in value.values()):
        raise TypeError(f"{value!r} is not a table of numbers")
    return {str(name): number for name, number in value.items()}


def _tables(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise TypeError(f"{value!r} is not a list of tables")
    return value


def _matches(test: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(test, pattern) for pattern in patterns)
