"""Which pages of one backing have frames: the interval map behind "one frame per page identity".

Single pages, by far the most frequent, stand in dicts of 512; longer runs in a sorted map by their first
page. Runs never overlap. Nothing here is locked: `Memory` does that.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from ioas.soft.memory.frames import RUN_LIMIT, FrameNumbers, Run, block_order

if TYPE_CHECKING:
    from ioas.host import Backing

CLUSTER_SHIFT = 9


class Grip:
    """One pin's hold on pages of one run: `count` pages from the run's page `first`, through `backing`."""

    __slots__ = ("backing", "count", "first", "idle", "run", "users")

    def __init__(self, run: Run, first: int, count: int, backing: Backing) -> None:
        self.run = run
        self.first = first
        self.count = count
        self.backing = backing
        self.users = 0
        """Accesses under way through `backing`."""
        self.idle: threading.Event | None = None
        """Set when the last access ends; made by whoever waits for that."""


class Pages:
    """The runs of one backing."""

    __slots__ = ("_clusters", "_numbers", "_runs", "_singles", "key")

    def __init__(self, key: Hashable, numbers: FrameNumbers) -> None:
        self.key = key
        self._numbers = numbers
        self._clusters: dict[int, dict[int, Run]] = {}
        self._singles = 0
        # Made when the first longer run comes: most backings never have one, and many come and go.
        self._runs: SortedDict[int, Run] | None = None

    def __bool__(self) -> bool:
        return bool(self._clusters or self._runs)

    def find(self, page: int) -> Run | None:
        """The run that `page` is in."""
        cluster = self._clusters.get(page >> CLUSTER_SHIFT)
        if cluster is not None:
            run = cluster.get(page)
            if run is not None:
                return run
        return self._long(page) if self._runs else None

    def add_single(self, page: int) -> Run:
        """A new run for `page` alone, which must be in none."""
        run = Run(self, page, 1, self._numbers.take(1), 1)
        cluster = self._clusters.get(page >> CLUSTER_SHIFT)
        if cluster is None:
            cluster = self._clusters[page >> CLUSTER_SHIFT] = {}
        cluster[page] = run
        self._singles += 1
        return run

    def remove(self, run: Run) -> None:
        """Take `run` out and return its frames."""
        if run.count == 1:
            number = run.page >> CLUSTER_SHIFT
            cluster = self._clusters[number]
            del cluster[run.page]
            self._singles -= 1
            if not cluster:
                del self._clusters[number]
        elif self._runs is not None:
            del self._runs[run.page]
        self._numbers.give(run.base)

    def cover(self, start: int, stop: int, order: int) -> Iterator[Run]:
        """The runs over pages `start` to `stop` (exclusive), in order; made where there were none.

        New frames stand in contiguous blocks of 2**order, as far as other runs leave whole blocks free.
        """
        for run in self._within(start, stop):
            if start < run.page:
                yield from self._fill(start, run.page, order)
            yield run
            start = run.page + run.count
        if start < stop:
            yield from self._fill(start, stop, order)

    def _long(self, page: int) -> Run | None:
        at = self._runs.bisect_right(page) - 1 if self._runs else -1
        if at < 0 or self._runs is None:
            return None
        run: Run = self._runs.peekitem(at)[1]
        return run if page < run.page + run.count else None

    def _within(self, start: int, stop: int) -> list[Run]:
        """The runs that touch `start` to `stop` (exclusive), sorted."""
        found = list(self._singles_within(start, stop)) if self._singles else []
        if self._runs:
            before = self._long(start)
            first = start if before is None else before.page
            found += [self._runs[page] for page in self._runs.irange(first, stop - 1)]
        found.sort(key=_first_page)
        return found

    def _singles_within(self, start: int, stop: int) -> Iterator[Run]:
        first, last = start >> CLUSTER_SHIFT, (stop - 1) >> CLUSTER_SHIFT
        clusters = self._clusters
        numbers = (
            range(first, last + 1) if last - first < len(clusters) else [n for n in clusters if first <= n <= last]
        )
        for number in numbers:
            cluster = clusters.get(number)
            if cluster:
                yield from (run for page, run in cluster.items() if start <= page < stop)

    def _fill(self, start: int, stop: int, order: int) -> Iterator[Run]:
        """New runs for pages that are in none."""
        if not order:
            yield from self._add(start, stop, 1)
            return
        size = 1 << order
        first, end = start & -size, -(-stop // size) * size
        if first < start and self._within(first, start):
            first += size
        if end > stop and self._within(stop, end):
            end -= size
        if first >= end:
            yield from self._add(start, stop, 1)
            return
        if start < first:
            yield from self._add(start, first, 1)
        yield from self._add(first, end, size)
        if end < stop:
            yield from self._add(end, stop, 1)

    def _add(self, start: int, stop: int, flip: int) -> Iterator[Run]:
        while start < stop:
            count = min(stop - start, RUN_LIMIT)
            if count == 1:
                yield self.add_single(start)
            else:
                run = Run(self, start, count, self._numbers.take(block_order(count, flip)), flip)
                if self._runs is None:
                    self._runs = SortedDict()
                self._runs[start] = run
                yield run
            start += count


def _first_page(run: Run) -> int:
    return run.page
