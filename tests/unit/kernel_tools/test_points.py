"""How many allocations a sweep lets fail, and the page that shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.kernel import page, points
from tools.kernel.conformance import Verdict
from tools.kernel.expectations import Suite
from tools.kernel.tap import Report, Result, parse

SUITE = Suite("sweep", "sweep", (), (), 1, 0, (), {"a.test": 7})


def result(*said: str) -> Result:
    return parse([*(f"# {line}" for line in said), "ok 1 a.test"]).results[0]


def deviations(one: Result) -> list[str]:
    return Verdict(SUITE, Report(1, [one]), frozenset(), 0).deviations()


def test_the_last_number_is_the_one_that_nothing_was_left_for() -> None:
    said = result("fail-nth 1 VmPin 8 VmLck 0", "fail-nth 2 VmPin 8 VmLck 0", "fail-nth 3 VmPin 8 VmLck 0")
    assert points.of_test(said) == (2, {(8, 0)})
    assert deviations(said) == []


def test_a_ledger_that_a_failure_has_changed_is_a_deviation() -> None:
    (line,) = deviations(result("fail-nth 1 VmPin 8 VmLck 0", "fail-nth 2 VmPin 12 VmLck 0"))
    assert line == "a.test: 1 allocations failed, and the ledgers were [(8, 0), (12, 0)] by turns"


def test_a_sweep_that_lets_nothing_fail_is_a_deviation() -> None:
    assert deviations(result()) == ["a.test: 0 allocations failed, and the ledgers were [] by turns"]


@pytest.mark.parametrize("root", [True, False])
def test_the_page_shows_what_was_printed_under_the_heading_of_who_ran_it(
    root: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    path = tmp_path / "page.md"
    path.write_text("## As root\n\n```\nold\n```\n\n## As an ordinary user\n\n```\nold\n```\nend\n")
    page.write("new  \nlines\n", path)
    blocks = ("new\nlines", "old") if root else ("old", "new\nlines")
    expected = "## As root\n\n```\n{}\n```\n\n## As an ordinary user\n\n```\n{}\n```\nend\n"
    assert path.read_text() == expected.format(*blocks)


def test_a_page_without_such_a_block_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("## As root\n## As an ordinary user\n")
    with pytest.raises(ValueError, match="no block"):
        page.write("new", path)
