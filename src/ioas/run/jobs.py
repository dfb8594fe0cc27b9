"""Being the program's stand-in towards the shell: signals, stops, exit status.

The program is our child in our own process group. What the terminal sends (Ctrl-C, Ctrl-Z, a hang-up) goes to the
whole group and so reaches the program without us; we must only not die of it. What somebody sends to us by kill(2) is
meant for the program and is passed on. When the program stops we stop in the same way, so that the shell sees a
stopped job; when it is killed by a signal we end by that signal.

Every signal is blocked in every thread of ours and read from a signalfd, which tells who sent it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable

from ioas.run.kernel import Signal

_LOOK_EVERY = 0.02
_SYNCHRONOUS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
}
NUDGE = signal.SIGURG
"""Interrupts the serving thread. Its default is to be ignored, so that nobody misses it."""
HANDLED = signal.valid_signals() - _SYNCHRONOUS - {signal.SIGKILL, signal.SIGSTOP, NUDGE}
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def take_signals() -> set[int]:
    """Block what `Job` handles, in this thread and those that it starts; the mask of before, for the program."""
    signal.signal(NUDGE, lambda number, frame: None)
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)))


def pending_end() -> int | None:
    """A signal that came before the program was there and would have ended us."""
    pending = signal.sigpending()
    return next((number for number in _ENDING if number in pending), None)


class Job:
    """The program as a job: passes signals on, mirrors stops, learns how it ends."""

    def __init__(self, program: int) -> None:
        """`program`: its process id, a child of ours."""
        self.program = program
        self.status: int | None = None
        """Its exit status, or minus the signal that killed it; None while it runs."""
        self.left_to_others: Callable[[int], bool] = lambda child: False
        """Whether another thread of ours will tell what becomes of a child (`collected`)."""
        self._ending: int | None = None
        """The last signal passed on that ends a command: for the rest, if the program is killed before it can act."""

    def handle(self, received: Signal) -> None:
        """React to a signal that we have got."""
        self.reap()  # whatever came: a signal for a program that has ended would be lost
        if received.number == signal.SIGCHLD:
            return
        if self.status is not None:
            self._end_rest(received.number)
        elif received.code <= 0 and not self._is_ours(received.sender):
            self._pass_on(received.number)

    def reap(self) -> None:
        """Collect every child that has ended, and a stop of the program: orphans of its that we have inherited too.

        Each is asked for by its id, and first without taking anything: whatever is seized by ptrace(2) shows its stops
        to any wait in this process, and they are for who seized it.
        """
        for child in (self.program, *children(os.getpid())):
            with contextlib.suppress(ChildProcessError):
                found = os.waitid(os.P_PID, child, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
                if found and found.si_code != os.CLD_TRAPPED and not self.left_to_others(child):
                    self.collected(*os.waitpid(child, os.WNOHANG | os.WUNTRACED))

    def collected(self, child: int, status: int) -> None:
        """`child` has been waited for, with this status: here, or by who had it seized."""
        if child != self.program:
            return
        if os.WIFSTOPPED(status):
            self._stop(os.WSTOPSIG(status))
        else:
            self.status = os.waitstatus_to_exitcode(status)
            if self._ending and self.status == -signal.SIGKILL:
                self._end_rest(self._ending)

    def _pass_on(self, number: int) -> None:
        if number == signal.SIGCONT and state(self.program) not in "Tt":
            return  # sent to the whole group
        if number in _ENDING:
            self._ending = number
        try:
            os.kill(self.program, number)
        except ProcessLookupError:  # who had it seized has collected its end, and is about to tell us
            self._end_rest(number)

    def _end_rest(self, number: int) -> None:
        """The program has ended and left others behind: what ends a command, from wherever it comes, is for them."""
        if number not in _ENDING:
            return
        for child in children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def _is_ours(self, sender: int) -> bool:
        """Whether a signal comes from the program or a descendant: meant for the group, it has reached the program."""
        for _ in range(64):
            if sender in (0, 1):
                return False
            if sender in (self.program, os.getpid()):
                return True
            sender = _parent(sender)
        return False

    def _stop(self, number: int) -> None:
        """Stop as the program has stopped. Returns when we have been continued."""
        waker = self._start_waker()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number} - {signal.SIGSTOP})
        signal.pthread_kill(threading.get_ident(), number)  # to this thread, which thereby stops here and not later
        signal.pthread_sigmask(signal.SIG_BLOCK, {number} - {signal.SIGSTOP})
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(waker, signal.SIGKILL)
            os.waitpid(waker, 0)

    def _start_waker(self) -> int:
        """A process that continues us when somebody continues the program alone; the shell continues the group."""
        supervisor = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()  # out of reach of what stops the group
            while os.getppid() == supervisor:  # until the supervisor, which goes on, kills us
                if state(self.program) not in "Tt" or _is_continued(self.program):
                    os.kill(supervisor, signal.SIGCONT)
                time.sleep(_LOOK_EVERY)
        finally:
            os._exit(0)


def end_like(status: int) -> int:
    """Die by the signal if `status` is minus its number, without a core dump of our own; else return the status."""
    if status >= 0:
        return status
    number = -status
    if number != signal.SIGKILL:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number  # not reached, unless the signal is one that does not kill


def children(pid: int) -> list[int]:
    """Children of a process, those that have ended and not been waited for among them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(int(name)) == pid]
    return found


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


DEAD = "ZX"


def state(pid: int) -> str:
    """The state of a process or thread as /proc shows it: "Z" when it is dead, "X" when it is gone."""
    fields = _stat(pid)
    return fields[0] if fields else "X"


def _is_continued(pid: int) -> bool:
    """Whether SIGCONT waits for a process: one that is traced stands until its tracer, who is stopped, lets it go."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            pending = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    except OSError:
        return True
    return any(signals >> signal.SIGCONT - 1 & 1 for signals in pending)


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
