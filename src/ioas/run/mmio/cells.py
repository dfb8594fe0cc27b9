"""Registers in pages that a program has mapped, watched for what software stores: compiled, or in Python.

Each *cell* has a value that both sides know to stand there. Software's stores are found by comparing; so a store of the
very value that stands there is not found.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

MOST = 1024
"""Cells at most."""
_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_ROUNDS = 512
_CELL_WORDS = 3
_HEAD_WORDS = 3
_VALUES = _HEAD_WORDS + MOST + 1


class Place(NamedTuple):
    """`width` bytes (1, 2, 4 or 8) at `offset` of a page's view, aligned; a doorbell is watched most closely."""

    view: memoryview
    offset: int
    width: int
    doorbell: bool


class Cells(Protocol):
    """The cells of one poller. `interrupt` is for any thread, the rest for the poller's."""

    def set(self, places: Sequence[Place]) -> None:
        """Watch these, from what stands there now on. Raises ValueError for more than `MOST`."""
        ...

    def wait(self) -> Sequence[tuple[int, int]]:
        """Wait for a doorbell, for some microseconds; which cells software has changed, to what; doorbells last."""
        ...

    def value(self, index: int) -> int:
        """What both sides know to stand there."""
        ...

    def publish(self, index: int, value: int) -> bool:
        """Put `value` there, unless software has stored something else meanwhile; whether it stands there."""
        ...

    def interrupt(self) -> None:
        """Have the present `wait` return soon."""
        ...


class PlainCells:
    """In Python: without the compiled part. A store can be lost that races with `publish`."""

    def __init__(self) -> None:
        self._views: list[memoryview] = []
        self._last: list[int] = []
        self._doorbells: list[int] = []
        self._order: list[int] = []

    def set(self, places: Sequence[Place]) -> None:
        """See `Cells`."""
        _check(places)
        self._views = [each.view[each.offset : each.offset + each.width].cast(_FORMATS[each.width]) for each in places]
        self._last = [view[0] for view in self._views]
        self._doorbells = [index for index, each in enumerate(places) if each.doorbell]
        self._order = [index for index, each in enumerate(places) if not each.doorbell] + self._doorbells

    def wait(self) -> Sequence[tuple[int, int]]:
        """See `Cells`."""
        views, last = self._views, self._last
        for _ in range(8):
            if any(views[index][0] != last[index] for index in self._doorbells):
                break
            time.sleep(0)  # others may have the interpreter
        changed = [index for index in self._order if views[index][0] != last[index]]
        for index in changed:
            last[index] = views[index][0]
        return [(index, last[index]) for index in changed]

    def value(self, index: int) -> int:
        """See `Cells`."""
        return self._last[index]

    def publish(self, index: int, value: int) -> bool:
        """See `Cells`."""
        if self._views[index][0] != self._last[index]:
            return False
        self._views[index][0] = self._last[index] = value
        return True

    def interrupt(self) -> None:
        """See `Cells`; it returns soon anyway."""


class CompiledCells:
    """By `poll.c`: it spins without the interpreter's lock, and loses no store."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        compiled.poll_size.restype = ctypes.c_uint64
        state = ctypes.create_string_buffer(compiled.poll_size())
        self._words = memoryview(state).cast("B").cast("Q")
        self._state = ctypes.byref(state)
        self._wait, self._publish = compiled.poll_wait, compiled.poll_publish
        self._rounds = ctypes.c_uint64(_ROUNDS)
        self._owners: list[memoryview] = []

    def set(self, places: Sequence[Place]) -> None:
        """See `Cells`."""
        _check(places)
        words = self._words
        self._owners = [each.view for each in places]
        for index, each in enumerate(places):
            at = _HEAD_WORDS + MOST + _CELL_WORDS * index
            part = each.view[each.offset : each.offset + each.width]
            words[at] = ctypes.addressof(ctypes.c_char.from_buffer(part))
            words[at + 1] = int.from_bytes(part, "little")
            words[at + 2] = each.width | each.doorbell << 32
        words[0], words[1] = len(places), 0

    def wait(self) -> Sequence[tuple[int, int]]:
        """See `Cells`."""
        self._wait(self._state, self._rounds)
        words = self._words
        found = words[2]
        if not found:
            return ()
        if found == 1:
            index = words[_HEAD_WORDS]
            return ((index, words[_VALUES + _CELL_WORDS * index]),)
        indexes = words[_HEAD_WORDS : _HEAD_WORDS + found].tolist()
        return [(index, words[_VALUES + _CELL_WORDS * index]) for index in indexes]

    def value(self, index: int) -> int:
        """See `Cells`."""
        return self._words[_VALUES + _CELL_WORDS * index]

    def publish(self, index: int, value: int) -> bool:
        """See `Cells`."""
        return bool(self._publish(self._state, ctypes.c_uint64(index), ctypes.c_uint64(value)))

    def interrupt(self) -> None:
        """See `Cells`."""
        self._words[1] = 1


def _check(places: Sequence[Place]) -> None:
    if len(places) > MOST:
        raise ValueError(f"{len(places)} registers cannot be polled, {MOST} can")
