"""Dirty tracking: what devices write is reported once, by page, and reading the bitmap makes pages clean."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ioas.errors import InvalidArgument, NotSupported
from ioas.soft.iommu import Requester, System, amd_unit
from ioas.soft.iommufd import Device
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from tests.support.iommufd import MOCK, PAGE, Iommufd

NO_CLEAR = uapi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
PAGES = 64


class Tracked:
    """A mock device attached to a table that tracks, with `PAGES` pages of memory at the start of its aperture."""

    def __init__(self, flags: int = uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, **data: int) -> None:
        self.iommufd = Iommufd()
        self.ioas = self.iommufd.alloc()
        _, _, self.device = self.iommufd.mock(self.ioas)
        self.memory = self.iommufd.caller.memory.map(PAGES)
        self.iommufd.map(self.ioas, self.memory, PAGES * PAGE, MOCK)
        self.table = self.iommufd.hwpt(self.device, self.ioas, flags, **data)
        self.place = self.iommufd.caller.memory.map(4)

    def track(self, on: bool = True) -> None:
        self.iommufd.call(
            uapi.IOMMU_HWPT_SET_DIRTY_TRACKING,
            uapi.iommu_hwpt_set_dirty_tracking(hwpt_id=self.table, flags=int(on)),
        )

    def write(self, *pages: int) -> int:
        """As if the device had written to pages; how many the test module says that were marked."""
        bits = sum(1 << page for page in pages).to_bytes(PAGES // 8, "little")
        self.iommufd.caller.memory.write(self.place, bits)
        dirty = {"iova": MOCK, "length": PAGES * PAGE, "page_size": PAGE, "uptr": self.place}
        return self.iommufd.test(test_uapi.IOMMU_TEST_OP_DIRTY, self.table, dirty=dirty).dirty.out_nr_dirty

    def read(
        self, iova: int = MOCK, length: int = PAGES * PAGE, page_size: int = PAGE, flags: int = 0, at: int = PAGE
    ) -> set[int]:
        """The bits that are set in a bitmap, `at` bytes into some memory that was clear."""
        memory, size = self.iommufd.caller.memory, length // page_size // 8 + 1
        memory.write(self.place + at, bytes(size))
        command = uapi.iommu_hwpt_get_dirty_bitmap(
            hwpt_id=self.table, flags=flags, iova=iova, length=length, page_size=page_size, data=self.place + at
        )
        self.iommufd.call(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, command)
        bits = int.from_bytes(memory.read(self.place + at, size), "little")
        return {bit for bit in range(size * 8) if bits >> bit & 1}


@pytest.mark.parametrize("iova", [(1 << 64) - PAGE, 1 << 63])
def test_pages_marked_beyond_all_tables_count_and_are_passed_over(iova: int) -> None:
    tracked = Tracked()
    tracked.track()
    tracked.iommufd.caller.memory.write(tracked.place, b"\xff")
    dirty = {"iova": iova, "length": 2 * PAGE, "page_size": PAGE, "uptr": tracked.place}
    done = tracked.iommufd.test(test_uapi.IOMMU_TEST_OP_DIRTY, tracked.table, dirty=dirty)
    assert done.dirty.out_nr_dirty == 2
    assert tracked.read() == set()


def test_written_pages_are_reported_once() -> None:
    tracked = Tracked()
    tracked.track()
    assert tracked.write(0, 3, 4, 63) == 4
    assert tracked.read(flags=NO_CLEAR) == {0, 3, 4, 63}
    assert tracked.read() == {0, 3, 4, 63}
    assert tracked.read() == set()


def test_turning_tracking_on_makes_every_page_clean() -> None:
    tracked = Tracked()
    tracked.track()
    tracked.write(1, 2)
    tracked.track(False)
    tracked.track()
    assert tracked.read() == set()


def test_a_bitmap_may_begin_anywhere_and_have_other_pages_than_the_table() -> None:
    tracked = Tracked()
    tracked.track()
    tracked.write(5)
    assert tracked.read(at=4093, flags=NO_CLEAR) == {5}
    assert tracked.read(page_size=2048, flags=NO_CLEAR) == {10, 11}
    assert tracked.read(page_size=8 * PAGE, flags=NO_CLEAR) == {0}
    assert tracked.read(MOCK + 4 * PAGE, 8 * PAGE) == {1}


def test_the_bitmap_keeps_what_was_set_in_it() -> None:
    tracked = Tracked()
    tracked.track()
    tracked.write(1)
    memory = tracked.iommufd.caller.memory
    memory.write(tracked.place + PAGE, b"\xf0")
    command = uapi.iommu_hwpt_get_dirty_bitmap(
        hwpt_id=tracked.table, iova=MOCK, length=8 * PAGE, page_size=PAGE, data=tracked.place + PAGE
    )
    tracked.iommufd.call(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, command)
    assert memory.read(tracked.place + PAGE, 1) == b"\xf2"


def test_nothing_behind_a_hole_is_looked_at() -> None:
    tracked = Tracked()
    tracked.track()
    tracked.write(0, 63)
    tracked.iommufd.unmap(tracked.ioas)
    tracked.iommufd.map(tracked.ioas, tracked.memory, PAGE, MOCK)
    tracked.iommufd.map(tracked.ioas, tracked.memory + 2 * PAGE, PAGE, MOCK + 2 * PAGE)
    tracked.write(0, 2)
    assert tracked.read(length=4 * PAGE) == {0}
    assert tracked.read(MOCK + 2 * PAGE, PAGE) == {0}


def test_a_bitmap_without_memory_is_no_error_and_the_bits_are_lost() -> None:
    tracked = Tracked()
    tracked.track()
    tracked.write(7)
    nowhere = uapi.iommu_hwpt_get_dirty_bitmap(
        hwpt_id=tracked.table, iova=MOCK, length=PAGES * PAGE, page_size=PAGE, data=1 << 46
    )
    tracked.iommufd.call(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, nowhere)
    assert tracked.read() == set()


def test_a_table_that_was_not_made_for_it_does_not_track() -> None:
    tracked = Tracked(flags=0)
    with pytest.raises(NotSupported, match="DIRTY_TRACKING"):
        tracked.track()
    with pytest.raises(InvalidArgument):
        tracked.write(0)


def test_tracking_is_on_only_when_nobody_writes_untracked_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that has begun before may land until then, and is no news afterwards."""
    system = System()
    unit = amd_unit(system)
    requester = Requester(system, "0000:01:00.0", unit, system.add_group())
    iommufd = Iommufd(system)
    ioas = iommufd.alloc()
    device = Device.bind(iommufd.context, requester)
    table = iommufd.hwpt(device.id, ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    device.attach(table)
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0x100000)
    under_way, go_on = threading.Event(), threading.Event()
    scatter = system.memory.scatter

    def slow(*arguments: Any) -> None:
        under_way.set()
        go_on.wait(10)
        scatter(*arguments)

    monkeypatch.setattr(system.memory, "scatter", slow)
    writer = threading.Thread(target=requester.dma.write, args=(0x100000, b"late"))
    writer.start()
    assert under_way.wait(10)
    command = uapi.iommu_hwpt_set_dirty_tracking(hwpt_id=table, flags=1)
    tracker = threading.Thread(target=iommufd.call, args=(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, command))
    tracker.start()
    tracker.join(0.2)
    assert tracker.is_alive(), "it waits for the transfer"
    go_on.set()
    tracker.join(10)
    writer.join(10)
    assert not tracker.is_alive()


