"""IOMMU_TEST_OP_DIRTY: the selftests write through a mock page table (iommufd_test_dirty, selftest.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, EOVERFLOW

from ioas.errors import refuse
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.hwpt import PagingTable
from ioas.uapi.iommufd_test import iommu_test_cmd

_PAGES_MAX = (1 << 24) * 8


def dirty(call: Call[iommu_test_cmd]) -> None:
    """Mark the pages of table `id` that a bitmap names. Raises KernelError: EINVAL, EOVERFLOW, EFAULT."""
    asked = call.command.dirty
    size = asked.page_size
    if not size or not asked.length or asked.iova % size or asked.length % size or not asked.uptr:
        raise refuse(EINVAL, f"the range is not made of pages of {size} bytes, or there is no bitmap", "field", "iova")
    pages = asked.length // size
    if pages > _PAGES_MAX:
        raise refuse(EOVERFLOW, f"{pages} pages are more than {_PAGES_MAX}", "field", "length")
    domain = call.context.objects.get(call.command.id, PagingTable).domain
    if domain.unit.kind != "mock" or not domain.tracking:
        raise refuse(EINVAL, "the page table is not a mock device's, or does not track", "object", call.command.id)
    bits = call.caller.memory.read(asked.uptr, -(-pages // 8))
    asked.out_nr_dirty = _mark(call, bits, pages)
    call.respond()


def _mark(call: Call[iommu_test_cmd], bits: bytes, pages: int) -> int:
    """Mark the pages; return how many bits were set. An address with nothing mapped counts, and is passed over.

    Addresses wrap as the kernel's do.
    """
    import numpy as np

    from ioas.soft.iommu.dirty import mark

    asked = call.command.dirty
    chosen = np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=pages, bitorder="little"))
    domain = call.context.objects.get(call.command.id, PagingTable).domain
    addresses = np.uint64(asked.iova) + chosen.astype(np.uint64) * np.uint64(asked.page_size)
    inside = addresses[addresses <= np.uint64(domain.geometry.last)]
    with domain.iotlb.lock:
        mark(domain.table, np.sort(inside.astype(np.int64)))
    return len(chosen)
