"""The tracer: the one thread that keeps processes of the program seized by ptrace(2).

The kernel lets nobody but the thread that seized a tracee touch it, so whatever is to be done to one is a *job* that
the tracer carries out (`submit`). Between jobs it sleeps in wait(2) for whatever its tracees do and gives each stop to
`on_stop`; without tracees it sleeps until the next job. A job comes while it sleeps in wait(2) by a signal, NUDGE,
which is repeated until the job is taken: one that arrives just before the sleep would be lost.

Whoever traces a child of his own group collects its end as well (do_wait, kernel/exit.c): `ended` is told of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from ioas.run import ptrace
from ioas.run.jobs import NUDGE
from ioas.run.ptrace import QuietStops, Stop

T = TypeVar("T")
P = ParamSpec("P")
_BUS_ERROR = signal.SIGBUS << 8 | 0x7F
_NUDGE_EVERY = 0.005
_UNKNOWN = 0
"""Stands for tracees that another one made, and then was killed before it could tell."""


class Busy(Exception):  # noqa: N818 - a state, not an error
    """The tracer has not taken a job in time."""


class _Job(Generic[T]):
    """Something to be done by the tracer, and what has come of it."""

    def __init__(self, action: Callable[[], T]) -> None:
        self.taken = False
        self._action = action
        self._done = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        self.taken = True
        try:
            self._result.append(self._action())
        except BaseException as error:  # raised again in the thread that waits for it
            self._error = error
        self._done.set()

    def wait(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]


class Tracer(threading.Thread):
    """Owns tracees. `seize` and `release` are for jobs, and for `on_stop`, which runs in this thread too."""

    def __init__(
        self,
        ended: Callable[[int, int], None],
        failed: Callable[[Exception], None],
        quiet: QuietStops,
        on_quiet: Callable[[], None],
    ) -> None:
        """`ended`: told id and wait(2) status of a tracee that has ended; `failed`: what that and `on_stop` raise.

        While there are tracees no SIGCHLD tells of stops (`quiet`): it would wake another thread for each.
        `on_quiet` is called when that begins, for who wants to know of the stops of others.
        """
        super().__init__(name="ioas-tracer", daemon=True)
        self.on_stop: Callable[[Stop], None] = _let_run
        """Called for each stop of a tracee that no job waits for; must see to it that the tracee runs again."""
        self.on_fault: Callable[[int, int], None] | None = None
        """Called instead, with thread and signal, when SIGBUS is about to be delivered: this has to be quick."""
        self.wait: Callable[[], tuple[int, int]] = ptrace.Waiter()
        """Waits for the next stop: thread and status."""
        self.on_interrupt: Callable[[], None] = _nothing
        """Called when a signal to this thread has interrupted that."""
        self._ended = ended
        self._failed = failed
        self._quiet = quiet
        self._on_quiet = on_quiet
        self._is_quiet = False
        self._tracees: set[int] = set()
        self.jobs: deque[_Job[Any]] = deque()
        """What others wait for."""
        self._work = threading.Condition()
        self._closing = False

    def submit(self, action: Callable[[], T], seconds: float = 5.0) -> T:
        """Have `action` carried out by the tracer and return what it returns, or raise what it raises.

        Raises Busy, and does not carry it out, when the tracer has not begun with it after `seconds`; once begun it
        is waited for. From the tracer itself: carried out at once.
        """
        if threading.current_thread() is self:
            return action()
        job = _Job(action)
        with self._work:
            self.jobs.append(job)
            self._work.notify()
        left = seconds
        while True:
            self._nudge()
            if job.wait(_NUDGE_EVERY):
                return job.result()
            left -= _NUDGE_EVERY
            if left <= 0 and self._withdraw(job):
                raise Busy

    @property
    def is_quiet(self) -> bool:
        """Whether SIGCHLD does not tell of stops, on our account."""
        return self._is_quiet

    def owns(self, thread: int) -> bool:
        """Whether `thread` is a tracee. From other threads: as of now, it may change at once."""
        return thread in self._tracees

    def seize(self, thread: int, options: int) -> None:
        """Make `thread` a tracee. Raises OSError: EPERM for one that is traced already (a debugger), ESRCH."""
        if not self._is_quiet:
            self._is_quiet = True
            self._quiet.begin()
            self._on_quiet()
        ptrace.seize(thread, options)
        self._tracees.add(thread)

    def adopt(self, thread: int) -> None:
        """`thread` is a tracee without having been seized: a tracee has made it (OPTION_TRACE_CLONE and so on)."""
        self._tracees.add(thread)

    def lose(self, thread: int) -> None:
        """`thread` is no tracee any more, and no wait will tell: its number ended when it executed a program."""
        self._tracees.discard(thread)

    def release(self, thread: int, number: int = 0) -> None:
        """Let go of a tracee that stands. Raises OSError(ESRCH): it does not, or is gone."""
        ptrace.detach(thread, number)
        self._tracees.discard(thread)

    def wait_for(self, thread: int) -> Stop:
        """For jobs: wait for the next stop of `thread`, or its end, which `ended` is told of.

        Waits for any tracee and sees to the others afterwards: the end of a process's first thread is not told before
        the ends of its other threads have been collected, which nobody but us can do.
        """
        while True:
            try:
                stop = ptrace.wait()
            except InterruptedError:
                continue
            except ChildProcessError:
                return self._noted(Stop(thread, signal.SIGKILL))
            if stop and stop.thread == thread and stop.event != ptrace.EVENT_EXEC:
                return self._noted(stop)
            if stop:
                self._later(stop)
                if stop.thread == thread:  # it ended when another thread, which has its number now, executed a program
                    return Stop(thread, signal.SIGKILL)

    def traces(self, thread: int) -> bool:
        """Whether the kernel has `thread`, alive or dead, as a tracee of ours; from any thread."""
        try:
            with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as file:
                tracer = next((line.split()[1] for line in file if line.startswith("TracerPid:")), "0")
        except OSError:
            return False
        return int(tracer) == self.native_id

    def close(self) -> None:
        """End the thread; its tracees run on, untraced."""
        with self._work:
            self._closing = True
            self._work.notify()
        while self.is_alive():
            self._nudge()
            self.join(_NUDGE_EVERY)

    def run(self) -> None:
        """Carry out jobs and hand on stops until `close`."""
        while not self._closing:
            while self.jobs:
                self._next_job()
            if not self._tracees:
                self._be_loud()
                with self._work:
                    self._work.wait_for(lambda: self.jobs or self._closing)
                continue
            try:
                thread, status = self.wait()
            except InterruptedError:
                self.on_interrupt()
                continue
            except ChildProcessError:
                self._tracees.clear()
                continue
            if status == _BUS_ERROR and self.on_fault:
                self._guard(self.on_fault, thread, signal.SIGBUS)
            else:
                self._handle(self._noted(Stop(thread, status)))

    def _be_loud(self) -> None:
        """Nobody is traced: SIGCHLD tells of every stop again, and now of those that it has not told of."""
        if self._is_quiet:
            self._is_quiet = False
            self._quiet.end()
            os.kill(os.getpid(), signal.SIGCHLD)

    def _next_job(self) -> None:
        with self._work:
            job = self.jobs.popleft() if self.jobs else None
            if job:
                job.taken = True
        if job:
            job.run()

    def _withdraw(self, job: _Job[T]) -> bool:
        """Take back a job that has not been begun; whether that was so."""
        with self._work:
            if job.taken:
                return False
            self.jobs.remove(job)
            return True

    def _nudge(self) -> None:
        if self.ident is not None and self._tracees and self.is_alive():
            signal.pthread_kill(self.ident, NUDGE)

    def _later(self, stop: Stop) -> None:
        """See to a stop when the job that is being carried out is over, to an end at once."""
        if self._noted(stop).stands:
            self.jobs.append(_Job(lambda: self._handle(stop)))

    def _noted(self, stop: Stop) -> Stop:
        if not stop.stands:
            self._tracees.discard(stop.thread)
            if not self._tracees and ptrace.tracees_left():
                self._tracees.add(_UNKNOWN)
            self._guard(self._ended, stop.thread, stop.status)
        return stop

    def _handle(self, stop: Stop) -> None:
        if not stop.stands:
            return
        self._guard(self.on_stop, stop)

    def _guard(self, action: Callable[P, None], *arguments: P.args, **keywords: P.kwargs) -> None:
        try:
            action(*arguments, **keywords)
        except ProcessLookupError:
            pass  # killed while it stood
        except Exception as error:  # the others must go on being served
            self._failed(error)


def _let_run(stop: Stop) -> None:
    """What to do with a stop that nobody knows: deliver the signal, stay in a group stop."""
    if stop.event == ptrace.EVENT_STOP and stop.signal != signal.SIGTRAP:
        ptrace.listen(stop.thread)
    else:
        ptrace.resume(stop.thread, 0 if stop.event or stop.at_call else stop.signal)


def _nothing() -> None:
    """What there is to do when nobody has said otherwise."""
