"""The IOTLB: translations that a unit remembers, and goes on using until told otherwise.

As in hardware, nothing keeps it in step with the page table: an entry stays, right or wrong, until it is
flushed. What is not mapped is not remembered (VT-d's caching mode 0), so mapping needs no flush. Entries are
tagged by domain, that is: each domain has an IOTLB of its own, used by all its requesters.
"""

from __future__ import annotations

import threading

from ioas.soft.iommu.mapper import PageTable
from ioas.soft.iommu.walker import walk
from ioas.soft.memory import Memory

CAPACITY = 1 << 16
FLUSH_ALL = 256
"""A flush of more pages than this drops everything, as VT-d software does beyond the unit's address mask."""


class Iotlb:
    """Translations of pages of 2**`page_lg2` bytes.

    A miss walks under the lock that a flush takes: so either the walk has put its entry in before the
    flush, which takes it out, or it sees the page table as it is after the unmapping.
    """

    __slots__ = ("_memory", "entries", "lock", "page_lg2", "table", "written")

    def __init__(self, memory: Memory, page_lg2: int) -> None:
        self._memory = memory
        self.page_lg2 = page_lg2
        self.lock = threading.Lock()
        self.table: PageTable | None = None
        self.entries: dict[int, int] = {}
        """By IOVA >> page_lg2: the physical address of the page, with the permissions in its low bits."""
        self.written: set[int] = set()
        """The pages whose entries are known to be dirty: no need to write to the page table again."""

    def miss(self, iova: int) -> int:
        """Walk, and remember; the entry, or 0 when nothing is mapped."""
        table = self.table
        if table is None:
            return 0
        with self.lock:
            found = walk(table.form, self._memory.tables, table.root, iova)
            if found is None:
                return 0
            if len(self.entries) >= CAPACITY:
                self.entries.clear()
            entry = found.address >> self.page_lg2 << self.page_lg2 | found.permissions
            self.entries[iova >> self.page_lg2] = entry
        return entry

    def mark(self, iova: int, length: int) -> None:
        """Set D in the entries under a transfer that writes, as far as they are not known to have it."""
        table = self.table
        if table is None or not length:
            return
        for page in range(iova >> self.page_lg2, (iova + length - 1 >> self.page_lg2) + 1):
            if page not in self.written:
                with self.lock:
                    if len(self.written) >= CAPACITY:
                        self.written.clear()
                    leaf = table.leaf(page << self.page_lg2 - table.form.granule_lg2)
                    if leaf is not None:
                        leaf[0].words[leaf[1]] |= table.form.dirty_bit
                        self.written.add(page)

    def flush(self, start: int, last: int) -> None:
        """Forget what overlaps `start` to `last`, and perhaps more."""
        first, final = start >> self.page_lg2, last >> self.page_lg2
        with self.lock:
            entries, written = self.entries, self.written
            if not entries and not written:
                return
            if final - first >= FLUSH_ALL:
                entries.clear()
                written.clear()
                return
            for key in range(first, final + 1):
                entries.pop(key, None)
                written.discard(key)
