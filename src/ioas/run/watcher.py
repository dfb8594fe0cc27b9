"""The watcher: a thread that sees to everything that happens while no call comes.

The serving thread sleeps in the kernel until the next call. Meanwhile signals arrive, children end, the last descriptor
of a file is closed by a program that never calls again, and at last nobody uses the filter any more. All of these are
descriptors that one epoll waits on.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import ParamSpec

from ioas.run.jobs import HANDLED, NUDGE, Job
from ioas.run.kernel import SignalFile
from ioas.run.listener import Listener

_NUDGE_EVERY = 0.02
_LATER = 0.25

P = ParamSpec("P")
Action = Callable[[int], object]
"""Called with the descriptor that is readable; must see to it that it is so no longer, or `unwatch` it."""


class Watcher(threading.Thread):
    """Runs until nobody uses the filter any more, the serving thread has noticed, and the program's end is known."""

    def __init__(self, job: Job, listener: Listener, failed: Callable[[Exception], None]) -> None:
        """Made by the serving thread. `failed` is told what an action, or a reminder, raises."""
        super().__init__(name="ioas-watcher", daemon=True)
        self.deserted = False
        """Nobody uses the filter any more."""
        self._noticed = False
        self._serving = threading.get_ident()
        self._job = job
        self._failed = failed
        self._reminders: list[Callable[[], None]] = []
        self._due = 0.0
        self._signals = SignalFile(HANDLED)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._actions: dict[int, Action] = {listener.fileno(): self._desert}
        self._epoll.register(listener.fileno(), 0)  # EPOLLHUP comes unasked; the calls are none of our business
        self.watch(self._signals.fileno(), self._handle_signals)
        self.watch(self._bell, os.eventfd_read)

    def watch(self, fd: int, action: Action) -> None:
        """Call `action` whenever `fd` is readable."""
        self._actions[fd] = action
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Watch `fd` no more. Ignored when it is not watched."""
        if self._actions.pop(fd, None):
            self._epoll.unregister(fd)

    def later(self, action: Callable[[], None]) -> None:
        """Call `action` once, in about a quarter of a second."""
        self._reminders.append(action)
        self._due = time.monotonic() + _LATER
        if len(self._reminders) == 1:
            os.eventfd_write(self._bell, 1)

    def wake(self) -> None:
        """Something that `run` waits for may have come about."""
        os.eventfd_write(self._bell, 1)

    def notice(self) -> None:
        """The serving thread has seen that nobody is left, and will not receive again."""
        self._noticed = True
        self.wake()

    def run(self) -> None:
        """Wait and react; see the class."""
        while not (self._noticed and self.deserted and self._job.status is not None):
            nudging = self.deserted and not self._noticed
            for fd, _ in self._epoll.poll(_NUDGE_EVERY if nudging else _LATER if self._reminders else None):
                self._act(fd)
            if self._reminders and time.monotonic() >= self._due:
                self._remind()
            if nudging and not self._noticed:  # kernels before 6.11 do not tell a waiting receiver
                signal.pthread_kill(self._serving, NUDGE)

    def close(self) -> None:
        """Close the descriptors; nothing may be watched afterwards. Call it when the thread has ended."""
        self._epoll.close()
        self._signals.close()
        os.close(self._bell)

    def _act(self, fd: int) -> None:
        if action := self._actions.get(fd):
            self._guard(action, fd)

    def _remind(self) -> None:
        reminders, self._reminders = self._reminders, []
        for action in reminders:
            self._guard(action)

    def _guard(self, action: Callable[P, object], *arguments: P.args, **keywords: P.kwargs) -> None:
        try:
            action(*arguments, **keywords)
        except Exception as error:  # this thread must not end: signals would be lost
            self._failed(error)

    def _handle_signals(self, fd: int) -> None:
        for received in self._signals.read():
            self._job.handle(received)

    def _desert(self, fd: int) -> None:
        self.deserted = True
        self.unwatch(fd)
        self._job.reap()
