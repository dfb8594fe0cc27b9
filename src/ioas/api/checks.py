"""Checks of what callers pass, before it becomes a field of a structure: ctypes would cut off what does not fit."""

from __future__ import annotations

from operator import index
from typing import SupportsIndex

from ioas.errors import UsageError

U32_LAST = (1 << 32) - 1
U64_LAST = (1 << 64) - 1


def whole(name: str, value: SupportsIndex, last: int = U64_LAST) -> int:
    """`value`, which is 0 to `last`, as an int: a plain one, or NumPy's. `name` is for the message.

    Raises UsageError beyond that, TypeError for what is no integer.
    """
    if type(value) is int and 0 <= value <= last:  # the short way: mapping calls this three times
        return value
    number = index(value)
    if not 0 <= number <= last:
        raise UsageError(f"{name} is {number:#x}, and has to be from 0 to {last:#x}")
    return number
