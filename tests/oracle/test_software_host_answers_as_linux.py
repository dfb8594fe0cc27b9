"""The software host answers what the real kernel answered, question for question, but for a list with reasons.

`linux-7.3.4.txt` is the record (its head says how it was made). The probe runs here as an unmodified program under
`ioas run`. The random sequences that it also knows are for a machine with the real kernel beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

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
)
GRANTS = [f"--cap={name}" for name in ("sys_resource", "ipc_lock", "sys_rawio", "sys_admin")]

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


def known() -> dict[str, str]:
    lines = (HERE / "known_differences.txt").read_text().splitlines()
    return dict(line.split(" | ", 1) for line in lines if line and not line.startswith("#"))


def test_every_question_is_answered_as_by_the_kernel_or_listed_with_a_reason() -> None:
    if os.getuid():
        require("root", "the record was made by root, and some answers depend on it")
    command = [sys.executable, "-m", "ioas", "run", "--iommufd-test", *GRANTS, "--"]
    done = subprocess.run(
        [*command, sys.executable, "-B", str(HERE / "probe.py"), *SECTIONS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    linux, ours = answers((HERE / "linux-7.3.4.txt").read_text()), answers(done.stdout)
    different = {key for key in linux.keys() | ours.keys() if linux.get(key) != ours.get(key)}
    listed = known()
    new = [f"linux: {linux.get(key)}\n ours: {ours.get(key)}" for key in sorted(different) if key[0] not in listed]
    assert not new, "\n".join(new)
    assert not set(listed) - {question for question, _ in different}, "listed, and yet the same"
