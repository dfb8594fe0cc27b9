"""Scripts that have shown a difference from Linux once are answered as Linux answered them (`found/`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NoReturn

import pytest

from ioas.run import check_environment
from tests.differential import found, hosts
from tests.differential.hosts import Host

FOUND = found.every()
_PINNING = ("private memory", "shared memory")
"""Without these a mapping follows its address, which is none of Linux's answers."""


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[str], Host]]:
    """Starts a host when it is first needed."""
    makers = {"in process": hosts.in_process, "under ioas run": hosts.supervised}
    running: dict[str, Host] = {}
    with ExitStack() as stack:
        yield lambda name: running.get(name) or running.setdefault(name, stack.enter_context(makers[name]()))


@pytest.mark.parametrize("name", FOUND)
def test_in_this_process(name: str, started: Callable[[str], Host]) -> None:
    script = FOUND[name].script
    if not hosts.runs_in_process(script):
        pytest.skip("for processes, memory that is replaced, and limits, another process is needed")
    assert started("in process").run([script]) == [FOUND[name].linux]


@pytest.mark.parametrize("name", FOUND)
def test_under_ioas_run(name: str, started: Callable[[str], Host], require: Callable[[str, str], NoReturn]) -> None:
    script = FOUND[name].script
    for finding in check_environment():
        if finding.verdict == "missing" or (finding.name in _PINNING and finding.verdict != "ok"):
            require("run", f"{finding.name}: {finding.text}")
    if not hosts.runs_supervised(script):
        require("root", "who has to be given CAP_IPC_LOCK has it beyond every limit")
    assert started("under ioas run").run([script]) == [FOUND[name].linux]
