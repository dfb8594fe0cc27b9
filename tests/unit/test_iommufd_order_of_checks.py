"""The order in which commands on tables, queues and vIOMMUs check their arguments is that of 7.3."""

from __future__ import annotations

import pytest

from ioas.errors import InvalidArgument, KernelError, NotFound, NotPermitted, NotSupported, Overflow
from ioas.host import Capability
from ioas.uapi import iommufd as uapi
from ioas.uapi.base import Struct
from tests.support.caller import FakeCaller
from tests.support.iommufd import EVERYTHING, MOCK, PAGE, Iommufd

BITMAP = uapi.IOMMU_HWPT_GET_DIRTY_BITMAP
SET_DIRTY = uapi.IOMMU_HWPT_SET_DIRTY_TRACKING
INVALIDATE = uapi.IOMMU_HWPT_INVALIDATE
VIOMMU, VDEVICE = uapi.IOMMU_VIOMMU_ALLOC, uapi.IOMMU_VDEVICE_ALLOC
VEVENTQ, HW_QUEUE = uapi.IOMMU_VEVENTQ_ALLOC, uapi.IOMMU_HW_QUEUE_ALLOC
IOAS, MOCK_OBJECT, DEVICE, TABLE = 1, 2, 3, 4


@pytest.fixture
def iommufd() -> Iommufd:
    """With an IOAS (1) and a mock device (2, 3) attached to it (4)."""
    iommufd = Iommufd()
    assert iommufd.mock(iommufd.alloc()) == (MOCK_OBJECT, TABLE, DEVICE)
    return iommufd


def bitmap(**fields: int) -> uapi.iommu_hwpt_get_dirty_bitmap:
    """A good question, changed by `fields`."""
    good = {"hwpt_id": TABLE, "iova": MOCK, "length": PAGE, "page_size": 2048, "data": MOCK}
    return uapi.iommu_hwpt_get_dirty_bitmap(**{**good, **fields})


CASES: list[tuple[int, Struct, type[KernelError]]] = [
    (SET_DIRTY, uapi.iommu_hwpt_set_dirty_tracking(flags=2, hwpt_id=99), NotSupported),
    (SET_DIRTY, uapi.iommu_hwpt_set_dirty_tracking(flags=1, hwpt_id=IOAS), NotFound),
    (SET_DIRTY, uapi.iommu_hwpt_set_dirty_tracking(flags=1, hwpt_id=TABLE), NotSupported),
    (BITMAP, bitmap(hwpt_id=99, flags=2), NotSupported),
    (BITMAP, bitmap(hwpt_id=99, length=0), NotFound),
    (BITMAP, bitmap(length=0), InvalidArgument),
    (BITMAP, bitmap(iova=EVERYTHING, length=2), Overflow),
    (BITMAP, bitmap(iova=MOCK + 1024), InvalidArgument),
    (BITMAP, bitmap(length=1024), InvalidArgument),
    (BITMAP, bitmap(page_size=0), InvalidArgument),
    (BITMAP, bitmap(page_size=8192), InvalidArgument),
    (BITMAP, bitmap(), NotSupported),
    (uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommu_fault_alloc(flags=1), NotSupported),
    (VIOMMU, uapi.iommu_viommu_alloc(flags=1, type=1, dev_id=99), NotSupported),
    (VIOMMU, uapi.iommu_viommu_alloc(type=0, dev_id=99), NotSupported),
    (VIOMMU, uapi.iommu_viommu_alloc(type=1, dev_id=99), NotFound),
    (VIOMMU, uapi.iommu_viommu_alloc(type=1, dev_id=DEVICE), NotSupported),
    (VDEVICE, uapi.iommu_vdevice_alloc(viommu_id=99, dev_id=99), NotFound),
    (VEVENTQ, uapi.iommu_veventq_alloc(flags=1, veventq_depth=0), NotSupported),
    (VEVENTQ, uapi.iommu_veventq_alloc(type=0, veventq_depth=0), NotSupported),
    (VEVENTQ, uapi.iommu_veventq_alloc(type=1, veventq_depth=0), InvalidArgument),
    (VEVENTQ, uapi.iommu_veventq_alloc(type=1, veventq_depth=(1 << 19) + 1), InvalidArgument),
    (VEVENTQ, uapi.iommu_veventq_alloc(type=1, veventq_depth=1 << 19), NotFound),
    (HW_QUEUE, uapi.iommu_hw_queue_alloc(flags=1), NotSupported),
    (HW_QUEUE, uapi.iommu_hw_queue_alloc(type=0, length=0), NotSupported),
    (HW_QUEUE, uapi.iommu_hw_queue_alloc(type=1, length=0), InvalidArgument),
    (HW_QUEUE, uapi.iommu_hw_queue_alloc(type=1, length=2, nesting_parent_iova=EVERYTHING), Overflow),
    (HW_QUEUE, uapi.iommu_hw_queue_alloc(type=1, length=2), NotFound),
]


