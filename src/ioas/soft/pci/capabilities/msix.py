"""MSI-X (PCI Local Bus 3.0 section 6.8.2, capability 0x11): the table and the pending bits lie in a BAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.errors import UsageError
from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

CONTROL = 2
TABLE = 4
PENDING = 8
ENABLE = 0x8000
FUNCTION_MASK = 0x4000
ENTRY_SIZE = 16
VECTOR_CONTROL = 12
VECTOR_MASKED = 0x1


class Msix(Capability):
    """`vectors` (1 to 2048) entries at `table` of BAR `bar`, pending bits at `pending` of BAR `pending_bar`."""

    id: ClassVar[int] = 0x11

    def __init__(
        self, vectors: int, bar: int, table: int = 0, pending: int | None = None, pending_bar: int | None = None
    ) -> None:
        """Without `pending` the bits follow the table. Raises UsageError when something does not fit."""
        if not 1 <= vectors <= 2048:
            raise UsageError(f"MSI-X has 1 to 2048 vectors, not {vectors}")
        self.vectors = vectors
        self.bar = bar
        self.table = table
        self.pending_bar = bar if pending_bar is None else pending_bar
        self.pending = table + self.table_length if pending is None else pending
        if table % 8 or self.pending % 8:
            raise UsageError("MSI-X tables start at multiples of 8 bytes")
        if self.bar == self.pending_bar and self.pending < table + self.table_length and table < self.pending_end:
            raise UsageError("the MSI-X table and the pending bits overlap")

    @property
    def table_length(self) -> int:
        """Bytes of the table."""
        return ENTRY_SIZE * self.vectors

    @property
    def pending_length(self) -> int:
        """Bytes of the pending bits: whole 64-bit words."""
        return (self.vectors + 63) // 64 * 8

    @property
    def pending_end(self) -> int:
        """The first byte behind the pending bits."""
        return self.pending + self.pending_length

    @property
    def length(self) -> int:
        """Header, control, and the two pointers into BARs."""
        return 12

    def install(self, function: Function, offset: int) -> None:
        """Declare control and the pointers; raises UsageError when a BAR is missing or too small."""
        for index, start, end, what in (
            (self.bar, self.table, self.table + self.table_length, "table"),
            (self.pending_bar, self.pending, self.pending_end, "pending bits"),
        ):
            bar = function.bars[index] if 0 <= index < len(function.bars) else None
            if bar is None or bar.is_io or end > bar.size:
                raise UsageError(f"the MSI-X {what} lie outside of BAR {index}")
            if any(ram.touches(index, start, end) for ram in function.rams):
                raise UsageError(f"the MSI-X {what} lie in memory of BAR {index}")
        config = function.config
        config.declare(offset + CONTROL, 2, self.vectors - 1, writable=ENABLE | FUNCTION_MASK)
        config.declare(offset + TABLE, 4, self.table | self.bar)
        config.declare(offset + PENDING, 4, self.pending | self.pending_bar)
        config.watch(offset + CONTROL, 2, lambda: function.interrupts.reconsider())
