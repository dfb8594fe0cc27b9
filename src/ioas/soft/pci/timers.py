"""Time for device models: callbacks after a delay, on one thread per machine.

Due callbacks run in order of their moment, so that a device which re-arms itself without a pause takes turns with all
others. Python's locks are not fair: a thread that lets go of a lock and takes it again at once keeps it, and a device
busy copying would shut software out of its registers. So the thread pauses for a moment in every millisecond of
uninterrupted work. A callback that never returns does hold up the others; no model may wait in one.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

_log = logging.getLogger(__name__)
_STRETCH = 0.001
"""Seconds of uninterrupted work after which the thread lets others run."""
_PAUSE = 0.0001
_JOIN = 5.0
_FEW = 64
"""Up to so many entries, cancelled ones do not matter."""


class Timer(Protocol):
    """A callback that waits for its moment."""

    @property
    def pending(self) -> bool:
        """Neither run nor cancelled yet."""
        ...

    def cancel(self) -> None:
        """Do not run it, if it has not started. Idempotent."""
        ...


class _Entry:
    __slots__ = ("action", "due", "order")

    def __init__(self, due: float, order: int, action: Callable[[], None]) -> None:
        self.due = due
        self.order = order
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: _Entry) -> bool:
        return (self.due, self.order) < (other.due, other.order)

    @property
    def pending(self) -> bool:
        return self.action is not None

    def cancel(self) -> None:
        self.action = None

    def take(self) -> Callable[[], None] | None:
        action, self.action = self.action, None
        return action


class Timers:
    """The timer thread of a machine: started by the first `after`, joined by `close`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[_Entry] = []
        self._tidy_at = _FEW
        """How many entries there may be before those that were cancelled are taken out."""
        self._order = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._rested = 0.0
        """When the thread last waited or paused."""

    def now(self) -> float:
        """Seconds on this machine's clock (time.monotonic)."""
        return time.monotonic()

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run `action` once, `seconds` from now (negative counts as 0). After `close`: never."""
        with self._changed:
            self._order += 1
            entry = _Entry(self.now() + max(seconds, 0.0), self._order, action)
            if self._closed:
                entry.cancel()
                return entry
            heapq.heappush(self._heap, entry)
            if len(self._heap) > self._tidy_at:
                self._tidy()
            if self._heap[0] is entry:
                self._wake()
        return entry

    def _tidy(self) -> None:
        """Forget cancelled entries: a watchdog that is wound up again and again leaves many, due in a long time."""
        self._heap = [entry for entry in self._heap if entry.pending]
        heapq.heapify(self._heap)
        self._tidy_at = max(_FEW, 2 * len(self._heap))

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ioas-timers", daemon=True)
            self._thread.start()
        else:
            self._changed.notify()

    @property
    def running(self) -> bool:
        """Whether the thread is alive: for leak checks."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Drop what waits and join the thread. Idempotent. Not to be called with a device's lock held."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(_JOIN)
        if thread.is_alive():
            _log.warning("a device model has not returned from its timer callback within %g s", _JOIN)

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            _carry_out(entry)
            if self.now() - self._rested > _STRETCH:
                time.sleep(_PAUSE)
                self._rested = self.now()

    def _next(self) -> _Entry | None:
        """Wait for the next entry to fall due; None when closed."""
        with self._changed:
            while not self._closed:
                left = self._heap[0].due - self.now() if self._heap else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._heap)
                self._changed.wait(left)
                self._rested = self.now()
        return None


def _carry_out(entry: _Entry) -> None:
    action = entry.take()
    if action is None:
        return
    try:
        action()
    except Exception:
        # The thread serves all devices: one mistake must not stop the others.
        _log.exception("a timer callback has failed")


class ManualTimers(Timers):
    """A clock that tests move by hand: no thread; callbacks run inside `advance`, in order of time."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def now(self) -> float:
        """Seconds advanced so far."""
        return self._now

    def _wake(self) -> None:
        """Nothing waits."""

    def advance(self, seconds: float) -> None:
        """Move time on by `seconds`, running what falls due on the way, each at its own moment.

        What callbacks raise passes through. A callback that re-arms itself without delay would run forever and is
        stopped with RuntimeError after 100,000 rounds.
        """
        until = self._now + seconds
        for _ in range(100_000):
            if not self._heap or self._heap[0].due > until:
                self._now = until
                return
            entry = heapq.heappop(self._heap)
            self._now = max(self._now, entry.due)
            action = entry.take()
            if action is not None:
                action()
        raise RuntimeError("a timer callback re-arms itself without delay")
