"""Sets of IOVA ranges that are not mappings: what is reserved, and what is allowed.

Both are small (devices reserve a handful of regions; users allow a handful of ranges), so they are sorted lists,
with the merged spans kept beside them for the one question that every mapping asks: is this range free of them?
Follows the reserved_itree and allowed_itree of io_pagetable.c and lib/interval_tree.c's span iterator (7.3).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ULONG_MAX = (1 << 64) - 1

Span = tuple[int, int]
"""(start, last), both included."""


class Reserved(NamedTuple):
    """A range that cannot be mapped, and on whose account."""

    start: int
    last: int
    owner: object
    """What reserved it (a domain, a requester, or None for a test): compared by identity when it lets go."""
    why: str
    """For refusals, such as "msi region of 0000:01:00.0"."""

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.last:#x} ({self.why})"


class ReservedRanges:
    """Ranges that nothing may be mapped in. They may overlap."""

    __slots__ = ("_entries", "_lasts", "_starts")

    def __init__(self) -> None:
        self._entries: list[Reserved] = []
        self._starts: list[int] = []
        self._lasts: list[int] = []

    def __iter__(self) -> Iterator[Reserved]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Reserved) -> None:
        """Add `entry`, which may overlap others."""
        insort(self._entries, entry, key=lambda known: known.start)
        self._merge()

    def remove_owner(self, owner: object) -> bool:
        """Drop everything that `owner` reserved; whether there was anything."""
        kept = [entry for entry in self._entries if entry.owner is not owner]
        if len(kept) == len(self._entries):
            return False
        self._entries = kept
        self._merge()
        return True

    def first(self, start: int, last: int) -> Reserved | None:
        """The first range that meets `start` to `last`."""
        index = bisect_left(self._lasts, start)
        if index == len(self._starts) or self._starts[index] > last:
            return None
        return next(entry for entry in self._entries if entry.start <= last and entry.last >= start)

    @property
    def spans(self) -> list[Span]:
        """What is reserved, merged where it overlaps or touches, by address."""
        return list(zip(self._starts, self._lasts, strict=True))

    def around(self, start: int, last: int) -> Span:
        """The free span around `start` to `last`, which is not reserved itself."""
        index = bisect_right(self._starts, last)
        before = self._lasts[index - 1] + 1 if index else 0
        after = self._starts[index] - 1 if index < len(self._starts) else ULONG_MAX
        return before, after

    def holes(self) -> Iterator[Span]:
        """What is not reserved, from 0 to ULONG_MAX, by address."""
        start = 0
        for used_start, used_last in zip(self._starts, self._lasts, strict=True):
            if used_start > start:
                yield start, used_start - 1
            start = used_last + 1
        if start <= ULONG_MAX:
            yield start, ULONG_MAX

    def _merge(self) -> None:
        merged = merge_spans([(entry.start, entry.last) for entry in self._entries])
        self._starts = [start for start, _ in merged]
        self._lasts = [last for _, last in merged]


class AllowedRanges:
    """Ranges promised to the user: disjoint, and nothing may be reserved in them."""

    __slots__ = ("_lasts", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._lasts: list[int] = []

    def __iter__(self) -> Iterator[Span]:
        return iter(zip(self._starts, self._lasts, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def first(self, start: int, last: int) -> Span | None:
        """The first range that meets `start` to `last`."""
        index = bisect_left(self._lasts, start)
        if index == len(self._starts) or self._starts[index] > last:
            return None
        return self._starts[index], self._lasts[index]

    def add(self, start: int, last: int) -> None:
        """Add a range that meets none of the others."""
        index = bisect_left(self._starts, start)
        self._starts.insert(index, start)
        self._lasts.insert(index, last)

    def windows(self, first: int, last: int) -> list[Span]:
        """Where automatic placement may look, inside `first` to `last`; all of that when nothing is listed."""
        if not self._starts:
            return [(first, last)]
        clipped = [(max(start, first), min(end, last)) for start, end in self]
        return merge_spans([span for span in clipped if span[0] <= span[1]])


def merge_spans(ordered: Sequence[Span]) -> list[Span]:
    """Join spans, sorted by start, where they overlap or touch."""
    merged: list[Span] = []
    for start, last in ordered:
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((start, last))
    return merged
