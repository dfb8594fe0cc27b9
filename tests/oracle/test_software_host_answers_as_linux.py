"""The software host answers what the real kernel answered, question for question, but for a list with reasons.

`linux-7.3.4.txt` is the record (its head says how it was made). The probe runs here as an unmodified program under
`ioas run`, as whoever runs the tests and without privileges: what a call needs is granted to the machine. What nobody
thought of is asked in tests/differential.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.run.conftest import Runner, unprivileged
from tests.support.lanes import require

HERE = Path(__file__).parent
SECTIONS = (
    "dispatcher",
    "space",
    "placement",
    "compat",
    "tables",
    "accesses",
    "later",
    "binding",
    "information",
    "registers",
    "signals",
    "transfers",
    "exports",
    "power",
)
WITHOUT_GRANTS = ("ordinary.capabilities", "ordinary.limits_of_users", "ordinary.limits_of_both", "ordinary.devices")
RUNS = (
    (SECTIONS, ("sys_resource", "ipc_lock", "sys_rawio", "sys_admin"), "edu"),
    (WITHOUT_GRANTS, (), "edu"),
    (("ordinary.limits_of_processes",), ("sys_resource",), "edu"),  # which RLIMIT_MODE needs
    (("virtual", "messages", "states"), (), "testdev"),  # Linux was asked of an igb, an nvme and an edu
)
"""Sections, the capabilities that they need, and the device."""
ORDINARY = "as an ordinary user: "
"""How the reason begins of what differs only without privileges."""

Answers = dict[tuple[str, int], str]


def answers(text: str) -> Answers:
    """Every answer by its question and how often that has been asked before."""
    asked: Counter[str] = Counter()
    found: Answers = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            question = line.partition(" = ")[0]
            asked[question] += 1
            found[question, asked[question]] = line
    return found


def known(ordinary: bool) -> dict[str, str]:
    """Questions that are answered otherwise, with the reasons."""
    lines = (HERE / "known_differences.txt").read_text().splitlines()
    listed = dict(line.split(" | ", 1) for line in lines if line and not line.startswith("#"))
    return {question: reason for question, reason in listed.items() if ordinary or not reason.startswith(ORDINARY)}


def asked(runner: Runner, sections: Sequence[str], grants: Sequence[str], device: str) -> str:
    """What the probe prints on a software machine with `grants` and one device."""
    options = ["--iommufd-test", f"--device={device}", *(f"--cap={name}" for name in grants)]
    done = runner(sys.executable, "-B", str(HERE / "probe.py"), *sections, options=options, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["as is", "without privileges"])
def runner(request: pytest.FixtureRequest) -> Runner:
    """Runs the probe as whoever runs the tests, and as nobody when that is root."""
    if request.param == "as is":
        return Runner()
    if os.getuid():
        pytest.skip("the tests are run without privileges anyhow")
    return unprivileged(require)


def test_every_question_is_answered_as_by_the_kernel_or_listed_with_a_reason(runner: Runner) -> None:
    linux = answers((HERE / "linux-7.3.4.txt").read_text())
    ours = answers("".join(asked(runner, *run) for run in RUNS))
    different = {key for key in linux.keys() | ours.keys() if linux.get(key) != ours.get(key)}
    listed = known(ordinary=bool(runner.prefix) or os.getuid() != 0)
    new = [f"linux: {linux.get(key)}\n ours: {ours.get(key)}" for key in sorted(different) if key[0] not in listed]
    assert not new, "\n".join(new)
    assert not set(listed) - {question for question, _ in different}, "listed, and yet the same"
