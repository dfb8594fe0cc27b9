"""Linux 7.3's own test programs, under ``ioas run``, do what tools/kernel/expected.toml says (lane conformance)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from ioas.errors import EnvironmentRefusal
from tools.kernel import conformance, expectations, selftests, source

SUITES = expectations.load()


@pytest.mark.timeout(conformance.LIMIT_SECONDS + 60)
@pytest.mark.parametrize("name", SUITES)
def test_the_kernels_selftests_do_what_is_expected_of_them(name: str, require: Callable[[str, str], NoReturn]) -> None:
    suite = SUITES[name]
    if not (here := source.found()):
        require("conformance", "Linux's sources are not in the cache; `make headers` fetches them")
    try:
        program = selftests.build(here, suite.program)
    except EnvironmentRefusal as refusal:
        require("conformance", str(refusal))
    verdict = conformance.run(suite, program)
    assert verdict.deviations() == []