def test_what_a_device_writes_by_dma_is_dirty_and_what_it_reads_is_not() -> None:
    system = System()
    unit = amd_unit(system)
    requester = Requester(system, "0000:01:00.0", unit, system.add_group())
    iommufd = Iommufd(system)
    ioas = iommufd.alloc()
    device = Device.bind(iommufd.context, requester)
    table = iommufd.hwpt(device.id, ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    device.attach(table)
    iommufd.map(ioas, iommufd.caller.memory.map(16), 16 * PAGE, 0x100000)
    domain = requester.domain
    assert domain is not None

    def dirty() -> set[int]:
        place = iommufd.caller.memory.map(1)
        command = uapi.iommu_hwpt_get_dirty_bitmap(
            hwpt_id=table, iova=0x100000, length=16 * PAGE, page_size=PAGE, data=place
        )
        iommufd.call(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, command)
        bits = int.from_bytes(iommufd.caller.memory.read(place, 2), "little")
        return {bit for bit in range(16) if bits >> bit & 1}

    assert requester.dma.write(0x100000, b"before")
    iommufd.call(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommu_hwpt_set_dirty_tracking(hwpt_id=table, flags=1))
    assert dirty() == set()
    for _ in range(2):  # the second time through a translation that was cached as dirty, and then cleaned
        assert requester.dma.write(0x102FFE, b"over the border")
        assert requester.dma.read(0x108000, 8) == bytes(8)
        assert dirty() == {2, 3}
    assert not requester.dma.write(0x10FFFE, b"over the end")
    assert dirty() == {15}, "what stands before the fault was written"
