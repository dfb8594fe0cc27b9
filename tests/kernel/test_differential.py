"""What `tests/differential` holds against the software host, asked of the kernel: in the guest both stand beside it."""

from __future__ import annotations

import pytest

from tests.differential import found, hosts, scripts
from tests.differential.compare import differences

FOUND = found.every()
SCRIPTS = 10
"""Some 600 calls."""


@pytest.mark.parametrize("name", FOUND)
def test_the_kernel_answers_as_is_written_down(name: str) -> None:
    with hosts.here() as kernel:
        assert kernel.run([FOUND[name].script]) == [FOUND[name].linux]


def test_random_calls_are_answered_by_the_software_host_as_by_the_kernel() -> None:
    batch = [script for script in scripts.generate(0, 4 * SCRIPTS) if hosts.runs_in_process(script)][:SCRIPTS]
    with hosts.here() as kernel, hosts.in_process() as ours:
        kernel.ask(batch)
        answers = ours.run(batch)
        assert not list(differences(batch, answers, kernel.answers()))
