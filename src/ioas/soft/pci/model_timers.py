"""Timers of device models, and a function that stands still: its time does not pass.

A device that is about to be migrated must not start anything of its own: no DMA, no interrupt, no change of state
(include/uapi/linux/vfio.h, enum vfio_device_mig_state). All that a model does of its own accord it does in a timer, so
a function whose timers are held is quiet, exactly where it was; let go, they run when what was left of their time has
passed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function
    from ioas.soft.pci.timers import Timer

Pace = Literal["running", "quiet", "stopped"]


class ModelTimer:
    """A timer of a model: runs with the function's lock held, in which cancelling is exact."""

    def __init__(self, function: Function, action: Callable[[], None], during: str) -> None:
        self.function = function
        self.action = action
        self.during = during
        """What a failure of the action is said to have happened in."""
        self.again: Callable[[], None] | None = None
        """What to do in place of the action where the function goes on elsewhere, at once; None: nothing special."""
        self._waiting: Timer | None = None
        self._due = 0.0
        self._left: float | None = None
        """Seconds that were left when the timer was held; None while it runs."""
        self._turn = 0

    def start(self, seconds: float) -> None:
        """Let time run; of a function that stands still from when it goes on."""
        if self.function.standstill.pace != "running":
            self._left = seconds
            return
        timers = self.function.place.timers
        self._left = None
        self._due = timers.now() + seconds
        self._waiting = timers.after(seconds, partial(self._run, self._turn))

    def hold(self) -> None:
        """Stop the time."""
        if self._left is None:
            self._left = self.left
            self._turn += 1  # who is past cancelling, and waits for the lock, comes too late
            if self._waiting is not None:
                self._waiting.cancel()

    def go_on(self) -> None:
        """Undo `hold`."""
        if self._left is not None:
            self.start(self._left)

    @property
    def left(self) -> float:
        """Seconds until it runs."""
        return self._left if self._left is not None else max(0.0, self._due - self.function.place.timers.now())

    @property
    def pending(self) -> bool:
        """Neither run nor cancelled yet."""
        return self in self.function.running_timers

    def cancel(self) -> None:
        """Do not run it. Idempotent."""
        with self.function.lock:
            if self.pending:
                self.function.running_timers.remove(self)
        if self._waiting is not None:
            self._waiting.cancel()

    def _run(self, turn: int) -> None:
        with self.function.lock:
            if self.pending and turn == self._turn:
                self.function.running_timers.remove(self)
                self.function.guard.run(self.during, self.action)


class Standstill:
    """How far a function has been brought to a stand.

    "quiet": its time stands still and it does no DMA, but registers answer. "stopped": nor do they, as if nothing were
    there; configuration space, MSI-X and memory still do. All under the function's lock.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self.pace: Pace = "running"

    def change(self, pace: Pace) -> None:
        """Bring the function to this pace."""
        with self._function.lock:
            was, self.pace = self.pace, pace
            if was == "running" and pace != "running":
                for timer in self._function.running_timers:
                    timer.hold()
            elif was != "running" and pace == "running":
                for timer in tuple(self._function.running_timers):
                    timer.go_on()
            if was == "stopped" != pace:
                self._function.interrupts.deliver()
