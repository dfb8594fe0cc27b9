"""Refusals of page tables, devices, accesses and PASIDs.

Object 1 is an IOAS, 2 the test object of a mock device, 3 the device, 4 the page table that was made by attaching it.
"""

from __future__ import annotations

from collections.abc import Callable

from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from tests.support.culprits.case import Case, do
from tests.support.iommufd import Iommufd

DEVICE = 3
NEST_PARENT = uapi.IOMMU_HWPT_ALLOC_NEST_PARENT
SELFTEST = test_uapi.IOMMU_HWPT_DATA_SELFTEST
Provoke = Callable[[Iommufd], object]


def device(iommufd: Iommufd, flags: int | None = test_uapi.MOCK_FLAGS_DEVICE_PASID) -> int:
    """IOAS 1 with a mock device."""
    ioas = iommufd.alloc()
    iommufd.mock(ioas, flags)
    return ioas


def parent(iommufd: Iommufd) -> int:
    """With page table 5, a nesting parent."""
    return iommufd.hwpt(DEVICE, device(iommufd), NEST_PARENT)


def nested(iommufd: Iommufd, pt_id: int = 5, flags: int = 0, **fields: int) -> int:
    """A nested table."""
    place = iommufd.caller.memory.map(1)
    data = {"data_type": SELFTEST, "data_len": 8, "data_uptr": place}
    return iommufd.hwpt(DEVICE, pt_id, flags, **{**data, **fields})


def on_parent(**fields: int) -> Provoke:
    """A nested table on a nesting parent."""
    return lambda iommufd: (parent(iommufd), nested(iommufd, **fields))


def allocate(**fields: int) -> Provoke:
    """A table for a device."""

    def provoke(iommufd: Iommufd) -> None:
        device(iommufd)
        do(iommufd, "HWPT_ALLOC", **{"dev_id": DEVICE, "pt_id": 1, **fields})

    return provoke


def replace(iommufd: Iommufd, pt_id: int, number: int = 2) -> None:
    """The mock device goes elsewhere."""
    iommufd.test(test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, number, mock_domain_replace={"pt_id": pt_id})


def attach(iommufd: Iommufd, pt_id: int, pasid: int = 100) -> None:
    """A PASID of the mock device."""
    fields = {"pasid": pasid, "pt_id": pt_id}
    iommufd.test(test_uapi.IOMMU_TEST_OP_PASID_ATTACH, 2, pasid_attach=fields)


def exchange(iommufd: Iommufd, pt_id: int, pasid: int = 100) -> None:
    """A PASID of the mock device goes elsewhere."""
    fields = {"pasid": pasid, "pt_id": pt_id}
    iommufd.test(test_uapi.IOMMU_TEST_OP_PASID_REPLACE, 2, pasid_replace=fields)


def _with_pasids(iommufd: Iommufd) -> None:
    """The device stands on table 5; PASID 100 on table 6, both for PASIDs. Id 4 is free again."""
    device(iommufd)
    for _ in range(2):
        iommufd.hwpt(DEVICE, 1, uapi.IOMMU_HWPT_ALLOC_PASID)
    replace(iommufd, 5)
    attach(iommufd, 6)


def _in_use(iommufd: Iommufd) -> None:
    device(iommufd)
    iommufd.destroy(4)


def _nested_in_use(iommufd: Iommufd) -> None:
    parent(iommufd)
    replace(iommufd, nested(iommufd))
    iommufd.destroy(6)


def _parent_in_use(iommufd: Iommufd) -> None:
    parent(iommufd)
    for _ in range(3):
        nested(iommufd)
    iommufd.destroy(5)


def _on_nested(iommufd: Iommufd) -> None:
    parent(iommufd)
    nested(iommufd, nested(iommufd))


def _not_a_parent(iommufd: Iommufd) -> None:
    parent(iommufd)
    nested(iommufd, iommufd.hwpt(DEVICE, 1))


def _without_tracking(iommufd: Iommufd) -> None:
    device(iommufd, test_uapi.MOCK_FLAGS_DEVICE_NO_DIRTY)
    iommufd.hwpt(DEVICE, 1, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)


