"""IOMMU_TEST_CMD: the operations that the kernel's selftests ask their test module for (iommufd_test, selftest.c, 7.3).

Only a context made with `test=True` knows the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from errno import EINVAL, EIO, EOPNOTSUPP, EOVERFLOW
from typing import Any

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE, Backing, Extent
from ioas.soft.iommufd.commands import COMMANDS
from ioas.soft.iommufd.dispatch import Call, Command
from ioas.soft.iommufd.hwpt import PagingTable
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.mock_access import (
    access_pages,
    access_replace_ioas,
    access_rw,
    create_access,
    destroy_access_pages,
    hold_page,
)
from ioas.soft.iommufd.mock_device import dev_check_cache, mock_domain, mock_domain_replace
from ioas.soft.iommufd.mock_dirty import dirty
from ioas.soft.iommufd.mock_dmabuf import dmabuf_get, dmabuf_revoke
from ioas.soft.iommufd.mock_events import (
    md_check_iotlb,
    pasid_attach,
    pasid_check,
    pasid_detach,
    pasid_replace,
    trigger_iopf,
    trigger_vevent,
)
from ioas.soft.iommufd.ranges import ULONG_MAX, Reserved
from ioas.uapi import iommufd_test as uapi
from ioas.uapi.iommufd_test import IOMMU_TEST_CMD, iommu_test_cmd

_LEAST_MEMORY = 12
"""Bytes for one entry of the kernel's batches."""


