"""Hardware queues of a vIOMMU: guest memory that the IOMMU reads by physical addresses (viommu.c, 7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, ERANGE
from typing import NamedTuple

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommufd.access import Access
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.soft.iommufd.viommu import QueueSlots, Viommu
from ioas.uapi.iommufd import IOMMU_HW_QUEUE_TYPE_DEFAULT, iommu_hw_queue_alloc

_LIST_ENTRY = 8
_LIST_MAX = (1 << 31) - 1
"""Bytes: kvmalloc takes no more."""


class _Pinned(NamedTuple):
    """The pages under a queue, held by an access that does not let go of them."""

    access: Access
    iova: int
    length: int

    def release(self) -> None:
        self.access.unpin_pages(self.iova, self.length)
        self.access.release()


class HwQueue(Object):
    """A queue, whose pages cannot be unmapped while it stands."""

    __slots__ = ("_pinned", "below", "index", "slots", "viommu")

    kind = "hardware queue"

    def __init__(self, viommu: Viommu, slots: QueueSlots, index: int) -> None:
        """Use `fill` next, which does what can fail."""
        super().__init__(viommu.context)
        self._pinned: _Pinned | None = None
        self.below: Object | None = None
        self.viommu = viommu
        self.slots = slots
        self.index = index
        viommu.users += 1

    def fill(self, iova: int, length: int) -> None:
        """Pin the pages and take the slot. Raises KernelError, with nothing kept: as `_pin`, or the slots'."""
        pinned = _pin(self.viommu, iova, length)
        try:
            self.below = self.slots.take(self.index, self)
        except KernelError:
            pinned.release()
            raise
        self._pinned = pinned

    def uses(self) -> Sequence[Object]:
        """The vIOMMU, and the queue before this one where the order matters."""
        return (self.viommu,) if self.below is None else (self.viommu, self.below)

    def destroy(self) -> None:
        """Give the slot and the pages back."""
        if self._pinned is not None:
            self.slots.give(self.index, self.below)
            self._pinned.release()
        self.viommu.users -= 1


def hw_queue_alloc(call: Call[iommu_hw_queue_alloc]) -> None:
    """IOMMU_HW_QUEUE_ALLOC. Follows iommufd_hw_queue_alloc_ioctl."""
    command, objects = call.command, call.context.objects
    if command.flags:
        raise refuse(EOPNOTSUPP, f"flags {command.flags:#x} are not known", "field", "flags")
    if command.type == IOMMU_HW_QUEUE_TYPE_DEFAULT:
        raise refuse(EOPNOTSUPP, f"type {command.type} is that of no queue", "field", "type")
    if not command.length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    if command.nesting_parent_iova + command.length - 1 > ULONG_MAX:
        raise refuse(EOVERFLOW, "the queue runs past the end of IOVA", "field", "length")
    viommu = objects.get(command.viommu_id, Viommu)
    slots = viommu.model.queue_slots(command.type)
    if slots is None:
        raise refuse(EOPNOTSUPP, f"{viommu} has no hardware queues of type {command.type:#x}", "field", "type")
    queue = HwQueue(viommu, slots, command.index)
    try:
        queue.fill(command.nesting_parent_iova, command.length)
        command.out_hw_queue_id = queue.id
        call.respond()
    except KernelError:
        queue.destroy()
        objects.abandon(queue)
        raise
    objects.publish(queue)


def _pin(viommu: Viommu, iova: int, length: int) -> _Pinned:
    """Pin the pages under a queue (iommufd_hw_queue_alloc_phys).

    Raises KernelError: ERANGE; ENOMEM for more than the kernel could list; EFAULT when the pages are not physically
    contiguous; and what pinning raises.
    """
    start = iova & -PAGE_SIZE
    size = iova - start + length
    if size + PAGE_SIZE - 1 > ULONG_MAX:
        raise refuse(ERANGE, "the queue's pages run past the end of IOVA", "field", "length")
    size = -(-size // PAGE_SIZE) * PAGE_SIZE
    if size // PAGE_SIZE * _LIST_ENTRY > _LIST_MAX:
        raise refuse(ENOMEM, f"a list of {size // PAGE_SIZE} pages is too long", "field", "length")
    access = Access(viommu.context, None, pins=True)
    try:
        access.attach(viommu.table.ioas.id)
        frames = access.pin_pages(start, size, write=False)
    except KernelError:
        access.release()
        raise
    pinned = _Pinned(access, start, size)
    for index in range(1, len(frames)):
        if frames[index] != frames[index - 1] + 1:
            pinned.release()
            at = start + index * PAGE_SIZE
            raise refuse(EFAULT, "the queue's pages are not physically contiguous", "address", at)
    return pinned
