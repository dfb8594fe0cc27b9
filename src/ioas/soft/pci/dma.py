"""A function's way to memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ioas.soft.iommu import FaultReason, FaultRecord
from ioas.soft.pci import pasids
from ioas.soft.pci.failure import name_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.pci.function import Function
    from ioas.soft.pci.model_timers import ModelTimer

_FOR_EVER = float(1 << 31)
"""Seconds."""


class Dma:
    """DMA of one function: through its requester's translation, as long as bus mastering is on.

    `pasid` names one of the function's address spaces (`ioas.soft.pci.Pasid`); without, it is the function's own. A
    transfer that is stopped is a fault record of the machine's `System`, never an exception.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self.on_write: Callable[[int, int, int | None], None] | None = None
        """Told of IOVA, bytes and PASID of each write, stopped or not, when it is over."""

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
        done = self._function.requester.dma.write(iova, data, pasid)
        if self.on_write is not None:
            self.on_write(iova, length, pasid)
        return done

    def when_present(
        self, iova: int, length: int, action: Callable[[], None], *, write: bool, pasid: int | None = None
    ) -> None:
        """Run `action` once the pages under a transfer are there, or once it is clear that nobody will bring them.

        A device that asks for pages (`Function.page_requests`) sends page requests for what is missing, one after the
        other, while its domain has somebody who answers. For all others this is just `action()`. It never waits: an
        action that comes later runs as one of `Function.after` does.
        """
        requester = self._function.requester
        missing = None
        if requester.page_requests and self._function.master_enabled:
            missing = requester.dma.missing(iova, length, write=write, pasid=pasid)
        if missing is None:
            action()
            return
        again = partial(self.when_present, iova, length, action, write=write, pasid=pasid)
        during = f"the callback of a DMA {'write' if write else 'read'} at {iova:#x} ({name_of(action)})"
        waiting = self._function.schedule(_FOR_EVER, action, during)  # a reset cancels it, as all that is under way
        waiting.again = again
        # Whoever takes the request takes the machine's lock, which is not to be taken under the function's.
        self._function.place.timers.after(0, partial(self._ask, missing, write, pasid, waiting, again, action))

    def _ask(
        self,
        iova: int,
        write: bool,
        pasid: int | None,
        waiting: ModelTimer,
        again: Callable[[], None],
        otherwise: Callable[[], None],
    ) -> None:
        """Send a page request, without the function's lock; go on with `again` when the page is there."""

        def answered(present: bool) -> None:
            with self._function.lock:
                if waiting.pending:
                    waiting.cancel()
                    self._function.schedule(0, again if present else otherwise, waiting.during)

        pager = self._function.requester.pager
        if pager is None or not pager(iova, write, pasid, answered):
            answered(False)

    def _allowed(self, iova: int, length: int, write: bool, pasid: int | None) -> bool:
        if self._function.standstill.pace != "running":
            self._function.record(f"DMA at {iova:#x} was dropped: the device is quiet, to be migrated")
            return False
        reason: FaultReason
        if not self._function.master_enabled:
            reason = "bus master off"
        elif pasid is not None and not pasids.can_send(self._function, pasid):
            reason = "pasid off"
        else:
            return True
        requester = self._function.requester
        record = FaultRecord(requester.name, iova, length, write, pasid, reason, time.monotonic())
        requester.system.fault(record)
        return False
