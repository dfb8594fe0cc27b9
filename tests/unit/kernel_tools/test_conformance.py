"""Holding a report against what was expected of it."""

from __future__ import annotations

import pytest

from tools.kernel.conformance import Verdict
from tools.kernel.expectations import Difference, Suite, load
from tools.kernel.selftests import PROGRAMS
from tools.kernel.tap import Report, Result

SUITE = Suite(
    name="s",
    program="p",
    arguments=(),
    ioas=(),
    tests=3,
    hugepages=0,
    differs=(
        Difference(("f.*.broken",), "fail", "fail", "known"),
        Difference(("f.*.huge",), "fail", "fail", "no huge pages", without="hugepages"),
    ),
)


def verdict(*results: Result, missing: frozenset[str] = frozenset()) -> Verdict:
    return Verdict(SUITE, Report(len(results), list(results)), missing, 0.0)


def test_what_was_expected_is_no_deviation() -> None:
    assert (
        verdict(Result("f.a.good", "pass"), Result("f.a.broken", "fail"), Result("f.a.huge", "pass")).deviations() == []
    )


def test_a_failure_nobody_expected_is_a_deviation_with_what_the_test_said() -> None:
    (line,) = verdict(
        Result("f.a.good", "fail", ("it broke",)), Result("f.a.broken", "fail"), Result("f.a.huge", "pass")
    ).deviations()

    assert line == "f.a.good: fail, expected pass\n    it broke"


def test_a_test_that_passes_against_expectation_is_a_deviation_too() -> None:
    (line,) = verdict(Result("f.a.good", "pass"), Result("f.a.broken", "pass"), Result("f.a.huge", "pass")).deviations()

    assert line == "f.a.broken: pass, expected fail"


def test_a_missing_need_changes_what_is_expected() -> None:
    results = (Result("f.a.good", "pass"), Result("f.a.broken", "fail"), Result("f.a.huge", "fail"))

    assert verdict(*results, missing=frozenset({"hugepages"})).deviations() == []


def test_a_need_that_is_met_in_part_leaves_open_what_is_expected() -> None:
    some = frozenset({"hugepages"})
    for outcome in ("fail", "pass"):
        results = [Result("f.a.good", "pass"), Result("f.a.broken", "fail"), Result("f.a.huge", outcome)]
        assert Verdict(SUITE, Report(3, results), some, 0.0, some).deviations() == []
    wrong = [Result("f.a.good", "fail"), Result("f.a.broken", "fail"), Result("f.a.huge", "pass")]
    assert Verdict(SUITE, Report(3, wrong), some, 0.0, some).deviations() == ["f.a.good: fail, expected pass"]


def test_tests_that_never_reported_are_a_deviation() -> None:
    assert verdict(Result("f.a.good", "pass")).deviations() == ["s: 1 tests reported of 3"]


@pytest.mark.parametrize("suite", load().values(), ids=lambda suite: suite.name)
def test_the_expectation_file_names_programs_that_can_be_built(suite: Suite) -> None:
    assert suite.program in PROGRAMS