def iommufd_test(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_CMD: carry out operation `op`."""
    operation = _OPERATIONS.get(call.command.op)
    if operation is None:
        raise refuse(EOPNOTSUPP, f"test operation {call.command.op} is unknown", "field", "op")
    operation(call)


def _add_reserved(call: Call[iommu_test_cmd]) -> None:
    """Reserve IOVA in IOAS `id` (iommufd_test_add_reserved); it goes with the IOAS."""
    command = call.command
    start, length = command.add_reserved.start, command.add_reserved.length
    if not length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    if start + length - 1 > ULONG_MAX:
        raise refuse(EOVERFLOW, "the range runs past the end of IOVA", "field", "length")
    ioas = call.context.objects.get(command.id, Ioas)
    ioas.iopt.room.reserve(Reserved(start, start + length - 1, None, "reserved by a test"))


def _md_check_map(call: Call[iommu_test_cmd]) -> None:
    """Whether table `id` maps IOVA to the very pages at an address. EINVAL if not (iommufd_test_md_check_pa)."""
    command = call.command
    iova, length, address = command.check_map.iova, command.check_map.length, command.check_map.uptr
    domain = call.context.objects.get(command.id, PagingTable).domain
    if domain.unit.kind != "mock":
        raise refuse(EINVAL, "the page table is not a mock device's", "object", command.id)
    granule = domain.page_sizes & -domain.page_sizes
    if (iova | length | address) % granule or address + length > ULONG_MAX:
        raise refuse(EINVAL, f"the range is not made of whole pages of {granule} bytes", "address", address)
    for at in range(address, address + length, granule):
        if domain.phys(iova + at - address) != _physical(call, at):
            raise refuse(EINVAL, f"IOVA {iova + at - address:#x} is mapped to another page", "address", at)


def _md_check_refs(call: Call[iommu_test_cmd]) -> None:
    """Whether each page at an address is pinned as often as it says. EIO if not (iommufd_test_md_check_refs)."""
    check = call.command.check_refs
    address, length, wanted = check.uptr, check.length, check.refs
    if (address | length) % PAGE_SIZE or address + length > ULONG_MAX:
        raise refuse(EINVAL, "the range is not made of whole pages", "address", address)
    for at, backing, page, order in _pages_at(call, address, length):
        found = call.context.system.memory.references(backing.key, page)
        if found != wanted and not order:  # the kernel does not look at compound pages either
            raise refuse(EIO, f"the page is pinned {found} times, not {wanted}", "address", at)


def _pages_at(call: Call[iommu_test_cmd], address: int, length: int) -> Iterator[tuple[int, Backing, int, int]]:
    """Each page of a range: its address, backing, index there and order. Raises KernelError at the first hole.

    All are looked at at once where that can be: one by one takes an ordinary user's process very long.
    """
    step = length
    try:
        found = [_pinned(call, address, length)] if length else []
    except KernelError:
        step, found = PAGE_SIZE, []
    for start in range(address, address + length, step or PAGE_SIZE):
        at = start
        for backing, page, count, order in found.pop() if found else _pinned(call, start, step):
            for index in range(count):
                yield at, backing, page + index, order
                at += PAGE_SIZE


def _pinned(call: Call[iommu_test_cmd], address: int, length: int) -> Sequence[Extent]:
    """What stands at `address`; it is not kept pinned. Raises KernelError."""
    pin = call.caller.memory.pin(address, length // PAGE_SIZE, write=False)
    extents = pin.extents
    pin.release()
    return extents


def _set_temp_memory_limit(call: Call[iommu_test_cmd]) -> None:
    """Limit the kernel's scratch memory, which there is none of here."""
    if call.command.memory_limit.limit < _LEAST_MEMORY:
        raise refuse(EINVAL, f"the limit is below {_LEAST_MEMORY}", "field", "limit")


def _physical(call: Call[iommu_test_cmd], address: int) -> int:
    """The physical address of a byte of the caller's memory. Raises KernelError as `hold_page`."""
    held = hold_page(call, address)
    frame = held.pfn(0)
    held.release()
    return frame * PAGE_SIZE + address % PAGE_SIZE


_OPERATIONS: dict[int, Callable[[Call[iommu_test_cmd]], None]] = {
    uapi.IOMMU_TEST_OP_ADD_RESERVED: _add_reserved,
    uapi.IOMMU_TEST_OP_MOCK_DOMAIN: mock_domain,
    uapi.IOMMU_TEST_OP_MD_CHECK_MAP: _md_check_map,
    uapi.IOMMU_TEST_OP_MD_CHECK_REFS: _md_check_refs,
    uapi.IOMMU_TEST_OP_CREATE_ACCESS: create_access,
    uapi.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES: destroy_access_pages,
    uapi.IOMMU_TEST_OP_ACCESS_PAGES: access_pages,
    uapi.IOMMU_TEST_OP_ACCESS_RW: access_rw,
    uapi.IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT: _set_temp_memory_limit,
    uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE: mock_domain_replace,
    uapi.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS: access_replace_ioas,
    uapi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS: mock_domain,
    uapi.IOMMU_TEST_OP_DIRTY: dirty,
    uapi.IOMMU_TEST_OP_DMABUF_GET: dmabuf_get,
    uapi.IOMMU_TEST_OP_DMABUF_REVOKE: dmabuf_revoke,
    uapi.IOMMU_TEST_OP_MD_CHECK_IOTLB: md_check_iotlb,
    uapi.IOMMU_TEST_OP_TRIGGER_IOPF: trigger_iopf,
    uapi.IOMMU_TEST_OP_DEV_CHECK_CACHE: dev_check_cache,
    uapi.IOMMU_TEST_OP_TRIGGER_VEVENT: trigger_vevent,
    uapi.IOMMU_TEST_OP_PASID_ATTACH: pasid_attach,
    uapi.IOMMU_TEST_OP_PASID_REPLACE: pasid_replace,
    uapi.IOMMU_TEST_OP_PASID_DETACH: pasid_detach,
    uapi.IOMMU_TEST_OP_PASID_CHECK_HWPT: pasid_check,
}
TEST_COMMANDS: dict[int, Command[Any]] = {
    **COMMANDS,
    IOMMU_TEST_CMD: Command(IOMMU_TEST_CMD, iommufd_test, iommu_test_cmd, "last"),
}
LAST = IOMMU_TEST_CMD & 0xFF
"""As `commands.LAST`, with the test request."""