@pytest.mark.parametrize(("request_number", "command", "error"), CASES, ids=lambda value: repr(value)[:90])
def test_the_first_thing_wrong_is_what_is_said(
    iommufd: Iommufd, request_number: int, command: Struct, error: type[KernelError]
) -> None:
    with pytest.raises(error):
        iommufd.call(request_number, command)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"__reserved": 1, "hwpt_id": 99}, NotSupported),
        ({"hwpt_id": 99}, NotFound),
        ({"hwpt_id": TABLE, "entry_num": 0, "data_uptr": 0}, InvalidArgument),
        ({"hwpt_id": 99, "data_uptr": 0}, InvalidArgument),
        ({"hwpt_id": 99, "entry_len": 0}, InvalidArgument),
        ({"hwpt_id": 99, "entry_len": PAGE + 1}, InvalidArgument),
        ({"hwpt_id": 99, "entry_num": (1 << 19) + 1}, InvalidArgument),
        ({"hwpt_id": TABLE}, InvalidArgument),
    ],
    ids=str,
)
def test_a_failed_invalidation_says_that_no_entry_was_handled(
    iommufd: Iommufd, fields: dict[str, int], error: type[KernelError]
) -> None:
    command = uapi.iommu_hwpt_invalidate(**{"data_uptr": PAGE, "entry_len": 8, "entry_num": 3, **fields})
    with pytest.raises(error):
        iommufd.call(INVALIDATE, command)
    assert command.entry_num == 0


def get_pa(iommufd: Iommufd, caller: FakeCaller | None = None, **fields: int) -> None:
    iommufd.call(uapi.IOMMU_IOAS_NOIOMMU_GET_PA, uapi.iommu_ioas_noiommu_get_pa(**fields), caller)


def test_physical_addresses_are_for_sys_rawio_and_for_devices_without_an_iommu(iommufd: Iommufd) -> None:
    with pytest.raises(NotPermitted):
        get_pa(iommufd, FakeCaller([Capability.SYS_ADMIN]), flags=1)
    with pytest.raises(NotSupported):
        get_pa(iommufd, flags=1)
    with pytest.raises(InvalidArgument):
        get_pa(iommufd, ioas_id=99)
    with pytest.raises(Overflow):
        get_pa(iommufd, ioas_id=99, length=1, iova=EVERYTHING)
    with pytest.raises(NotFound, match="IOAS"):
        get_pa(iommufd, ioas_id=99, length=1)
    with pytest.raises(NotFound, match="mapped"):
        get_pa(iommufd, ioas_id=IOAS, length=1, iova=MOCK)
    iommufd.map(IOAS, iommufd.caller.memory.map(1), PAGE, MOCK)
    with pytest.raises(NotSupported):
        get_pa(iommufd, ioas_id=IOAS, length=1, iova=MOCK)
