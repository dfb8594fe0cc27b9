"""Linux 7.3's own test programs, under `ioas run`, do what tools/kernel/expected.toml says (lane conformance).

Every refusal on the way says what refusals.txt says of it, and names the culprit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from ioas.errors import EnvironmentRefusal
from tests.support import refusals
from tools.kernel import conformance, expectations, selftests, source

SUITES = expectations.load()
UNPRIVILEGED = "RLIMIT_MEMLOCK"
"""The culprit only where the tests may not lock as much memory as they want."""


@pytest.mark.timeout(conformance.LIMIT_SECONDS + 60)
@pytest.mark.parametrize("name", SUITES)
def test_the_kernels_selftests_do_what_is_expected_of_them(
    name: str, require: Callable[[str, str], NoReturn], tmp_path: Path
) -> None:
    suite = SUITES[name]
    if not (here := source.found()):
        require("conformance", "Linux's sources are not in the cache; `make headers` fetches them")
    try:
        program = selftests.build(here, suite.program)
    except EnvironmentRefusal as refusal:
        require("conformance", str(refusal))
    record = tmp_path / "refusals"
    verdict = conformance.run(suite, program, ["--refusals", str(record)])
    assert verdict.deviations() == []
    if name == "iommufd":
        _hold_against_the_table(record, everything=not verdict.missing)


def _hold_against_the_table(record: Path, *, everything: bool) -> None:
    """Every refusal is a row of the table; with `everything` that the tests need, every row has come."""
    rows, reached, unknown = refusals.rows(), set(), set()
    for refused in refusals.record(record):
        saying = [row for row in rows if row.says(refused)]
        reached.update(saying)
        if not saying and not refused.culprit.startswith(UNPRIVILEGED):
            unknown.add(f"{refused.command} {refused.errno} | {refused.reason} | {refused.kind} | {refused.culprit}")
    assert not unknown, "\n".join(sorted(unknown))
    if everything:
        assert not set(rows) - reached, "\n".join(map(str, set(rows) - reached))
