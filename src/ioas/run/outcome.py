"""What a handler of a system call returns besides a number."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.run.listener import Call
    from ioas.run.server import Server


class Outcome(enum.Enum):
    """How a call ends that has no result of ours."""

    PROCEED = "the kernel carries it out"
    ANSWERED = "it has been answered by putting a descriptor into the program"
    LATER = "it waits for something to happen"


class Pending(Exception):  # noqa: N818 - a state, not an error
    """The call cannot be answered yet: it is with `result`, as soon as `ended` says so."""

    def __init__(self, ended: Callable[[], bool], result: int) -> None:
        super().__init__("the call waits")
        self.ended = ended
        self.result = result


Handler = Callable[["Server", "Call"], int | Outcome]
"""Serves one system call. Raises KernelError to refuse it, Pending to answer it later."""
