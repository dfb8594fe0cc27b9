"""Signals and job control are the program's: what comes from outside reaches it, what stops it stops the job."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.run.conftest import Runner

COUNTER = """
import os, signal, time
counts = {}
def count(number, frame): os.write(1, b"%d\\n" % number)
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGWINCH):
    signal.signal(number, count)
os.write(1, b"up\\n")
while True:
    time.sleep(60)
"""


@contextmanager
def running(run: Runner, source: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said a line; in a process group of its own."""
    command = run.command(*run.script(source))
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def child_of(pid: int) -> int:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, _, rest = path.read_text().partition(" ")
            if rest.rpartition(") ")[2].split()[1] == str(pid):
                return int(number)
    raise AssertionError(f"{pid} has no child")


@pytest.mark.parametrize("name", ["HUP", "TERM", "USR1", "USR2", "INT", "WINCH"])
def test_a_signal_sent_to_the_supervisor_reaches_the_program(run: Runner, name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    with running(run, COUNTER) as process:
        process.send_signal(number)
        assert read_line(process) == b"%d" % number


def test_a_program_that_does_not_handle_the_signal_dies_of_it_and_so_does_the_command(run: Runner) -> None:
    with running(run, "import time; print('up', flush=True); time.sleep(60)") as process:
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


def test_a_signal_by_the_program_to_its_group_arrives_once(run: Runner) -> None:
    source = COUNTER.replace('os.write(1, b"up\\n")', "print('up', flush=True); os.kill(0, signal.SIGUSR1)")
    with running(run, source) as process:
        assert read_line(process) == b"%d" % signal.SIGUSR1
        assert process.stdout is not None
        assert not select.select([process.stdout], [], [], 0.3)[0]


def test_a_signal_during_a_call_neither_repeats_nor_breaks_it(run: Runner) -> None:
    source = """
        from edu import *
        import signal
        signals = [0]
        def count(*_): signals[0] += 1
        signal.signal(signal.SIGALRM, count)
        signal.siginterrupt(signal.SIGALRM, False)  # SA_RESTART: a signal before the call is received repeats it
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        iommufd = os.open("/dev/iommu", os.O_RDWR)
        ids = [call(iommufd, IOAS_ALLOC, "=3I", 0, 0)[2] for _ in range(3000)]
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert ids == list(range(ids[0], ids[0] + 3000)), "a call was carried out twice"
        assert signals[0] > 10
    """
    done = run.python(source)
    assert (done.stderr, done.returncode) == ("", 0)


def test_what_the_program_has_left_behind_ends_with_the_command(run: Runner) -> None:
    source = """
        import os, signal, time
        program = os.getpid()
        if os.fork() == 0:
            os.setsid()
            while os.getppid() == program:
                time.sleep(0.01)
            os.write(1, b"up\\n")
            signal.pause()
    """
    with running(run, source) as process:
        process.terminate()
        assert process.wait(10) == 0


def test_what_is_left_ends_too_when_the_program_is_killed_before_it_can_act_on_the_signal(run: Runner) -> None:
    source = """
import os, time
if os.fork() == 0:
    time.sleep(1000)
os.write(1, b"%d\\n" % os.getpid())
time.sleep(1000)
"""
    for _ in range(4):  # the two signals race; lost, the orphan would keep the command for ever
        command = run.command(*run.script(source))
        with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
            assert process.stdout is not None
            os.kill(int(process.stdout.readline()), signal.SIGKILL)
            process.terminate()
            try:
                assert process.wait(10) == -signal.SIGKILL
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def test_a_stop_of_the_program_stops_the_job_and_continuing_the_group_continues_both(run: Runner) -> None:
    source = COUNTER.replace("while True:", "os.kill(os.getpid(), signal.SIGTSTP)\nos.write(1, b'on\\n')\nwhile True:")
    with running(run, source) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGTSTP
        os.killpg(process.pid, signal.SIGCONT)
        assert read_line(process) == b"on"
        wait_for(lambda: state(process.pid) not in "Tt")


def test_continuing_the_program_alone_continues_the_supervisor(run: Runner) -> None:
    source = """
        import os, signal
        os.write(1, b"up\\n"); os.kill(os.getpid(), signal.SIGSTOP)
        os.close(os.open("/dev/iommu", os.O_RDWR)); os.write(1, b"served\\n"); signal.pause()
    """
    with running(run, source) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        os.kill(child_of(process.pid), signal.SIGCONT)
        assert read_line(process) == b"served"


def test_continuing_the_supervisor_alone_continues_the_program(run: Runner) -> None:
    source = COUNTER.replace("while True:", "os.kill(os.getpid(), signal.SIGSTOP)\nos.write(1, b'on\\n')\nwhile True:")
    with running(run, source) as process:
        os.waitpid(process.pid, os.WUNTRACED)
        process.send_signal(signal.SIGCONT)
        assert read_line(process) == b"on"


class Terminal:
    """A job in the foreground of a terminal of its own, as a shell would start it."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            job = os.fork()
            if job == 0:
                os.setpgid(0, 0)
                signal.signal(signal.SIGTTOU, signal.SIG_IGN)
                os.tcsetpgrp(0, os.getpid())
                signal.signal(signal.SIGTTOU, signal.SIG_DFL)
                os.execvp(command[0], command)
            while True:  # the shell: reports what becomes of the job, and continues it when it has stopped
                _, status = os.waitpid(job, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    os.write(1, b"ended %d\n" % os.waitstatus_to_exitcode(status))
                    os._exit(0)
                os.write(1, b"stopped %d\n" % os.WSTOPSIG(status))
                os.killpg(job, signal.SIGCONT)
        self.text = b""

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + 20
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.fd], [], [], 0.5)[0]:
                self.text += os.read(self.fd, 1000)
        self.text = self.text.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def close(self) -> None:
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(run: Runner) -> Iterator[Callable[[str], Terminal]]:
    opened = []

    def start(source: str) -> Terminal:
        opened.append(Terminal(run.command(*run.script(source))))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_the_interrupt_key_reaches_the_program_once(terminal: Callable[[str], Terminal]) -> None:
    shell = terminal(
        """
        import os, signal, time
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.write(1, b"up\\n")
        signal.sigwait({signal.SIGINT}); os.write(1, b"interrupt\\n")
        if signal.sigtimedwait({signal.SIGINT}, 0.3) is None: os.write(1, b"done\\n")
        """
    )
    shell.expect(b"up")
    shell.type(b"\x03")
    shell.expect(b"interrupt")
    shell.expect(b"done")
    shell.expect(b"ended 0")


def test_the_interrupt_key_ends_program_and_command_by_the_signal(terminal: Callable[[str], Terminal]) -> None:
    shell = terminal("import os, signal; signal.signal(2, signal.SIG_DFL); os.write(1, b'up\\n'); signal.pause()")
    shell.expect(b"up")
    shell.type(b"\x03")
    shell.expect(b"ended -2")


def test_the_stop_key_stops_the_job_and_it_goes_on_in_the_foreground(terminal: Callable[[str], Terminal]) -> None:
    shell = terminal(
        """
        import os, signal
        def on(*_): os.write(1, b"continued\\n")
        signal.signal(signal.SIGCONT, on)
        os.write(1, b"up\\n")
        while True:
            os.write(1, b"read " + os.read(0, 100))
            os.close(os.open("/dev/iommu", os.O_RDWR))
        """
    )
    shell.expect(b"up")
    shell.type(b"\x1a")
    shell.expect(b"stopped %d" % signal.SIGTSTP)
    shell.expect(b"continued")
    shell.type(b"hello\n")
    shell.expect(b"read hello")
    shell.type(b"again\n")
    shell.expect(b"read again")
    shell.type(b"\x1c")
    shell.expect(b"ended -3")
