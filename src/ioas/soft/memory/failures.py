"""Failures on request: what /proc/self/task/TID/fail-nth is for the kernel's allocations (fault-injection.rst, 7.3).

Whoever arms a process makes the Nth allocation on its behalf fail, once. An allocation of ours is whatever the kernel
allocates memory for at the same place: an object, pins, a page table, an area, a reserved range.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOMEM

from ioas.errors import refuse


class Failures:
    """Who is armed, and for which allocation to come. Used under the machine's lock."""

    __slots__ = ("_armed", "_process", "points")

    def __init__(self) -> None:
        self._armed: dict[int, int] = {}
        self._process = 0
        self.points = 0
        """How many allocations armed processes have made."""

    def arm(self, process: int, nth: int) -> None:
        """Let allocation `nth` from now on (1: the next one) on behalf of `process` fail; 0: none."""
        if nth:
            self._armed[process] = nth
        else:
            self._armed.pop(process, None)

    def left(self, process: int) -> int:
        """How many allocations `process` has to make before one fails; 0: it has failed, or none was to."""
        return self._armed.get(process, 0)

    def act_for(self, process: int) -> None:
        """What follows is done on behalf of `process`."""
        self._process = process

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Nothing fails in the block, nor is it counted: what is allocated there, the kernel would not allocate."""
        armed, self._armed = self._armed, {}
        try:
            yield
        finally:
            self._armed = armed

    def point(self, what: str) -> None:
        """An allocation. Raises KernelError(ENOMEM) if it is the one to fail."""
        if self._armed:
            self._count(what)

    def _count(self, what: str) -> None:
        left = self._armed.get(self._process, 0)
        if not left:
            return
        self.points += 1
        if left > 1:
            self._armed[self._process] = left - 1
            return
        del self._armed[self._process]
        raise refuse(ENOMEM, f"an allocation was to fail on request: {what}", "limit", "fail-nth")
