"""`FaultQueue`: page requests of devices, to be answered by the program (IOMMU_FAULT_QUEUE_ALLOC)."""

from __future__ import annotations

import ctypes
import select
from typing import TYPE_CHECKING

from ioas.api.checks import U32_LAST, whole
from ioas.api.files import OpenFile
from ioas.uapi.iommufd import (
    IOMMUFD_PAGE_RESP_INVALID,
    IOMMUFD_PAGE_RESP_SUCCESS,
    iommu_hwpt_page_response,
    iommu_hwpt_pgfault,
)

if TYPE_CHECKING:
    from ioas.api.iommufd import Iommufd

_SIZE = ctypes.sizeof(iommu_hwpt_pgfault)
_MANY = 64
"""So many requests are read at once; more are there at the next call."""


class FaultQueue(OpenFile):
    """A queue of page requests, made by `Iommufd.fault_queue` and given to `Iommufd.hwpt`.

    Its descriptor becomes readable, for select, poll and asyncio. A device waits until each of its groups is answered.
    """

    def __init__(self, iommufd: Iommufd, object_id: int, fd: int) -> None:
        self.iommufd = iommufd
        self.id = object_id
        super().__init__(iommufd.session, f"fault queue {object_id}", fd)

    def pending(self) -> list[iommu_hwpt_pgfault]:
        """The requests that have come since the last look, in order. Never waits."""
        data = self.read(_MANY * _SIZE)
        self.session.caller.settle(self.fileno())
        return [iommu_hwpt_pgfault.from_buffer_copy(data, at) for at in range(0, len(data), _SIZE)]

    def wait(self, timeout: float | None = None) -> list[iommu_hwpt_pgfault]:
        """The same, after waiting until there are some, `timeout` seconds at most. Raises TimeoutError."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        if not poll.poll(None if timeout is None else max(timeout, 0) * 1000):
            raise TimeoutError(f"no page request in {timeout} s")
        return self.pending()

    def respond(self, cookie: int, *, resolved: bool) -> None:
        """Answer a group of requests: `cookie` is that of its last one (IOMMU_PGFAULT_FLAGS_LAST_PAGE).

        `resolved`: the pages are mapped now, and the device tries again; else its access fails. Raises
        InvalidArgument: no group with this cookie waits.
        """
        code = IOMMUFD_PAGE_RESP_SUCCESS if resolved else IOMMUFD_PAGE_RESP_INVALID
        self.write(bytes(iommu_hwpt_page_response(whole("cookie", cookie, U32_LAST), code)))

    def close(self) -> None:
        """Close it, and destroy the object. Raises Busy while a page table uses it. Idempotent."""
        if not self.closed:
            super().close()
            if not self.iommufd.closed:
                self.iommufd.destroy(self.id)
