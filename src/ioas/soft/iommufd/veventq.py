"""Events of a vIOMMU for the virtual machine's own driver (IOMMUFD_OBJ_VEVENTQ in eventq.c and driver.c, 7.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from ctypes import sizeof
from errno import EEXIST, EINVAL, EOPNOTSUPP
from typing import NamedTuple

from ioas.errors import KernelError, refuse
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.eventq import EventFile, Queue
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.viommu import Viommu
from ioas.uapi.iommufd import (
    IOMMU_VEVENTQ_FLAG_LOST_EVENTS,
    IOMMU_VEVENTQ_TYPE_DEFAULT,
    iommu_veventq_alloc,
    iommufd_vevent_header,
)

_HEADER = sizeof(iommufd_vevent_header)
_DEPTH_MAX = 1 << 19
_SEQUENCE_MASK = (1 << 31) - 1


class _Event(NamedTuple):
    """An event, or (without data) a note that events were lost."""

    sequence: int
    data: bytes

    def __bytes__(self) -> bytes:
        flags = 0 if self.data else IOMMU_VEVENTQ_FLAG_LOST_EVENTS
        return bytes(iommufd_vevent_header(flags=flags, sequence=self.sequence)) + self.data


class EventQueue(Queue):
    """At most `depth` events of one type. What does not fit is lost, which a last note without data tells."""

    __slots__ = ("_events", "_sequence", "_taken", "depth", "type", "viommu")

    kind = "vEVENTQ"
    name = "[iommufd-viommu-event]"

    def __init__(self, viommu: Viommu, kind: int, depth: int) -> None:
        super().__init__(viommu.context)
        self.viommu = viommu
        self.type = kind
        self.depth = depth
        self._events: deque[_Event] = deque()
        self._sequence = 0
        self._taken: list[_Event] = []
        """What was read last."""
        viommu.users += 1
        viommu.queues[kind] = self

    @property
    def waiting(self) -> bool:
        """Whether there is something to read."""
        return bool(self._events)

    def report(self, data: bytes) -> None:
        """An event of the vIOMMU (iommufd_viommu_report_event); `data` is at least one byte."""
        full = sum(1 for event in self._events if event.data) >= self.depth
        if self._events and not self._events[-1].data:
            self._events.pop()  # the note comes last, with the newest number, or not at all
        self._events.append(_Event(self._sequence, b"" if full else data))
        self._sequence = self._sequence + 1 & _SEQUENCE_MASK
        self.tell()

    def take(self, length: int) -> bytes:
        """Whole events, each after its header (iommufd_veventq_fops_read). Raises KernelError(EINVAL) for no room."""
        if length < _HEADER:
            raise refuse(EINVAL, f"{length} bytes do not hold a header of {_HEADER}", "field", "count")
        done = b""
        self._taken.clear()
        while self._events:
            event = bytes(self._events[0])
            if len(event) > length - len(done):
                if not done:
                    raise refuse(EINVAL, f"{length} bytes do not hold the first event", "field", "count")
                break
            done += event
            self._taken.append(self._events.popleft())
        return done

    def restore(self) -> None:
        """Let what was read last be read again; a note of loss only if nothing has come after it."""
        while self._taken:
            event = self._taken.pop()
            if event.data or not self._events:
                self._events.appendleft(event)

    def uses(self) -> Sequence[Object]:
        """The vIOMMU."""
        return (self.viommu,)

    def destroy(self) -> None:
        """Nothing is reported any more."""
        del self.viommu.queues[self.type]
        self.viommu.users -= 1


def veventq_alloc(call: Call[iommu_veventq_alloc]) -> None:
    """IOMMU_VEVENTQ_ALLOC. Follows iommufd_veventq_alloc."""
    command, objects = call.command, call.context.objects
    if command.flags or command.__reserved:
        field = "flags" if command.flags else "__reserved"
        raise refuse(EOPNOTSUPP, f"{field} must be 0", "field", field)
    if command.type == IOMMU_VEVENTQ_TYPE_DEFAULT:
        raise refuse(EOPNOTSUPP, f"type {command.type} is that of no events", "field", "type")
    if not 0 < command.veventq_depth <= _DEPTH_MAX:
        raise refuse(EINVAL, f"depth {command.veventq_depth} is not in 1 to {_DEPTH_MAX}", "field", "veventq_depth")
    viommu = objects.get(command.viommu_id, Viommu)
    if command.type in viommu.queues:
        there = viommu.queues[command.type]
        raise refuse(EEXIST, f"{viommu} has {there} for events of type {command.type:#x}", "object", there)
    queue = EventQueue(viommu, command.type, command.veventq_depth)
    file = EventFile(queue)
    try:
        command.out_veventq_id = queue.id
        call.respond_with_file(file, "out_veventq_fd")
    except KernelError:
        queue.destroy()
        objects.abandon(queue)
        raise
    objects.publish(queue)


def report(viommu: Viommu, kind: int, data: bytes) -> None:
    """An event of `viommu`. Raises KernelError(EOPNOTSUPP) when nobody has asked for events of this type."""
    queue = viommu.queues.get(kind)
    if queue is None:
        raise refuse(EOPNOTSUPP, f"{viommu} has no queue for events of type {kind:#x}", "object", viommu)
    queue.report(data)
