"""IOMMU_IOAS_UNMAP: whole areas, and accesses that let go or do not."""

from __future__ import annotations

import pytest

from ioas.errors import Busy, Deadlock, InvalidArgument, NotFound, Overflow
from ioas.soft.iommufd import Access
from ioas.soft.iommufd.ioas import Ioas
from tests.support.iommufd import EVERYTHING, MOCK, PAGE, Iommufd, requester

VA = 1 << 31


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


def test_everything_of_an_empty_ioas_is_nothing(iommufd: Iommufd, ioas: int) -> None:
    assert iommufd.unmap(ioas) == 0


def test_a_range_with_nothing_in_it_is_not_found(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(NotFound):
        iommufd.unmap(ioas, 0, PAGE)
    with pytest.raises(NotFound):
        iommufd.unmap(99)


def test_all_ones_overflows_unless_it_means_everything(iommufd: Iommufd, ioas: int) -> None:
    for iova, length in ((1, EVERYTHING), (EVERYTHING, 1), (EVERYTHING - 1, 3)):
        with pytest.raises(Overflow):
            iommufd.unmap(ioas, iova, length)


def test_no_bytes_are_invalid(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(InvalidArgument):
        iommufd.unmap(ioas, PAGE, 0)


@pytest.mark.parametrize(("first", "pages"), [(16, 1), (17, 1), (15, 2), (17, 3), (10, 7)])
def test_an_area_goes_whole_or_not_at_all(iommufd: Iommufd, ioas: int, first: int, pages: int) -> None:
    iommufd.map(ioas, VA, 2 * PAGE, iova=16 * PAGE)
    with pytest.raises(NotFound):
        iommufd.unmap(ioas, first * PAGE, pages * PAGE)
    assert iommufd.unmap(ioas) == 2 * PAGE


def test_the_bytes_of_all_areas_in_the_range_come_back(iommufd: Iommufd, ioas: int) -> None:
    for index in range(4):
        iommufd.map(ioas, VA, 8 * PAGE, iova=(4 + 16 * index) * PAGE)
    assert iommufd.unmap(ioas, 0, 60 * PAGE) == 4 * 8 * PAGE


def test_what_stands_before_an_area_that_is_cut_is_gone(iommufd: Iommufd, ioas: int) -> None:
    iommufd.map(ioas, VA, PAGE, iova=PAGE)
    iommufd.map(ioas, VA, 2 * PAGE, iova=4 * PAGE)
    with pytest.raises(NotFound, match="0x4000-0x5fff"):
        iommufd.unmap(ioas, 0, 5 * PAGE)
    assert iommufd.unmap(ioas) == 2 * PAGE


def test_no_dma_reaches_what_was_unmapped(iommufd: Iommufd, ioas: int) -> None:
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    buffer = iommufd.caller.memory.map(2)
    iommufd.map(ioas, buffer, PAGE, iova=0)
    iommufd.map(ioas, buffer + PAGE, PAGE, iova=PAGE)
    assert device.requester.dma.write(PAGE - 2, b"four")
    iommufd.unmap(ioas, 0, PAGE)
    assert not device.requester.dma.write(PAGE - 2, b"four")
    assert device.requester.dma.write(PAGE, b"still")
    assert iommufd.system.memory.held_frames == 1


def test_two_domains_lose_it_together(iommufd: Iommufd, ioas: int) -> None:
    devices = [iommufd.bind(requester(iommufd.system, f"0000:0{n}:00.0")) for n in (1, 2)]
    devices[0].attach(ioas)
    devices[1].attach(iommufd.hwpt(devices[1].id, ioas))
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, iova=0)
    assert all(device.requester.dma.read(0, 1) == b"\0" for device in devices)
    iommufd.unmap(ioas)
    assert not any(device.requester.dma.read(0, 1) for device in devices)


def test_accesses_are_asked_to_let_go(iommufd: Iommufd, ioas: int) -> None:
    buffer = iommufd.caller.memory.map(4)
    iommufd.map(ioas, buffer, 4 * PAGE, MOCK)
    fd = iommufd.access(ioas)
    pin = iommufd.pin(fd, MOCK, 4 * PAGE, buffer)
    iommufd.unmap(ioas, MOCK, 4 * PAGE)
    with pytest.raises(NotFound):
        iommufd.unpin(fd, pin)
    assert iommufd.system.memory.held_frames == 0


def test_an_access_that_does_not_let_go_is_a_deadlock(iommufd: Iommufd, ioas: int) -> None:
    asked: list[tuple[int, int]] = []
    access = Access(iommufd.context, lambda iova, length: asked.append((iova, length)), pins=True)
    access.attach(ioas)
    iommufd.map(ioas, iommufd.caller.memory.map(2), 2 * PAGE, MOCK)
    access.pin_pages(MOCK, PAGE, write=False)
    with pytest.raises(Deadlock):
        iommufd.unmap(ioas, MOCK, 2 * PAGE)
    assert set(asked) == {(MOCK, 2 * PAGE)}
    with pytest.raises(InvalidArgument, match="being unmapped"):
        access.pin_pages(MOCK, PAGE, write=False)
    access.unpin_pages(MOCK, PAGE)
    assert iommufd.unmap(ioas) == 2 * PAGE


def test_a_locked_area_is_busy(iommufd: Iommufd, ioas: int) -> None:
    iommufd.map(ioas, VA, PAGE, iova=PAGE)
    iommufd.map(ioas, VA, PAGE, iova=2 * PAGE)
    area = iommufd.context.objects.get(ioas, Ioas).iopt.areas.at(2 * PAGE)
    assert area is not None
    area.locks = 1
    with pytest.raises(Busy):
        iommufd.unmap(ioas)
    area.locks = 0
    assert iommufd.unmap(ioas) == PAGE
