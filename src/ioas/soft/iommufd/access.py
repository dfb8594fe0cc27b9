"""`Access`: use of an IOAS by the host's own software, without DMA (struct iommufd_access, device.c, 7.3).

An access reads and writes through IOVA, and may pin pages. It promises to let go of pins when asked: an unmap asks
by the `unmap` callback and waits until it has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EINVAL, ENOENT, EPERM
from typing import TYPE_CHECKING

from ioas.errors import Culprit, KernelError, refuse
from ioas.host import PAGE_SIZE, AddressSpace
from ioas.soft.iommu import Prot
from ioas.soft.iommufd.area import Area
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.soft.iommufd.refusals import end_of_range

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommufd.context import Context

_READ, _WRITE = int(Prot.READ), int(Prot.WRITE)

Unmap = Callable[[int, int], None]
"""Called with (iova, length): unpin everything that meets the range before returning."""


class Access(Object):
    """An access, attached to at most one IOAS. Its creator holds it until `release`; it keeps its context alive."""

    __slots__ = ("_unmap", "alignment", "ioas")

    kind = "access"
    creator = Culprit("file", "its open file")

    def __init__(self, context: Context, unmap: Unmap | None, *, pins: bool) -> None:
        """`pins` is whether it will pin pages, which wants all of the IOAS aligned to pages.

        Without `unmap` it is one of the context's own, which does not let go: its pins lock areas against unmapping.
        """
        super().__init__(context)
        self._unmap = unmap
        self.alignment = PAGE_SIZE if pins else 1
        self.ioas: Ioas | None = None
        self.users += 1
        if unmap is not None:
            context.get()
        context.objects.publish(self)

    def attach(self, ioas_id: int) -> None:
        """Use an IOAS. Raises KernelError: ENOENT, EINVAL when attached, EADDRINUSE when areas are not aligned."""
        if self.ioas is not None:
            raise refuse(EINVAL, f"{self} is attached to {self.ioas} already", "object", self.ioas)
        self._change(self.context.objects.get(ioas_id, Ioas))

    def replace(self, ioas_id: int) -> None:
        """Use another IOAS; pins in the former one are asked back. Raises as `attach`; ENOENT when not attached."""
        if self.ioas is None:
            raise refuse(ENOENT, f"{self} is attached to nothing", "object", self)
        self._change(self.context.objects.get(ioas_id, Ioas))

    def detach(self) -> None:
        """Use no IOAS any more; pins are asked back."""
        self._change(None)

    def uses(self) -> Sequence[Object]:
        """The IOAS."""
        return (self.ioas,) if self.ioas is not None else ()

    def release(self) -> None:
        """Destroy the access: its creator stops using it (iommufd_access_destroy)."""
        self.context.objects.put_and_destroy(self)

    def destroy(self) -> None:
        """Detach, and let the context go."""
        self.detach()
        if self._unmap is not None:
            self.context.put()

    def notify_unmap(self, iova: int, length: int) -> None:
        """A range is about to be unmapped: ask for the pins in it."""
        if self._unmap is not None:
            self._unmap(iova, length)

    def _change(self, new: Ioas | None) -> None:
        """Follows iommufd_access_change_ioas: join the new one, then leave the old one."""
        old = self.ioas
        if old is new:
            return
        if new is not None:
            new.iopt.add_access(self)
            new.users += 1
        if old is not None:
            self.notify_unmap(0, ULONG_MAX)
            old.iopt.remove_access(self)
            old.users -= 1
        self.ioas = new

    # -- pinning

    def pin_pages(self, iova: int, length: int, *, write: bool) -> list[int]:
        """Pin the pages under a range until `unpin_pages` of the same range; return their frame numbers.

        Follows iommufd_access_pin_pages. Raises KernelError, with nothing changed: EINVAL for a range that does not
        begin and continue at page borders or is being unmapped, EOVERFLOW, ENOENT for a hole, EPERM for the wrong
        direction, EFAULT and ENOMEM from pinning.
        """
        last = end_of_range(iova, length)
        done: list[tuple[Area, int, int]] = []
        frames: list[int] = []
        try:
            for area, start, end in self._attached().iopt.contiguous(iova, last):
                _check_pages(area, start, end == last)
                _check_direction(area, write=write)
                area.pages.check_access()
                first_page, last_page = area.page_at(start), area.page_at(end)
                self.context.system.failures.point("access to an area")
                area.pages.claim(first_page, last_page)
                area.accesses += 1
                area.locks += self._unmap is None
                done.append((area, first_page, last_page))
                for run, first, count in area.pages.segments(first_page, last_page):
                    frames += map(run.pfn, range(first, first + count))
        except KernelError:
            for area, first_page, last_page in done:
                self._unpin(area, first_page, last_page)
            raise
        return frames

    def unpin_pages(self, iova: int, length: int) -> None:
        """Undo one `pin_pages` of exactly this range."""
        for area, start, end in self._attached().iopt.contiguous(iova, end_of_range(iova, length)):
            self._unpin(area, area.page_at(start), area.page_at(end))

    def _unpin(self, area: Area, first_page: int, last_page: int) -> None:
        area.pages.release(first_page, last_page)
        area.accesses -= 1
        area.locks -= self._unmap is None

    # -- copying

    def read(self, iova: int, length: int, current: AddressSpace | None = None) -> bytes:
        """Copy from a range (iommufd_access_rw).

        `current` is the address space of the caller, when the copy is made in its context. Raises KernelError:
        EINVAL for no bytes or a range that is being unmapped, EOVERFLOW, ENOENT for a hole, EPERM, EFAULT.
        """
        parts = []
        for area, start, end in self._attached().iopt.contiguous(iova, end_of_range(iova, length)):
            _check_open(area)
            _check_direction(area, write=False)
            parts.append(area.pages.read(area.byte_at(start), end - start + 1, current))
        return b"".join(parts)

    def write(self, iova: int, data: Buffer, current: AddressSpace | None = None) -> None:
        """Copy to a range; as `read`. What stands before a hole has been written when ENOENT is raised."""
        view = memoryview(data).cast("B")
        for area, start, end in self._attached().iopt.contiguous(iova, end_of_range(iova, len(view))):
            _check_open(area)
            _check_direction(area, write=True)
            area.pages.write(area.byte_at(start), view[start - iova : end - iova + 1], current)

    def _attached(self) -> Ioas:
        if self.ioas is None:
            raise refuse(ENOENT, f"{self} is attached to nothing", "object", self)
        return self.ioas


def _check_open(area: Area) -> None:
    if area.prevent_access:
        raise refuse(EINVAL, f"area {area} is being unmapped", "area", area)


def _check_pages(area: Area, start: int, is_last: bool) -> None:
    """Whether a part of an area begins at a page, and goes on to a page's end (iopt_area_contig_is_aligned)."""
    _check_open(area)
    if area.byte_at(start) % PAGE_SIZE or (not is_last and area.byte_at(area.last) % PAGE_SIZE != PAGE_SIZE - 1):
        raise refuse(EINVAL, f"the pages under IOVA {start:#x} do not line up with area {area}", "area", area)


def _check_direction(area: Area, *, write: bool) -> None:
    if not area.prot & (_WRITE if write else _READ):
        raise refuse(EPERM, f"area {area} is not {'writeable' if write else 'readable'}", "area", area)
