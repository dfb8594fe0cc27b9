"""When the supervisor is killed, everything that it served ends: no process goes on with calls that nobody answers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import NoReturn

import pytest

from tests.run.conftest import Runner, left_in_shm
from tests.run.test_kill import descendants_marked

FAMILY = """
from edu import *
import signal, subprocess, threading
machine = Machine()
def work():
    while True:
        machine.register(4, 1)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
for depth in range(5):
    if os.fork():
        break
    os.setsid()  # out of the group, with a parent that may die before
else:
    print("up", flush=True)
if int(sys.argv[1]) and depth % 2:
    while True:
        os.path.exists("/dev/iommu")
while True:
    {rest}
"""


def end_of(run: Runner, source: str, *argv: str, options: list[str]) -> str:
    """Kill the supervisor of a program that has said a line; what was written to standard error."""
    mark = f"IOAS_TEST_MARK={os.getpid()}-{time.monotonic_ns()}"
    environment = dict(run.environment(), **dict([mark.split("=")]))
    command = run.command(*run.script(source, *argv), options=options)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=20)  # both pipes end: nobody is left who has them
    deadline = time.monotonic() + 10
    while left := descendants_marked(mark):
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.02)
    return str(said)


@pytest.mark.parametrize("busy", ["0", "1"])
def test_in_a_namespace_everybody_is_killed_whatever_they_do(
    run_as_anyone: Runner, busy: str, require: Callable[[str, str], NoReturn]
) -> None:
    if not run_as_anyone.has_namespace():
        require("namespace", "a mount namespace is not allowed here")
    before = left_in_shm()
    said = end_of(run_as_anyone, FAMILY.replace("{rest}", "time.sleep(60)"), busy, options=[])
    assert said == "ioas: the supervisor has been killed; the program is ended\n"
    assert left_in_shm() <= before


def test_without_a_namespace_a_process_ends_with_its_next_call(run: Runner) -> None:
    source = FAMILY.replace("{rest}", "time.sleep(0.05); os.path.exists('/dev/iommu')")
    said = end_of(run, source, "1", options=["--no-namespace"])
    assert said == "ioas: the supervisor has been killed; the program is ended\n"


def test_a_program_that_ends_leaves_no_guardian(run: Runner) -> None:
    mark = f"IOAS_TEST_MARK={os.getpid()}-{time.monotonic_ns()}"
    done = run("true", env=dict(run.environment(), **dict([mark.split("=")])))
    assert (done.returncode, done.stderr) == (0, "")
    assert not descendants_marked(mark)
