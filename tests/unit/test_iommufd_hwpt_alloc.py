"""IOMMU_HWPT_ALLOC for page tables that the kernel fills."""

from __future__ import annotations

import pytest

from ioas.errors import AddressInUse, BadAddress, InvalidArgument, NotFound, NotSupported
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from tests.support.iommufd import MOCK, PAGE, Iommufd, requester

NEST_PARENT, DIRTY = uapi.IOMMU_HWPT_ALLOC_NEST_PARENT, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING
FAULT, PASID = uapi.IOMMU_HWPT_FAULT_ID_VALID, uapi.IOMMU_HWPT_ALLOC_PASID


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


def test_a_table_carries_what_is_mapped_before_and_after(iommufd: Iommufd, ioas: int) -> None:
    buffer = iommufd.caller.memory.map(2)
    iommufd.map(ioas, buffer, PAGE, iova=0)
    device = iommufd.bind(requester(iommufd.system))
    table = iommufd.hwpt(device.id, ioas)
    assert iommufd.system.memory.held_frames == 1
    iommufd.map(ioas, buffer + PAGE, PAGE, iova=PAGE)
    assert device.attach(table) == table
    assert device.requester.dma.read(0, 2 * PAGE) == bytes(2 * PAGE)


def test_a_table_made_by_hand_stays_until_it_is_destroyed(iommufd: Iommufd, ioas: int) -> None:
    device = iommufd.bind(requester(iommufd.system))
    table = iommufd.hwpt(device.id, ioas)
    device.attach(table)
    device.detach()
    device.attach(table)
    device.detach()
    iommufd.destroy(table)
    with pytest.raises(NotFound):
        device.attach(table)


def test_a_table_that_cannot_be_filled_is_not_made(iommufd: Iommufd, ioas: int) -> None:
    _, _, device = iommufd.mock(iommufd.alloc())
    iommufd.map(ioas, 1 << 31, PAGE, iova=MOCK)
    with pytest.raises(BadAddress):
        iommufd.hwpt(device, ioas)
    iommufd.unmap(ioas)
    iommufd.map(ioas, 1 << 31, PAGE, iova=0)
    with pytest.raises(AddressInUse):
        iommufd.hwpt(device, ioas)
    iommufd.unmap(ioas)
    iommufd.map(ioas, 1 << 31, 100, iova=MOCK)
    with pytest.raises(AddressInUse, match="aligned"):
        iommufd.hwpt(device, ioas)
    iommufd.destroy(ioas)


def test_the_checks_come_in_the_kernels_order(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(NotSupported):
        iommufd.hwpt(99, 99, __reserved=1, data_len=1)
    for kind, length in ((uapi.IOMMU_HWPT_DATA_NONE, 1), (1, 0)):
        with pytest.raises(InvalidArgument):
            iommufd.hwpt(99, 99, data_type=kind, data_len=length)
    with pytest.raises(NotFound):
        iommufd.hwpt(99, 99)
    _, _, device = iommufd.mock(ioas)
    with pytest.raises(NotFound):
        iommufd.hwpt(ioas, device)
    with pytest.raises(InvalidArgument):
        iommufd.hwpt(device, 99, 1 << 10)
    with pytest.raises(InvalidArgument):
        iommufd.hwpt(device, device)
    with pytest.raises(NotSupported):
        iommufd.hwpt(device, ioas, 1 << 10)


def test_a_nesting_parent_has_no_fault_queue(iommufd: Iommufd, ioas: int) -> None:
    _, _, device = iommufd.mock(ioas)
    with pytest.raises(NotSupported):
        iommufd.hwpt(device, ioas, NEST_PARENT | FAULT)


def test_an_unknown_fault_queue_is_found_last(iommufd: Iommufd, ioas: int) -> None:
    _, _, device = iommufd.mock(ioas)
    with pytest.raises(NotFound, match="fault queue"):
        iommufd.hwpt(device, ioas, FAULT, fault_id=99)
    assert iommufd.alloc() == 5


@pytest.mark.parametrize("flags", [NEST_PARENT, DIRTY, PASID, NEST_PARENT | DIRTY | PASID])
def test_the_mock_unit_makes_every_kind_of_paging_table(iommufd: Iommufd, ioas: int, flags: int) -> None:
    _, _, device = iommufd.mock(ioas)
    iommufd.destroy(iommufd.hwpt(device, ioas, flags))


def test_a_unit_makes_only_what_it_can(iommufd: Iommufd, ioas: int) -> None:
    device = iommufd.bind(requester(iommufd.system))
    for flags in (NEST_PARENT, DIRTY):
        with pytest.raises(NotSupported):
            iommufd.hwpt(device.id, ioas, flags)
    with pytest.raises(NotSupported, match="data"):
        iommufd.hwpt(device.id, ioas, data_type=1, data_len=8)


def test_a_device_that_hinders_dirty_tracking_takes_no_table_with_it(iommufd: Iommufd, ioas: int) -> None:
    _, _, able = iommufd.mock(ioas)
    _, _, unable = iommufd.mock(ioas, test_uapi.MOCK_FLAGS_DEVICE_NO_DIRTY)
    with pytest.raises(NotSupported):
        iommufd.hwpt(unable, ioas, DIRTY)
    table = iommufd.hwpt(able, ioas, DIRTY)
    with pytest.raises(InvalidArgument):
        iommufd.mock(table, test_uapi.MOCK_FLAGS_DEVICE_NO_DIRTY)


def test_an_automatic_table_is_no_parent(iommufd: Iommufd, ioas: int) -> None:
    _, table, device = iommufd.mock(ioas)
    with pytest.raises(InvalidArgument, match="NEST_PARENT"):
        iommufd.hwpt(device, table, data_type=test_uapi.IOMMU_HWPT_DATA_SELFTEST, data_len=8)


def test_an_automatic_table_is_not_taken_by_hand_made_ones(iommufd: Iommufd, ioas: int) -> None:
    """And automatic attaching never picks a table made by hand (iommufd_device_auto_get_domain)."""
    _, _, device = iommufd.mock(ioas)
    by_hand = iommufd.hwpt(device, ioas)
    _, automatic, _ = iommufd.mock(ioas)
    assert automatic != by_hand


def selftest_data(iommufd: Iommufd, kind: int) -> int:
    place = iommufd.caller.memory.map(1)
    iommufd.caller.memory.write(place, bytes(test_uapi.iommu_hwpt_selftest(iotlb=1, pagetable_type=kind)))
    return place


def test_the_mock_unit_takes_the_selftests_data(iommufd: Iommufd, ioas: int) -> None:
    _, _, device = iommufd.mock(iommufd.alloc())
    data = {"data_type": test_uapi.IOMMU_HWPT_DATA_SELFTEST, "data_uptr": selftest_data(iommufd, 1)}
    iommufd.hwpt(device, ioas, data_len=8, **data)
    assert iommufd.ranges(ioas)[1] == PAGE
    with pytest.raises(InvalidArgument):
        iommufd.hwpt(device, ioas, data_len=3, **data)
    with pytest.raises(BadAddress):
        iommufd.hwpt(device, ioas, data_len=8, **{**data, "data_uptr": 0})
    with pytest.raises(NotSupported):
        iommufd.hwpt(device, ioas, data_len=8, **{**data, "data_type": 1})
    with pytest.raises(NotSupported):
        iommufd.hwpt(device, ioas, data_len=8, **{**data, "data_uptr": selftest_data(iommufd, 2)})
