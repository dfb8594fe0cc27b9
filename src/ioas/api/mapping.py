"""What an `Ioas` maps: `Mapping`, and `DmaBuffer` for memory that came with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ioas.errors import NotFound, UsageError
from ioas.host import PAGE_SIZE

if TYPE_CHECKING:
    from ioas.api.ioas import Ioas


class Mapping:
    """Memory that devices reach at `iova` to `last`. Use it as a context manager, or close it, to unmap it."""

    def __init__(self, space: Ioas, iova: int, length: int, flags: int, address: int | None) -> None:
        """`address` is that of the registered buffer, None for a file."""
        self.space = space
        self.iova = iova
        self.length = length
        self.flags = flags
        self._address = address
        self._mapped = True

    def __repr__(self) -> str:
        state = "" if self._mapped else ", unmapped"
        return f"<{type(self).__name__} {self.iova:#x}-{self.last:#x} in IOAS {self.space.id}{state}>"

    @property
    def last(self) -> int:
        """The last IOVA."""
        return self.iova + self.length - 1

    @property
    def pages(self) -> Sequence[int]:
        """The address that a device has to use for each page (4096 bytes) of the memory, in order."""
        return range(self.iova, self.iova + self.length, PAGE_SIZE)

    @property
    def mapped(self) -> bool:
        """Whether it is still mapped."""
        return self._mapped

    def close(self) -> None:
        """Unmap it: when this returns no DMA reaches the memory any more. Idempotent. Raises KernelError."""
        if self._mapped:
            try:
                self.space.unmap(self.iova, self.length)
            except NotFound:  # unmapped already, by a call that was none of this object's
                self.space.discard(self)

    def forget(self) -> None:
        """The host has unmapped it: let go of the buffer."""
        self._mapped = False
        address, self._address = self._address, None
        if address is not None:
            self.space.iommufd.session.caller.unregister(address)

    def share_buffer(self) -> int | None:
        """Keep the buffer alive once more, for a copy; its address."""
        if self._address is None:
            return None
        self.space.iommufd.session.caller.register_again(self._address)
        return self._address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class DmaBuffer:
    """Memory of its own, mapped for DMA (`Ioas.alloc`).

    `view` is the memory, for example ``numpy.frombuffer(buffer.view, "<u4")``. Closing it unmaps the memory.
    """

    def __init__(self, mapping: Mapping, view: memoryview) -> None:
        self.mapping = mapping
        self._view: memoryview | None = view

    def __repr__(self) -> str:
        return f"<DmaBuffer {self.mapping!r}>"

    def __len__(self) -> int:
        return len(self.view)

    @property
    def iova(self) -> int:
        """Where the device finds it. Raises UsageError when closed."""
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
