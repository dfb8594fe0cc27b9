"""Time for device models: callbacks after a delay, on one thread per machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that waits for its moment."""

    @property
    def pending(self) -> bool:
        """Neither run nor cancelled yet."""
        ...

    def cancel(self) -> None:
        """Do not run it, if it has not started. Idempotent."""
        ...


class Timers:
    """The timer thread of a machine: started by the first `after`, joined by `close`."""

    def now(self) -> float:
        """Seconds on this machine's clock."""
        raise NotImplementedError

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run `action` once, `seconds` from now (negative counts as 0). After `close`: never."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop what waits and join the thread. Idempotent."""
        raise NotImplementedError


class ManualTimers(Timers):
    """A clock that tests move by hand: no thread; callbacks run inside `advance`, in order of time."""

    def advance(self, seconds: float) -> None:
        """Move time on by `seconds`, running what falls due on the way, at its own moment."""
        raise NotImplementedError
