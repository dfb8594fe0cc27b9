"""Base address registers: the windows through which software reaches a device's registers."""

from __future__ import annotations

from typing import Literal

BarKind = Literal["mem32", "mem64", "io"]


class Bar:
    """One window: declared at the top of a model (`index`, `size`, `kind`), placed by the machine.

    `size` is a power of two: at least 16 bytes for memory, 4 to 256 for I/O ports. A mem64 BAR takes two
    registers (`index` and `index + 1`).
    """

    def __init__(self, index: int, size: int, kind: BarKind = "mem32", *, prefetchable: bool = False) -> None:
        """Raises UsageError for an index, size or kind that PCI does not know."""
        self.index = index
        self.size = size
        self.kind: BarKind = kind
        self.prefetchable = prefetchable


class Rom(Bar):
    """The expansion ROM: `contents` padded to the next power of two (at least 2 KiB)."""

    def __init__(self, contents: bytes) -> None:
        self.contents = contents
        super().__init__(6, 2048)
