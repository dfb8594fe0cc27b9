"""I/O page faults: devices ask for pages, and the program answers (iommufd/eventq.c and io-pgfault.c, 7.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from ctypes import sizeof
from errno import EINVAL, EOPNOTSUPP, ESPIPE
from itertools import count
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.eventq import EventFile, Queue
from ioas.uapi.iommufd import (
    IOMMU_PGFAULT_FLAGS_PASID_VALID,
    IOMMUFD_PAGE_RESP_INVALID,
    IOMMUFD_PAGE_RESP_SUCCESS,
    iommu_fault_alloc,
    iommu_hwpt_page_response,
    iommu_hwpt_pgfault,
)

if TYPE_CHECKING:
    from ioas.soft.iommufd.context import Context
    from ioas.soft.iommufd.device import Device
    from ioas.soft.iommufd.group import Attachment, Handle

_FAULT_SIZE = sizeof(iommu_hwpt_pgfault)
_RESPONSE_SIZE = sizeof(iommu_hwpt_page_response)


class FaultGroup:
    """Page requests of a device that are answered together (struct iopf_group)."""

    __slots__ = ("faults", "handle", "respond")

    def __init__(self, handle: Handle, faults: list[iommu_hwpt_pgfault], respond: Callable[[int], None]) -> None:
        """`respond` is called once, with IOMMUFD_PAGE_RESP_*: the program's, or INVALID when nobody answers."""
        self.handle = handle
        self.faults = faults
        self.respond = respond


class FaultQueue(Queue):
    """Page requests on their way to the program, and those that it has read and not answered."""

    __slots__ = ("_pending", "_taken", "_waiting")

    kind = "fault queue"
    name = "[iommufd-pgfault]"
    writable = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._waiting: deque[FaultGroup] = deque()
        self._pending: dict[int, FaultGroup] = {}
        """By cookie."""
        self._taken: list[int] = []
        """The cookies of what was read last."""

    @property
    def waiting(self) -> bool:
        """Whether there is something to read."""
        return bool(self._waiting)

    def deliver(self, group: FaultGroup) -> None:
        """Queue requests for the program (iommufd_fault_iopf_handler)."""
        self._waiting.append(group)
        self.tell()

    def take(self, length: int) -> bytes:
        """Whole groups, as many as fit (iommufd_fault_fops_read). Raises KernelError: ESPIPE, EINVAL for no room."""
        if length % _FAULT_SIZE:
            raise refuse(ESPIPE, f"{length} bytes are not whole faults of {_FAULT_SIZE}", "field", "count")
        done = bytearray()
        self._taken.clear()
        while self._waiting:
            group = self._waiting[0]
            if len(group.faults) * _FAULT_SIZE > length - len(done):
                if not done:
                    raise refuse(EINVAL, f"{length} bytes do not hold the first group", "field", "count")
                break
            self._waiting.popleft()
            cookie = next(number for number in count(1) if number not in self._pending)
            self._pending[cookie] = group
            self._taken.append(cookie)
            for fault in group.faults:
                fault.dev_id = group.handle.device.id
                fault.cookie = cookie
                done += bytes(fault)
        return bytes(done)

    def restore(self) -> None:
        """Let what was read last be read again (the restoring half of iommufd_fault_fops_read)."""
        while self._taken:
            group = self._pending.pop(self._taken.pop(), None)
            if group is not None:  # not answered, or dropped, in between
                self._waiting.appendleft(group)

    def answer(self, data: bytes) -> int:
        """The program's responses (iommufd_fault_fops_write). Raises KernelError: ESPIPE, EINVAL before the first."""
        if len(data) % _RESPONSE_SIZE:
            raise refuse(ESPIPE, f"{len(data)} bytes are not whole responses of {_RESPONSE_SIZE}", "field", "count")
        for done in range(0, len(data), _RESPONSE_SIZE):
            try:
                self._respond(iommu_hwpt_page_response.from_buffer_copy(data, done))
            except KernelError:
                if not done:
                    raise
                return done
        return len(data)

    def _respond(self, response: iommu_hwpt_page_response) -> None:
        if response.code not in (IOMMUFD_PAGE_RESP_SUCCESS, IOMMUFD_PAGE_RESP_INVALID):
            raise refuse(EINVAL, f"response code {response.code} is unknown", "field", "code")
        group = self._pending.pop(response.cookie, None)
        if group is None:
            raise refuse(EINVAL, f"no fault waits for an answer with cookie {response.cookie}", "field", "cookie")
        group.respond(response.code)

    def drop(self, handle: Handle | None) -> None:
        """Answer INVALID to what came through an attachment that is gone (iommufd_auto_response_faults), or to all."""
        gone = [group for group in self._waiting if handle in (None, group.handle)]
        self._waiting = deque(group for group in self._waiting if group not in gone)
        for cookie, group in list(self._pending.items()):
            if handle in (None, group.handle):
                del self._pending[cookie]
                gone.append(group)
        for group in gone:
            group.respond(IOMMUFD_PAGE_RESP_INVALID)

    def destroy(self) -> None:
        """Nobody will answer any more."""
        self.drop(None)


def fault_queue_alloc(call: Call[iommu_fault_alloc]) -> None:
    """IOMMU_FAULT_QUEUE_ALLOC. Follows iommufd_fault_alloc."""
    command, objects = call.command, call.context.objects
    if command.flags:
        raise refuse(EOPNOTSUPP, f"flags {command.flags:#x} are not known", "field", "flags")
    queue = FaultQueue(call.context)
    file = EventFile(queue)
    try:
        command.out_fault_id = queue.id
        call.respond_with_file(file, "out_fault_fd")
    except KernelError:
        objects.abandon(queue)
        raise
    objects.publish(queue)


def report(device: Device, faults: list[iommu_hwpt_pgfault], respond: Callable[[int], None]) -> bool:
    """A device asks for pages; whether somebody will answer. Follows iommu_report_device_fault.

    All `faults` are of one group; the last one has IOMMU_PGFAULT_FLAGS_LAST_PAGE.
    """
    attachment = _handler(device, faults[-1])
    if attachment is None or attachment.table.fault is None:
        return False
    attachment.table.fault.deliver(FaultGroup(attachment.handle, faults, respond))
    return True


def _handler(device: Device, fault: iommu_hwpt_pgfault) -> Attachment | None:
    """Through which attachment a fault came (find_fault_handler): a nested table also gets those of its own PASIDs."""
    attachments = device.group.attachments
    if not fault.flags & IOMMU_PGFAULT_FLAGS_PASID_VALID:
        return attachments.get(None)
    found = attachments.get(fault.pasid)
    if found is None:
        plain = attachments.get(None)
        if plain is not None and plain.table.paging is not plain.table:
            found = plain
    return found
