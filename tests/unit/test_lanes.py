"""The lanes: every one that a test names exists, and CI requires every one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import lanes

ROOT = Path(__file__).parents[2]


def named() -> Iterator[tuple[str, ast.expr]]:
    """The place and the first argument of each call of ``require``."""
    for path in sorted({*(ROOT / "tests").rglob("*.py")} - {Path(__file__)}):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("require", "lanes.require"):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


@pytest.mark.parametrize(("place", "lane"), [pytest.param(*found, id=found[0]) for found in named()])
def test_a_test_requires_a_lane_that_exists(place: str, lane: ast.expr) -> None:
    assert isinstance(lane, ast.Constant), f"{place} does not name its lane"
    assert lane.value in lanes.LANES, place


def test_no_lane_is_declared_for_nothing() -> None:
    assert {lane.value for _, lane in named() if isinstance(lane, ast.Constant)} == lanes.LANES.keys()


def test_ci_requires_every_lane() -> None:
    script = (ROOT / ".ci/run").read_text()
    required = re.findall(r'lanes\+?=([\w,]+)|IOAS_REQUIRE="\$lanes,(\w+)"', script)
    assert {name for found in required for part in found for name in part.split(",")} - {""} == lanes.LANES.keys()


def test_a_name_that_is_no_lane_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOAS_REQUIRE", "cc,nothing")
    with pytest.raises(pytest.UsageError, match="nothing"):
        lanes.required()


def test_a_lane_that_is_required_fails_and_another_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOAS_REQUIRE", "cc")
    with pytest.raises(pytest.fail.Exception, match="lane cc is required"):
        lanes.require("cc", "no compiler")
    with pytest.raises(pytest.skip.Exception, match="lane uapi: no headers"):
        lanes.require("uapi", "no headers")
    with pytest.raises(pytest.UsageError, match="'strace' is not a lane"):
        lanes.require("strace", "no strace")
