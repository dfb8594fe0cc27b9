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
Maker = Callable[[str], Host]
_PINNING = ("private memory", "shared memory")
"""Without these a mapping follows its address, which is none of Linux's answers."""


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[Maker, str], Host]]:
    """Starts a host like a variant of the guest when it is first needed."""
    running: dict[tuple[Maker, str], Host] = {}
    with ExitStack() as stack:

        def start(make: Maker, variant: str) -> Host:
            key = make, variant
            return running.get(key) or running.setdefault(key, stack.enter_context(make(variant)))

        yield start


@pytest.mark.parametrize("name", FOUND)
def test_in_this_process(name: str, started: Callable[[Maker, str], Host]) -> None:
    script = FOUND[name].script
    if not hosts.runs_in_process(script):
        pytest.skip("for processes, memory that is replaced, and limits, another process is needed")
    assert started(hosts.in_process, FOUND[name].variant).run([script]) == [FOUND[name].linux]


@pytest.mark.parametrize("name", FOUND)
def test_under_ioas_run(
    name: str, started: Callable[[Maker, str], Host], require: Callable[[str, str], NoReturn]
) -> None:
    script = FOUND[name].script
    for finding in check_environment():
        if finding.verdict == "missing" or (finding.name in _PINNING and finding.verdict != "ok"):
            require("run", f"{finding.name}: {finding.text}")
    if not hosts.runs_supervised(script):
        require("root", "who has to be given CAP_IPC_LOCK has it beyond every limit")
    assert started(hosts.supervised, FOUND[name].variant).run([script]) == [FOUND[name].linux]
