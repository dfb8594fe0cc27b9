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


Handler = Callable[["Server", "Call"], int | Outcome]
"""Serves one system call. Raises KernelError to refuse it."""
