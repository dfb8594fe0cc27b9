"""The tracer: jobs, tracees, and what it collects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ioas.run import ptrace
from ioas.run.jobs import NUDGE
from ioas.run.mmio.traps import Traps
from ioas.run.ptrace import OPTION_SYSGOOD, R, Registers
from ioas.run.tracer import Busy, Tracer

LOOP = "import os, sys\nwhile line := sys.stdin.readline():\n    sys.stdout.write(line); sys.stdout.flush()"


class Traced:
    """A tracer, and a child that answers every line with itself."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, int]] = []
        self.failed: list[Exception] = []
        self.gone = threading.Event()
        self.fails = False
        """Whether who is told of an end fails."""
        self.tracer = Tracer(self._note, self.failed.append, ptrace.QuietStops(), lambda: None)
        self.child = subprocess.Popen(
            [sys.executable, "-c", LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answers()

    def _note(self, thread: int, status: int) -> None:
        self.ended.append((thread, status))
        self.gone.set()
        if self.fails:
            raise PermissionError

    def answers(self) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("line\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "line\n"


@pytest.fixture
def traced() -> Iterator[Traced]:
    former = signal.signal(NUDGE, lambda number, frame: None)
    traced = Traced()
    traced.tracer.start()
    yield traced
    traced.tracer.close()
    assert traced.child.stdin is not None
    assert traced.child.stdout is not None
    traced.child.stdin.close()
    traced.child.stdout.close()
    traced.child.wait()
    signal.signal(NUDGE, former)
    assert not traced.failed


def seized(traced: Traced) -> int:
    pid = traced.child.pid
    traced.tracer.submit(lambda: traced.tracer.seize(pid, OPTION_SYSGOOD))
    assert traced.tracer.owns(pid)
    return pid


def test_a_job_returns_what_it_returns_and_raises_what_it_raises(traced: Traced) -> None:
    assert traced.tracer.submit(threading.current_thread) is traced.tracer
    with pytest.raises(ZeroDivisionError):
        traced.tracer.submit(lambda: 1 // 0)
    assert traced.tracer.submit(lambda: traced.tracer.submit(lambda: 7)) == 7


def test_jobs_come_through_while_the_tracer_waits_for_its_tracees(traced: Traced) -> None:
    seized(traced)
    assert [traced.tracer.submit(lambda number=number: number) for number in range(300)] == list(range(300))
    traced.answers()


def test_a_job_that_is_not_begun_in_time_is_not_done_at_all(traced: Traced) -> None:
    begin, go = threading.Event(), threading.Event()
    done: list[int] = []
    blocker = threading.Thread(target=lambda: traced.tracer.submit(lambda: (begin.set(), go.wait())))
    blocker.start()
    begin.wait()
    with pytest.raises(Busy):
        traced.tracer.submit(lambda: done.append(1), seconds=0.02)
    go.set()
    blocker.join()
    traced.tracer.submit(lambda: None)
    assert not done


def test_a_tracee_can_be_stopped_looked_at_and_let_go(traced: Traced) -> None:
    pid = seized(traced)
    while state(pid) != "S":
        os.sched_yield()

    def look() -> int:
        ptrace.interrupt(pid)
        stop = traced.tracer.wait_for(pid)
        assert stop.stands
        assert stop.event == ptrace.EVENT_STOP
        registers = Registers()
        ptrace.get_registers(pid, registers)
        ptrace.set_registers(pid, registers)
        traced.tracer.release(pid)
        return int(registers[R.ORIG_RAX])

    assert traced.tracer.submit(look) == 0  # read(2), which begins again
    assert not traced.tracer.owns(pid)
    traced.answers()


def test_stops_that_nobody_waits_for_are_given_to_on_stop(traced: Traced) -> None:
    stops: list[ptrace.Stop] = []
    seen = threading.Event()

    def on_stop(stop: ptrace.Stop) -> None:
        stops.append(stop)
        ptrace.resume(stop.thread)
        seen.set()

    traced.tracer.on_stop = on_stop
    pid = seized(traced)
    os.kill(pid, signal.SIGWINCH)
    assert seen.wait(10)
    assert [(stop.thread, stop.signal, stop.event) for stop in stops] == [(pid, signal.SIGWINCH, 0)]
    traced.answers()


def test_the_end_of_a_tracee_is_told_with_its_status(traced: Traced) -> None:
    pid = seized(traced)
    os.kill(pid, signal.SIGKILL)
    assert traced.gone.wait(10)
    assert traced.ended == [(pid, signal.SIGKILL)]
    assert not traced.tracer.owns(pid)


def test_the_tracer_goes_on_when_who_is_told_of_an_end_fails(traced: Traced) -> None:
    pid = seized(traced)
    traced.fails = True
    os.kill(pid, signal.SIGKILL)
    assert traced.gone.wait(10)
    assert traced.tracer.submit(lambda: 7) == 7
    assert [type(error) for error in traced.failed] == [PermissionError]
    traced.failed.clear()


EXECUTES = """
import os, sys, threading
def execute():
    print(threading.get_native_id(), flush=True)
    sys.stdin.readline()
    os.execv("/bin/echo", ["echo", "executed"])
thread = threading.Thread(target=execute)
thread.start()
thread.join()
"""


def test_who_executes_a_program_in_another_thread_is_let_go_of_under_both_numbers(traced: Traced) -> None:
    seized(traced)  # without any tracee the tracer forgets all numbers
    said: list[str] = []
    traps = Traps(traced.tracer, {}, said.append, lambda thread, number: None)
    command = [sys.executable, "-c", EXECUTES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        thread = int(child.stdout.readline())
        traps.trace(child.pid)
        assert traced.tracer.owns(child.pid)
        assert traced.tracer.owns(thread)
        child.stdin.write("\n")
        child.stdin.close()
        assert child.stdout.read() == "executed\n"
        traced.tracer.submit(lambda: None)  # when that is done, so is what it did for the program
        assert not traced.tracer.owns(child.pid)
        assert not traced.tracer.owns(thread)
    assert (child.returncode, said) == (0, [])


def test_a_group_stop_lasts_until_it_is_continued(traced: Traced) -> None:
    pid = seized(traced)
    os.kill(pid, signal.SIGSTOP)
    while state(pid) != "t":
        os.sched_yield()
    os.kill(pid, signal.SIGCONT)
    traced.answers()


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_nobody_else_can_seize_a_tracee_and_that_is_eperm(traced: Traced) -> None:
    with pytest.raises(PermissionError):
        ptrace.seize(seized(traced), OPTION_SYSGOOD)
    traced.answers()


THREADS = """
import sys, threading
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
sys.stdout.write(sys.stdin.readline()); sys.stdout.flush()
sys.stdin.read()
"""


def test_the_end_of_a_process_is_told_though_the_ends_of_its_threads_come_first(traced: Traced) -> None:
    """The kernel keeps the first thread's end back until the others have been collected."""
    with subprocess.Popen(
        [sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("up\n")
        child.stdin.flush()
        assert child.stdout.readline() == "up\n"
        threads = sorted(map(int, os.listdir(f"/proc/{child.pid}/task")))

        def kill_and_wait() -> bool:
            for thread in threads:
                traced.tracer.seize(thread, OPTION_SYSGOOD)
            os.kill(child.pid, signal.SIGKILL)
            return traced.tracer.wait_for(child.pid).stands

        assert not traced.tracer.submit(kill_and_wait)
        assert sorted(thread for thread, _ in traced.ended) == threads


def test_it_is_known_whose_end_the_tracer_will_tell(traced: Traced) -> None:
    def seize_and_kill() -> tuple[bool, bool]:
        before = traced.tracer.traces(traced.child.pid)
        traced.tracer.seize(traced.child.pid, OPTION_SYSGOOD)
        os.kill(traced.child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, traced.child.pid, os.WEXITED | os.WNOWAIT)
        return before, traced.tracer.traces(traced.child.pid)

    assert traced.tracer.submit(seize_and_kill) == (False, True)
    assert traced.gone.wait(5)
    assert not traced.tracer.traces(traced.child.pid)
