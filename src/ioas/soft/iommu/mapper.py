"""The mapper: builds and edits the page table of one domain, in any format.

It keeps a dict of its tables by level and IOVA, so that the leaf table of a page is found without a walk; the
entries in memory remain the truth that the walker reads. One page goes a short scalar way, rows of
pages are written by NumPy, a table at a time.

Tables that have become empty are kept for a while, for the next mapping is likely to be near, and freed when
there are more than a few. A walker may stand in a table that is being freed; hence `walking`, the lock that every
walk holds: a table is unlinked, and given back, under it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from errno import EADDRINUSE, EINVAL
from types import ModuleType

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE
from ioas.soft.iommu.formats import Format
from ioas.soft.iommu.formats.base import ENTRIES, ENTRY_ADDRESS_SHIFT, LEVEL_BITS
from ioas.soft.iommu.plan import Strip, strips
from ioas.soft.iommu.walker import walk
from ioas.soft.memory import Memory, Segment

SPARES = 64
"""Empty tables that are kept."""
SCALAR = 4
"""Up to so many entries, a loop is quicker than NumPy."""
INDEX_MASK = ENTRIES - 1
_ZEROS = memoryview(bytes(PAGE_SIZE)).cast("Q")


class Table:
    """One table: its words, and how many of them are not zero."""

    __slots__ = ("key", "level", "live", "parent", "pfn", "spare", "words")

    def __init__(self, pfn: int, words: memoryview, level: int, key: int, parent: Table | None) -> None:
        self.pfn = pfn
        self.words = words
        self.level = level
        self.key = key
        """The IOVA, in spans of the table."""
        self.parent = parent
        self.live = 0
        self.spare = False
        """Stands in the queue of empty tables (and may have been filled again)."""


class PageTable:
    """A page table. Callers serialise edits; walks need `walking` only."""

    def __init__(self, form: Format, memory: Memory, walking: threading.Lock) -> None:
        self.form = form
        self._memory = memory
        self._walking = walking
        self._levels: list[dict[int, Table]] = [{} for _ in range(form.levels)]
        self._leaves = self._levels[0]
        self._spares: deque[Table] = deque()
        pfn, words = memory.table()
        self._top = Table(pfn, words, form.levels - 1, 0, None)
        self._levels[-1][0] = self._top
        self.root = pfn
        """The frame of the top table, as the unit's context or device table would name it."""
        self._shift = PAGE_SHIFT - form.granule_lg2
        self._page_granules = 1 << self._shift
        self._page_bits = form.leaf_bits(0, PAGE_SHIFT)
        # Whether entries of the lowest level may be of pages of several sizes.
        self._mixed = bool(form.page_sizes & (1 << form.item_lg2(1)) - (2 << form.granule_lg2))

    def map_page(self, iova: int, pfn: int, attributes: int) -> None:
        """Map the 4 KiB frame `pfn` at `iova`, both aligned. Raises KernelError(EADDRINUSE)."""
        at = iova >> self.form.granule_lg2
        table = self._leaves.get(at >> LEVEL_BITS) or self._table(0, at)
        words = table.words
        index = at & INDEX_MASK
        slots = range(index, index + self._page_granules)
        for i in slots:
            if words[i]:
                raise _in_use(iova)
        entry = pfn << (ENTRY_ADDRESS_SHIFT + self._shift) | self._page_bits | attributes
        for i in slots:
            words[i] = entry
        table.live += self._page_granules

    def unmap_page(self, iova: int) -> bool:
        """Unmap the 4 KiB page at aligned `iova`, if it is mapped as just that; otherwise change nothing."""
        at = iova >> self.form.granule_lg2
        table = self._leaves.get(at >> LEVEL_BITS)
        if table is None:
            return False
        words = table.words
        index = at & INDEX_MASK
        entry = words[index]
        if not entry or (self._mixed and self.form.leaf(entry, 0).size_lg2 != PAGE_SHIFT):
            return False
        for i in range(index, index + self._page_granules):
            words[i] = 0
        table.live -= self._page_granules
        if not table.live:
            self._retire(table)
            self._trim()
        return True

    def map(
        self, iova: int, segments: Sequence[Segment], offset: int, length: int, attributes: int, page_sizes: int
    ) -> None:
        """Map as `Domain.map`, with arguments already checked. Raises KernelError(EADDRINUSE) and then maps nothing."""
        granule = self.form.granule_lg2
        first = iova >> granule
        conflict = self._occupied(self._top, first, first + (length >> granule) - 1)
        if conflict is not None:
            raise _in_use(conflict << granule)
        try:
            for strip in strips(iova, segments, offset, length, granule, page_sizes >> granule):
                self._fill(strip, attributes)
        except KernelError:  # no frame for a table: nothing had been mapped there, and nothing stays
            self._clear(self._top, first, first + (length >> granule) - 1)
            raise

    def unmap(self, iova: int, length: int) -> int:
        """Clear what is mapped; return how many bytes were. Raises KernelError(EINVAL) when a page would be cut."""
        self._refuse_cut(iova, iova, length)
        self._refuse_cut(iova + length - 1, iova, length)
        granule = self.form.granule_lg2
        done = self._clear(self._top, iova >> granule, iova + length - 1 >> granule)
        self._trim()
        return done << granule

    def over(self, first: int, last: int) -> list[Table]:
        """The tables with something in them that meet granules `first` to `last`, of any level."""
        found = []
        for level, tables in enumerate(self._levels):
            shift = LEVEL_BITS * (level + 1)
            low, high = first >> shift, last >> shift
            near = (
                (tables[key] for key in range(low, high + 1) if key in tables)
                if high - low < len(tables)
                else (table for key, table in tables.items() if low <= key <= high)
            )
            found += [table for table in near if table.live]
        return found

    def leaf(self, at: int, *, any_entry: bool = False) -> tuple[Table, int] | None:
        """Where the entry that translates granule `at` stands: its table and index; None when nothing is mapped.

        With `any_entry` a table of the lowest level is the answer even if nothing is mapped just there.
        """
        for level, tables in enumerate(self._levels):
            table = tables.get(at >> LEVEL_BITS * (level + 1))
            if table is not None:
                index = at >> LEVEL_BITS * level & INDEX_MASK
                return (table, index) if table.words[index] or (any_entry and not level) else None
        return None

    def free(self) -> None:
        """Give back every frame. The table cannot be used again; idempotent."""
        with self._walking:
            for level in self._levels:
                for table in level.values():
                    self._memory.free_table(table.pfn)
                level.clear()
        self._spares.clear()

    def _table(self, level: int, at: int) -> Table:
        """The table of `level` over IOVA granule `at`, made if need be."""
        key = at >> LEVEL_BITS * (level + 1)
        table = self._levels[level].get(key)
        if table is None:
            parent = self._table(level + 1, at)
            index = key & INDEX_MASK
            if parent.words[index]:
                raise _in_use(at << self.form.granule_lg2)
            pfn, words = self._memory.table()
            table = self._levels[level][key] = Table(pfn, words, level, key, parent)
            parent.words[index] = self.form.table_entry(pfn, level)
            parent.live += 1
        return table

    def _fill(self, strip: Strip, attributes: int) -> None:
        """Write the entries of a strip where nothing is mapped."""
        at, x, _, _, size, pages = strip
        level, repeat_lg2 = divmod(size, LEVEL_BITS)
        bits = attributes | self.form.leaf_bits(level, size + self.form.granule_lg2)
        while pages:
            table = self._table(level, at)
            index = at >> LEVEL_BITS * level & INDEX_MASK
            count = min(pages, ENTRIES - index >> repeat_lg2)
            used = count << repeat_lg2
            if level and table.live:
                self._clear_way(table, index, used)
            if used <= SCALAR:
                _write_few(table.words, index, strip, x, count, bits)
            else:
                _rows().write(table.words, index, strip, x, count, bits)
            table.live += used
            pages -= count
            x += count << size
            at += count << size

    def _clear_way(self, table: Table, index: int, used: int) -> None:
        """Free the empty tables below entries that are to become pages."""
        for i in range(index, index + used):
            if table.words[i]:
                self._discard(self._levels[table.level - 1][table.key << LEVEL_BITS | i])

    def _occupied(self, table: Table, first: int, last: int) -> int | None:
        """The first granule from `first` to `last` (both within the table's span) that is mapped."""
        if not table.live:
            return None
        shift = LEVEL_BITS * table.level
        if table.level == 0:
            found = _first_used(table.words, first & INDEX_MASK, last & INDEX_MASK)
            return None if found is None else first - (first & INDEX_MASK) + found
        for key in range(first >> shift, (last >> shift) + 1):
            if not table.words[key & INDEX_MASK]:
                continue
            child = self._levels[table.level - 1].get(key)
            low, high = max(first, key << shift), min(last, (key + 1 << shift) - 1)
            conflict = low if child is None else self._occupied(child, low, high)
            if conflict is not None:
                return conflict
        return None

    def _refuse_cut(self, inside: int, iova: int, length: int) -> None:
        """Refuse when the page around byte `inside` reaches beyond the range."""
        found = walk(self.form, self._memory.tables, self.root, inside)
        if found is None:
            return
        start = inside >> found.size_lg2 << found.size_lg2
        if start < iova or start + (1 << found.size_lg2) > iova + length:
            raise refuse(
                EINVAL,
                f"the range would cut a page of {1 << found.size_lg2:#x} bytes, which cannot be unmapped in parts",
                "address",
                start,
            )

    def _clear(self, table: Table, first: int, last: int) -> int:
        """Clear granules `first` to `last` (both within the table's span); return how many were mapped."""
        shift = LEVEL_BITS * table.level
        if table.level == 0:
            return self._clear_leaves(table, first & INDEX_MASK, last & INDEX_MASK)
        done = 0
        below = self._levels[table.level - 1]
        start = first >> shift
        for key in _used(table.words, start, last >> shift):
            child = below.get(key)
            if child is None:
                table.words[key & INDEX_MASK] = 0
                table.live -= 1
                done += 1 << shift
            else:
                done += self._clear(child, max(first, key << shift), min(last, (key + 1 << shift) - 1))
        if not table.live:
            self._retire(table)
        return done

    def _clear_leaves(self, table: Table, low: int, high: int) -> int:
        if not table.live:
            return 0
        words = table.words
        if high - low < SCALAR:
            done = 0
            for i in range(low, high + 1):
                if words[i]:
                    words[i] = 0
                    done += 1
        else:
            whole = high - low == INDEX_MASK
            done = table.live if whole else _rows().count_used(words, low, high)
            words[low : high + 1] = _ZEROS[low : high + 1]
        table.live -= done
        if not table.live:
            self._retire(table)
        return done

    def _retire(self, table: Table) -> None:
        """Queue an empty table to be freed."""
        if not table.spare and table.parent is not None:
            table.spare = True
            self._spares.append(table)

    def _trim(self) -> None:
        """Free the empty tables that are too many, and those above that become empty by it."""
        spares = self._spares
        while len(spares) > SPARES:
            table = spares.popleft()
            table.spare = False
            if not table.live and table.parent is not None:
                parent = table.parent
                self._discard(table)
                if not parent.live:
                    self._retire(parent)

    def _discard(self, table: Table) -> None:
        """Unlink and free a table in which nothing is mapped, with the empty ones below it."""
        if table.live:
            for key in _used(table.words, table.key << LEVEL_BITS, table.key << LEVEL_BITS | INDEX_MASK):
                self._discard(self._levels[table.level - 1][key])
        parent = table.parent
        if parent is None:
            return
        with self._walking:
            parent.words[table.key & INDEX_MASK] = 0
            self._memory.free_table(table.pfn)
        parent.live -= 1
        table.parent = None
        del self._levels[table.level][table.key]


