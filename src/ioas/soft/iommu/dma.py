"""The port through which a device model reaches memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu.requester import Requester

CHUNK = 1 << 16
"""A transfer is carried out in pieces of at most this many bytes, so that an unmap waits for one piece at most."""


class DmaPort:
    """DMA of one requester, through its unit. Safe to use from any thread."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    def read(self, iova: int, length: int, pasid: int | None = None) -> bytes | None:
        """Read `length` bytes at `iova`; None after a fault, which has then been recorded."""
        raise NotImplementedError

    def write(self, iova: int, data: Buffer, pasid: int | None = None) -> bool:
        """Write `data` at `iova`; False after a fault, which has then been recorded.

        What stands before the faulting page may have been written.
        """
        raise NotImplementedError
