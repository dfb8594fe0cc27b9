"""What a `Space` maps: `Mapping`, and `DmaBuffer` for memory that came with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ioas.errors import NotFound, UsageError
from ioas.host import PAGE_SIZE

if TYPE_CHECKING:
    from ioas.api.memory import Keeper, Memory
    from ioas.api.space import Space


class Mapping:
    """Memory that devices reach at `iova` to `last`. Use it as a context manager, or close it, to unmap it.

    Without an IOMMU (`Space.physical`) addresses are physical, and memory that is not of one piece has `pages` alone.
    """

    __slots__ = ("_keeper", "_mapped", "at", "flags", "length", "physical_pages", "space")

    def __init__(self, space: Space, at: int, length: int, flags: int, keeper: Keeper | None) -> None:
        """`keeper` keeps the buffer in place; None for a file."""
        self.space = space
        self.at = at
        self.length = length
        self.flags = flags
        self._keeper = keeper
        self._mapped = True
        self.physical_pages: Sequence[int] | None = None

    at: int
    """Where it stands in the space, for `Space.unmap`: the IOVA, with an IOMMU."""
    length: int
    """Bytes."""
    flags: int
    """IOMMU_IOAS_MAP_*, as it was asked for."""
    physical_pages: Sequence[int] | None
    """The physical address of each page where there is no IOMMU."""

    def __repr__(self) -> str:
        state = "" if self._mapped else ", unmapped"
        return f"<{type(self).__name__} {self.at:#x}-{self.at + self.length - 1:#x} in {self.space!r}{state}>"

    @property
    def iova(self) -> int:
        """Where devices find it. Raises UsageError when there is no IOMMU and the memory is not of one piece."""
        pages = self.physical_pages
        if pages is None:
            return self.at
        if not isinstance(pages, range):
            raise UsageError(f"{len(pages)} pages are not physically contiguous: use `pages`, or memory in huge pages")
        return pages.start

    @property
    def last(self) -> int:
        """The last IOVA. Raises as `iova`."""
        return self.iova + self.length - 1

    @property
    def pages(self) -> Sequence[int]:
        """The address that a device has to use for each page (4096 bytes) of the memory, in order."""
        if self.physical_pages is not None:
            return self.physical_pages
        return range(self.at, self.at + self.length, PAGE_SIZE)

    @property
    def mapped(self) -> bool:
        """Whether it is still mapped."""
        return self._mapped

    def close(self) -> None:
        """Unmap it: when this returns no DMA reaches the memory any more. Idempotent. Raises KernelError."""
        if self._mapped:
            try:
                self.space.unmap(self.at, self.length)
            except NotFound:  # unmapped already, by a call that was none of this object's
                self.space.discard(self)

    def forget(self) -> None:
        """The host has unmapped it: let go of the buffer."""
        self._mapped = False
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.release()

    def keep_again(self) -> Keeper | None:
        """One more keeper of the buffer, for a copy."""
        return self._keeper.again() if self._keeper is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class DmaBuffer:
    """Memory of its own, mapped for DMA (`Space.alloc`).

    `view` is the memory, for example ``numpy.frombuffer(buffer.view, "<u4")``. Closing it unmaps the memory.
    """

    def __init__(self, mapping: Mapping, memory: Memory) -> None:
        self.mapping = mapping
        self.memory = memory
        self._view: memoryview | None = memory.view

    def __repr__(self) -> str:
        return f"<DmaBuffer {self.mapping!r}>"

    def __len__(self) -> int:
        return len(self.view)

    @property
    def iova(self) -> int:
        """Where the device finds it. Raises UsageError when closed, and as `Mapping.iova`."""
        if self._view is None:
            raise UsageError("the DMA buffer is closed")
        return self.mapping.iova

    @property
    def pages(self) -> Sequence[int]:
        """The address that the device has to use for each page (4096 bytes). Raises UsageError when closed."""
        if self._view is None:
            raise UsageError("the DMA buffer is closed")
        return self.mapping.pages

    @property
    def view(self) -> memoryview:
        """The bytes. Raises UsageError when closed."""
        if self._view is None:
            raise UsageError("the DMA buffer is closed")
        return self._view

    def close(self) -> None:
        """Unmap it and let go of the memory, which lives on while views and arrays of it do. Idempotent."""
        self.mapping.close()
        view, self._view = self._view, None
        if view is not None:
            with suppress(BufferError):  # an array still looks at it
                view.release()
            self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