def _write_few(words: memoryview, index: int, strip: Strip, x: int, count: int, bits: int) -> None:
    repeat = 1 << strip.size % LEVEL_BITS
    for i in range(count):
        entry = strip.base + (x + (i << strip.size) ^ strip.flip) << ENTRY_ADDRESS_SHIFT | bits
        for slot in range(index + i * repeat, index + (i + 1) * repeat):
            words[slot] = entry


def _used(words: memoryview, first: int, last: int) -> list[int]:
    """The keys from `first` to `last`, all of one table, whose entries are not zero."""
    if last - first < 2 * SCALAR:
        return [key for key in range(first, last + 1) if words[key & INDEX_MASK]]
    low = first & INDEX_MASK
    return [first + index for index in _rows().used(words, low, low + last - first)]


def _first_used(words: memoryview, low: int, high: int) -> int | None:
    """The first index from `low` to `high` whose entry is not zero."""
    if high - low < 2 * SCALAR:
        return next((i for i in range(low, high + 1) if words[i]), None)
    found = _rows().used(words, low, high)
    return low + found[0] if found else None


def _rows() -> ModuleType:
    """The bulk half, loaded when it is first needed: importing NumPy takes longer than starting a small program."""
    from ioas.soft.iommu import rows

    return rows


def _in_use(iova: int) -> KernelError:
    return refuse(EADDRINUSE, "something is mapped at this IOVA", "address", iova)
