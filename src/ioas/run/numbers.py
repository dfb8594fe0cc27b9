"""Which descriptor numbers our files have in a program: the filter can tell calls on them by number alone.

The first range lies at the end of what a program may have without asking (RLIMIT_NOFILE is 1024 by default). The others
serve programs that raise the limit and open thousands of files; they lie apart, so that a program with thousands of
descriptors of its own, which have the lowest numbers, does not meet them.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from ioas.errors import EnvironmentRefusal

_WIDTH = 124
_LAST = 1023
_LEAST_LIMIT = 64


class FdRange(NamedTuple):
    """Descriptor numbers, `first` to `last`."""

    first: int
    last: int


_BEYOND = (FdRange(3072, 4095), FdRange(57344, 65535))


def number_ranges() -> tuple[FdRange, ...]:
    """The ranges for this run: 900 to 1023, or the last of what RLIMIT_NOFILE allows, and what lies far beyond.

    Raises EnvironmentRefusal.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < _LEAST_LIMIT:
        raise EnvironmentRefusal(
            f"RLIMIT_NOFILE is {limit}, which leaves no descriptors for device files; allow at least "
            f"{_LEAST_LIMIT}, better 1024 (`ulimit -n 1024`)"
        )
    last = _LAST if limit == resource.RLIM_INFINITY else min(limit - 1, _LAST)
    return (FdRange(last + 1 - min(_WIDTH, (last + 1) // 4), last), *_BEYOND)


def free_number(
    ranges: Sequence[FdRange], limit: Callable[[], int], taken: Callable[[int], bool], least: int, after: int
) -> int | None:
    """A number of `ranges` that is not `taken`, from `least` on; None when there is none.

    `limit`: the program's RLIMIT_NOFILE, asked only for ranges after the first. The search begins behind `after`, the
    number given last, because those before it are most often still in use.
    """
    for index, (first, last) in enumerate(ranges):
        if index and first < limit() <= last:
            last = limit() - 1
        elif index and limit() <= first:
            return None
        for number in _round(max(first, least), last, after):
            if not taken(number):
                return number
    return None


def _round(first: int, last: int, after: int) -> Iterator[int]:
    """The numbers from `first` to `last`, those behind `after` first."""
    if not first <= after < last:
        return iter(range(first, last + 1))
    return chain(range(after + 1, last + 1), range(first, after + 1))
