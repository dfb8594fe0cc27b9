"""Sequences of steps, what is wrong with one, and the shortest that shows the same."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from random import Random
from typing import NamedTuple

from ioas.errors import KernelError
from tests.fuzz.machine import Machine
from tests.fuzz.steps import begin, step
from tests.fuzz.values import Values

LENGTH = 120
"""Steps of a sequence."""


class Wrong(NamedTuple):
    """What a sequence has shown: an exception that is no KernelError, or something that is left at the end."""

    kind: str
    text: str


class Played(NamedTuple):
    """How a sequence went: the calls that it made, and what went wrong."""

    calls: int
    wrong: Wrong | None


def play(seed: int, number: int, steps: Iterable[int] = range(LENGTH)) -> Played:
    """Play sequence `number` of `seed`, or only these of its steps.

    Every step has a source of chance of its own, so it stays what it is when others are left out.
    """
    base = (seed << 64) + (number << 16)
    return play_from(lambda index: Random(base + index), steps)


def play_from(source: Callable[[int], Random], steps: Iterable[int]) -> Played:
    """Play `steps`, each drawing from `source` of its index; -1 is what comes before the first."""
    machine = Machine(source(-1))
    wrong = None
    try:
        with suppress(KernelError):
            begin(machine, Values(machine, source(-1)))
        for index in steps:
            with suppress(KernelError):
                step(machine, source(index))
        wrong = leaks(machine)
    except Exception as error:
        wrong = _raised(error)
    return Played(machine.calls, wrong)


def leaks(machine: Machine) -> Wrong | None:
    """End a machine; what is left of it."""
    left = machine.end()
    return Wrong(f"left: {', '.join(left)}", str(left)) if left else None


def _raised(error: Exception) -> Wrong:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = "".join(traceback.format_exception(error))
    return Wrong(f"{type(error).__name__} at {place.filename.rpartition('/')[2]}:{place.lineno}", text)


def shorten(seed: int, number: int, wrong: Wrong) -> Sequence[int]:
    """The steps that it takes for the same to go wrong; leaving out any one of them ends it."""
    kept = list(range(LENGTH))
    size = LENGTH // 2
    while size:
        at = 0
        while at < len(kept):
            fewer = kept[:at] + kept[at + size :]
            again = play(seed, number, fewer).wrong
            if again is not None and again.kind == wrong.kind:
                kept = fewer
            else:
                at += size
        size //= 2
    return kept
