"""Page tables: made by hand or on attaching; what they are asked to be able to do, where the host can."""

from __future__ import annotations

import ctypes
import select
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from ioas.api import Device, Hwpt, Ioas, Iommufd
from ioas.errors import Busy, InvalidArgument, NotFound, NotSupported
from ioas.host import PAGE_SIZE
from ioas.testing.suite.edu import IOVA, Edu
from ioas.uapi.iommufd import (
    IOMMU_HW_CAP_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC,
    iommu_hwpt_alloc,
)

T = TypeVar("T")


@pytest.fixture
def table(ioas_iommufd: Iommufd, ioas_device: Device, ioas_space: Ioas) -> Iterator[Hwpt]:
    """A page table made by hand."""
    with ioas_iommufd.hwpt(ioas_device, ioas_space) as table:
        yield table


def hwpt_alloc(iommufd: Iommufd, device: int, target: int) -> int:
    """IOMMU_HWPT_ALLOC of ids; the id of the table."""
    command = iommu_hwpt_alloc(size=ctypes.sizeof(iommu_hwpt_alloc), dev_id=device, pt_id=target)
    iommufd.ioctl(IOMMU_HWPT_ALLOC, command)
    return int(command.out_hwpt_id)


def test_attaching_to_a_space_makes_a_table_that_goes_with_the_last_device(
    ioas_iommufd: Iommufd, ioas_device: Device, ioas_space: Ioas
) -> None:
    table = ioas_device.attach(ioas_space)
    assert table not in (ioas_space.id, ioas_device.id)
    ioas_device.detach()
    with pytest.raises(NotFound):
        ioas_iommufd.destroy(table)


def test_a_table_made_by_hand_stays_until_it_is_destroyed(ioas_device: Device, ioas_space: Ioas, table: Hwpt) -> None:
    assert ioas_device.attach(table) == table.id
    with pytest.raises(Busy):
        table.close()
    ioas_device.detach()
    assert ioas_device.attach(table) == table.id
    ioas_device.attach(ioas_space)


def test_a_space_cannot_go_before_its_tables(ioas_device: Device, ioas_iommufd: Iommufd) -> None:
    with ioas_iommufd.ioas() as space, ioas_iommufd.hwpt(ioas_device, space), pytest.raises(Busy):
        ioas_iommufd.destroy(space.id)


def test_a_table_holds_what_its_space_maps(ioas_device: Device, ioas_space: Ioas, table: Hwpt) -> None:
    with ioas_space.alloc(PAGE_SIZE, iova=IOVA):
        ioas_device.attach(table)
        with ioas_space.alloc(PAGE_SIZE, iova=IOVA + PAGE_SIZE):
            pass
    ioas_device.attach(ioas_space)


def test_a_table_is_made_for_a_device_and_of_a_space(ioas_device: Device, ioas_space: Ioas) -> None:
    iommufd = ioas_space.iommufd
    with pytest.raises(NotFound):
        hwpt_alloc(iommufd, ioas_space.id, ioas_space.id)
    with pytest.raises(InvalidArgument):
        hwpt_alloc(iommufd, ioas_device.id, ioas_device.id)
    with pytest.raises(InvalidArgument):  # and not ENOENT, as everywhere else
        hwpt_alloc(iommufd, ioas_device.id, 0xFFFF_FFF0)


def test_detaching_twice_is_nothing(ioas_device: Device, ioas_space: Ioas) -> None:
    ioas_device.detach()
    ioas_device.detach()
    ioas_device.attach(ioas_space)


def test_hw_info_tells_the_kind_of_unit(ioas_device: Device) -> None:
    info = ioas_device.hw_info()
    assert bool(info.data) == bool(info.type)
    assert 0 <= info.max_pasid_log2 <= 20


def made(make: Callable[[], T]) -> T:
    """What the unit can do; skips where it cannot."""
    try:
        return make()
    except NotSupported as error:
        pytest.skip(str(error))


def test_dirty_tracking_is_had_where_the_unit_says_so(ioas_device: Device, ioas_space: Ioas) -> None:
    claimed = bool(ioas_device.hw_info().capabilities & IOMMU_HW_CAP_DIRTY_TRACKING)
    try:
        ioas_space.iommufd.hwpt(ioas_device, ioas_space, dirty=True).close()
    except NotSupported:
        assert not claimed
    else:
        assert claimed


def test_written_pages_are_told_once(edu: Edu, ioas_space: Ioas) -> None:
    with made(lambda: ioas_space.iommufd.hwpt(edu.device, ioas_space, dirty=True)) as table:
        edu.device.attach(table)
        with ioas_space.alloc(4 * PAGE_SIZE, writable=True, iova=IOVA):
            table.track_dirty(True)
            assert table.dirty(IOVA, 4 * PAGE_SIZE) == b"\0"
            edu.store(IOVA + 2 * PAGE_SIZE, 16)
            edu.load(IOVA, 16)
            assert table.dirty(IOVA, 4 * PAGE_SIZE, clear=False) == b"\4"
            assert table.dirty(IOVA, 4 * PAGE_SIZE) == b"\4"
            assert table.dirty(IOVA, 4 * PAGE_SIZE) == b"\0"
            table.track_dirty(False)
        edu.device.attach(ioas_space)


def test_a_table_that_does_not_track_writes_says_so(table: Hwpt) -> None:
    with pytest.raises(NotSupported):
        table.track_dirty(True)


def test_a_table_that_others_can_stand_on_can_be_attached(ioas_device: Device, ioas_space: Ioas) -> None:
    with made(lambda: ioas_space.iommufd.hwpt(ioas_device, ioas_space, nest_parent=True)) as table:
        assert ioas_device.attach(table) == table.id
        ioas_device.attach(ioas_space)


def test_a_pasid_has_an_attachment_of_its_own(ioas_device: Device, ioas_space: Ioas) -> None:
    """Of a device without PASIDs, too: it cannot send any, so nothing has to be set up (iommu_attach_device_pasid)."""
    with made(lambda: ioas_space.iommufd.hwpt(ioas_device, ioas_space, pasid=True)) as table:
        ioas_device.attach(table)
        assert ioas_device.attach(table, pasid=1) == table.id
        with pytest.raises(InvalidArgument):  # while there is a PASID, the others' table has to go with it
            ioas_device.attach(ioas_space)
        ioas_device.detach(pasid=1)
        ioas_device.detach(pasid=1)
        ioas_device.attach(ioas_space)


def test_a_pasid_wants_a_table_that_was_made_for_it(ioas_device: Device, ioas_space: Ioas, table: Hwpt) -> None:
    ioas_device.attach(table)
    with pytest.raises(InvalidArgument):
        ioas_device.attach(table, pasid=1)
    ioas_device.attach(ioas_space)


def test_a_fault_queue_is_an_object_and_a_file(ioas_iommufd: Iommufd) -> None:
    with made(ioas_iommufd.fault_queue) as queue:
        assert select.select([queue], [], [], 0)[0] == []
        assert queue.pending() == []
        with pytest.raises(InvalidArgument):
            queue.respond(1, resolved=True)
        number = queue.id
    with pytest.raises(NotFound):
        ioas_iommufd.destroy(number)
