"""What an I/O address space refuses, in words: which field, which area, and who wants it so (io_pagetable.c, 7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EBUSY, EINVAL, ENOENT, EOVERFLOW
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, refuse
from ioas.soft.iommufd.ranges import ULONG_MAX

if TYPE_CHECKING:
    from ioas.soft.iommu import Domain
    from ioas.soft.iommufd.access import Access
    from ioas.soft.iommufd.area import Area


class Names(NamedTuple):
    """What a command calls the length, the IOVA, and where the memory stands."""

    length: str
    iova: str
    source: str


NAMES = Names("length", "iova", "user_va")


def misaligned(what: str, value: int, unit: str, alignment: int, why: str) -> KernelError:
    """A field that is 0, or no multiple of the alignment; `unit` follows the number."""
    if not value:
        return refuse(EINVAL, f"{what} is 0", "field", what)
    return refuse(EINVAL, f"{what} is {value:#x}{unit}, which is no multiple of {alignment}, {why}", "field", what)


def why_aligned(alignment: int, domains: Sequence[Domain], accesses: Sequence[Access]) -> str:
    """Who wants the alignment."""
    for domain in domains:
        if domain.granule == alignment:
            return f"the smallest page of {domain.unit.name}"
    for access in accesses:
        if access.alignment == alignment:
            return f"as {access} wants"
    return "as large pages are turned off"


def end_of_range(iova: int, length: int) -> int:
    """The last byte of a range. Raises KernelError: EINVAL for no bytes, EOVERFLOW past the end of IOVA."""
    if not length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    last = iova + length - 1
    if last > ULONG_MAX:
        raise past_the_end(iova, length)
    return last


def past_the_end(iova: int, length: int) -> KernelError:
    """A range that has no end in 64 bits."""
    return refuse(EOVERFLOW, f"{length:#x} bytes from IOVA {iova:#x} run past the end of IOVA", "field", "length")


def why_not_unmapped(area: Area, start: int, last: int) -> KernelError | None:
    """Why an area cannot be unmapped with `start` to `last`, in the kernel's order; None: only accesses hold it."""
    if area.locks:
        return refuse(EBUSY, f"area {area} is locked by a hardware queue", "area", area)
    if area.start < start or area.last > last:
        return refuse(ENOENT, f"area {area} reaches beyond {start:#x}-{last:#x}, and areas go whole", "area", area)
    return None
