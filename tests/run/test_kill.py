"""SIGKILL at any moment leaves nothing behind - pin, descriptor, shm file, process, thread - and the machine works.

Whoever is killed has loads and stores, mappings, threads and forks in flight (clients/shepherd.py). ``IOAS_KILLS`` says
how many are killed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.run.conftest import CLIENTS, Runner, left_in_shm

KILLS = int(os.environ.get("IOAS_KILLS", "200"))
RUNS = max(KILLS // 20, 1)

SHEPHERD = (sys.executable, "-B", str(CLIENTS / "shepherd.py"))
SECONDS = 280 + KILLS
# Where a user namespace is needed for it, a program in one may not look at what the supervisor has open.
NO_NAMESPACE = ("--no-namespace",) if os.getuid() else ()


def descendants_marked(mark: str) -> list[str]:
    """Processes that carry `mark` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.timeout(SECONDS + 20)
def test_a_program_that_is_killed_at_any_moment_leaves_the_machine_as_new(run: Runner) -> None:
    seed = random.randrange(1 << 32)
    before = left_in_shm()
    done = run(*SHEPHERD, str(seed), str(KILLS), options=NO_NAMESPACE, timeout=SECONDS)
    assert (done.stderr, done.returncode) == ("", 0), f"seed {seed}"
    assert left_in_shm() <= before


@pytest.mark.timeout(SECONDS + 20)
def test_whoever_is_killed_no_process_and_no_file_is_left(run: Runner) -> None:
    """The program, then the supervisor, at a random moment of a whole run."""
    seed = random.randrange(1 << 32)
    moment = random.Random(seed)
    before = left_in_shm()
    for number in range(2 * RUNS):
        mark = f"IOAS_TEST_MARK={os.getpid()}-{seed}-{number}"
        environment = dict(os.environ, **dict([mark.split("=")]))
        command = run.command(*SHEPHERD, str(seed), "1000000")
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            time.sleep(moment.random())
            victims = [int(pid) for pid in descendants_marked(mark) if int(pid) != process.pid]
            victim = process.pid if number % 2 or not victims else moment.choice(victims)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while process.poll() is None:  # a program that was just dying may have got the first one
                process.terminate()
                assert time.monotonic() < deadline, f"seed {seed}, run {number}: the command does not end"
                time.sleep(0.02)
        while left := descendants_marked(mark):
            assert time.monotonic() < deadline, f"seed {seed}, run {number}: processes {left} are left"
            time.sleep(0.02)
    assert run("true").returncode == 0  # removes what killed supervisors have left
    assert left_in_shm() <= before