def _cannot_track(iommufd: Iommufd) -> None:
    device(iommufd)
    table = iommufd.hwpt(DEVICE, 1, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    iommufd.mock(table, test_uapi.MOCK_FLAGS_DEVICE_NO_DIRTY)


def _no_pin(iommufd: Iommufd) -> None:
    iommufd.unpin(iommufd.access(iommufd.alloc()), 0)


def _pasid_on_plain(iommufd: Iommufd) -> None:
    """The device's own table, 4, is not for PASIDs."""
    device(iommufd)
    attach(iommufd, iommufd.hwpt(DEVICE, 1, uapi.IOMMU_HWPT_ALLOC_PASID))


def _plain_beside_pasids(iommufd: Iommufd) -> None:
    _with_pasids(iommufd)
    replace(iommufd, iommufd.hwpt(DEVICE, 1))


def _attach_again(iommufd: Iommufd) -> None:
    _with_pasids(iommufd)
    attach(iommufd, 6)


def _attach_to_nested_again(iommufd: Iommufd) -> None:
    _with_pasids(iommufd)
    table = nested(iommufd, iommufd.hwpt(DEVICE, 1, NEST_PARENT), uapi.IOMMU_HWPT_ALLOC_PASID)
    exchange(iommufd, table)
    attach(iommufd, table)


def _exchange_to_plain(iommufd: Iommufd) -> None:
    _with_pasids(iommufd)
    exchange(iommufd, iommufd.hwpt(DEVICE, 1))


def _exchange_nothing(iommufd: Iommufd) -> None:
    _with_pasids(iommufd)
    exchange(iommufd, 6, 200)


def _fails_every_second_time(iommufd: Iommufd) -> None:
    _with_pasids(iommufd)
    attach(iommufd, 6, test_uapi.IOMMU_TEST_PASID_RESERVED)
    exchange(iommufd, 5, test_uapi.IOMMU_TEST_PASID_RESERVED)


def hardware(**fields: int) -> Provoke:
    """What stands before the device."""
    return lambda iommufd: (device(iommufd), do(iommufd, "GET_HW_INFO", **{"dev_id": DEVICE, **fields}))


def _written_nowhere(iommufd: Iommufd) -> None:
    parent(iommufd)
    nested(iommufd, data_uptr=0)


_ALLOC = "IOMMU_HWPT_ALLOC"
_REPLACE = "IOMMU_TEST_CMD MOCK_DOMAIN_REPLACE"
CASES = [
    Case("IOMMU_DESTROY", "EBUSY", "object device 3", _in_use),
    Case("IOMMU_DESTROY", "EBUSY", "object device 3", _nested_in_use),
    Case(
        "IOMMU_DESTROY",
        "EBUSY",
        "object nested page table 6, nested page table 7, nested page table 8",
        _parent_in_use,
    ),
    Case("IOMMU_GET_HW_INFO", "ENOENT", "object 9", hardware(dev_id=9)),
    Case("IOMMU_GET_HW_INFO", "EOPNOTSUPP", "field in_data_type", hardware(flags=1, in_data_type=0xFEEDBEF0)),
    Case(_ALLOC, "ENOENT", "object 9", allocate(dev_id=9)),
    Case(_ALLOC, "ENOENT", "object IOAS 1", allocate(dev_id=1)),
    Case(_ALLOC, "EINVAL", "object device 3", allocate(pt_id=3)),
    Case(_ALLOC, "EINVAL", "object nested page table 6", _on_nested),
    Case(_ALLOC, "EINVAL", "object page table 6", _not_a_parent),
    Case(_ALLOC, "EINVAL", "field data_len", on_parent(data_len=3)),
    Case(_ALLOC, "EINVAL", "field data_len", on_parent(data_type=0)),
    Case(_ALLOC, "EFAULT", "address 0x0", _written_nowhere),
    Case(_ALLOC, "ENOENT", "object 99", on_parent(flags=uapi.IOMMU_HWPT_FAULT_ID_VALID, fault_id=99)),
    Case(_ALLOC, "EOPNOTSUPP", "device iommufd_mock0", _without_tracking),
    Case(_ALLOC, "EOPNOTSUPP", "field flags", allocate(flags=NEST_PARENT | uapi.IOMMU_HWPT_FAULT_ID_VALID)),
    Case(_ALLOC, "EOPNOTSUPP", "field flags", allocate(flags=1 << 31)),
    Case(_ALLOC, "EOPNOTSUPP", "field flags", on_parent(flags=NEST_PARENT)),
    Case(_ALLOC, "EOPNOTSUPP", "field data_type", on_parent(data_type=SELFTEST + 1)),
    Case("IOMMU_TEST_CMD MOCK_DOMAIN_FLAGS", "EINVAL", "device iommufd_mock1", _cannot_track),
    Case(_REPLACE, "ENOENT", "object 9", lambda it: (device(it), replace(it, 9))),
    Case(_REPLACE, "ENOENT", "object 9", lambda it: (device(it), replace(it, 1, 9))),
    Case(_REPLACE, "EINVAL", "object page table 4", _plain_beside_pasids),
    Case("IOMMU_TEST_CMD DESTROY_ACCESS_PAGES", "ENOENT", "object pin 0 of access 2", _no_pin),
    Case("IOMMU_TEST_CMD PASID_ATTACH", "EINVAL", "object page table 4", _pasid_on_plain),
    Case("IOMMU_TEST_CMD PASID_ATTACH", "EBUSY", "object page table 6", _attach_again),
    Case("IOMMU_TEST_CMD PASID_ATTACH", "EBUSY", "object nested page table 7", _attach_to_nested_again),
    Case("IOMMU_TEST_CMD PASID_REPLACE", "EINVAL", "object page table 4", _exchange_to_plain),
    Case("IOMMU_TEST_CMD PASID_REPLACE", "EINVAL", "device iommufd_mock0", _exchange_nothing),
    Case("IOMMU_TEST_CMD PASID_REPLACE", "ENOMEM", "device iommufd_mock0", _fails_every_second_time),
]
