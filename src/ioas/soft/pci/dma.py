"""A function's way to memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ioas.soft.iommu import FaultRecord

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.pci.function import Function


class Dma:
    """DMA of one function: through its requester's translation, as long as bus mastering is on.

    A transfer that is stopped is a fault record of the machine's `System`, never an exception.
    """

    def __init__(self, function: Function) -> None:
        self._function = function

    def read(self, iova: int, length: int, pasid: int | None = None) -> bytes | None:
        """`length` bytes from `iova`, or None when the transfer was stopped (and recorded as a fault)."""
        if not length:
            return b""
        if not self._allowed(iova, length, False, pasid):
            return None
        return self._function.requester.dma.read(iova, length, pasid)

    def write(self, iova: int, data: Buffer, pasid: int | None = None) -> bool:
        """Write all of `data` at `iova`; False when the transfer was stopped (and recorded as a fault)."""
        length = memoryview(data).nbytes
        if not length:
            return True
        if not self._allowed(iova, length, True, pasid):
            return False
        return self._function.requester.dma.write(iova, data, pasid)

    def when_present(
        self, iova: int, length: int, action: Callable[[], None], *, write: bool, pasid: int | None = None
    ) -> None:
        """Run `action` once the pages under a transfer are there, or once it is clear that nobody will bring them.

        A device that asks for pages (`Function.page_requests`) sends page requests for what is missing, one after the
        other, while its domain has somebody who answers. For all others this is just `action()`. It never waits: an
        action that comes later runs as one of `Function.after` does.
        """
        requester = self._function.requester
        if not requester.page_requests or requester.pager is None or not self._function.master_enabled:
            action()
            return
        missing = requester.dma.missing(iova, length, write=write, pasid=pasid)

        def answered(present: bool) -> None:
            again = partial(self.when_present, iova, length, action, write=write, pasid=pasid)
            self._function.after(0, again if present else action)

        if missing is None or not requester.pager(missing, write, pasid, answered):
            action()

    def _allowed(self, iova: int, length: int, write: bool, pasid: int | None) -> bool:
        if self._function.master_enabled:
            return True
        requester = self._function.requester
        record = FaultRecord(requester.name, iova, length, write, pasid, "bus master off", time.monotonic())
        requester.system.fault(record)
        return False
