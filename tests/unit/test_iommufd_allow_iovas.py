"""IOMMU_IOAS_ALLOW_IOVAS: what is promised, and who may not break the promise."""

from __future__ import annotations

import pytest

from ioas.errors import AddressInUse, BadAddress, InvalidArgument, NoSpace, NotFound
from ioas.uapi import iommufd as uapi
from tests.support.iommufd import MOCK, PAGE, Iommufd


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


@pytest.mark.parametrize(
    "ranges", [[(8, 8)], [(9, 8)], [(0, 10), (10, 20)], [(100, 200), (0, 1000)], [(0, 10), (5, 6)]], ids=str
)
def test_ranges_are_not_empty_and_do_not_overlap(iommufd: Iommufd, ioas: int, ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidArgument):
        iommufd.allow(ioas, ranges)


def test_a_failed_replacement_leaves_the_old_ranges(iommufd: Iommufd, ioas: int) -> None:
    buffer = iommufd.caller.memory.map(1)
    iommufd.allow(ioas, [(0x10_0000, 0x1F_FFFF)])
    with pytest.raises(InvalidArgument):
        iommufd.allow(ioas, [(0x20_0000, 0x2F_FFFF), (7, 6)])
    assert iommufd.map(ioas, buffer, PAGE) == 0x10_0000


def test_an_allowed_range_cannot_be_reserved_and_a_reserved_one_cannot_be_allowed(iommufd: Iommufd, ioas: int) -> None:
    iommufd.allow(ioas, [(0x1000, 0x1FFF)])
    with pytest.raises(AddressInUse, match="0x1000-0x1fff"):
        iommufd.reserve(ioas, 0x1800, 0x1000)
    iommufd.allow(ioas, [])
    iommufd.reserve(ioas, 0x1800, 0x1000)
    with pytest.raises(AddressInUse, match="test"):
        iommufd.allow(ioas, [(0x1000, 0x1FFF)])


def test_an_allowed_range_keeps_a_device_out_that_cannot_reach_it(iommufd: Iommufd, ioas: int) -> None:
    iommufd.allow(ioas, [(0, 0xFFFF)])
    with pytest.raises(AddressInUse, match="aperture"):
        iommufd.mock(ioas)
    iommufd.allow(ioas, [(MOCK, MOCK + 0xFFFF)])
    iommufd.mock(ioas)


def test_automatic_iova_comes_from_the_allowed_ranges_alone(iommufd: Iommufd, ioas: int) -> None:
    buffer = iommufd.caller.memory.map(3)
    iommufd.allow(ioas, [(0x30_0000, 0x30_1FFF), (0x10_0000, 0x10_0FFF)])
    assert [iommufd.map(ioas, buffer, PAGE) for _ in range(3)] == [0x10_0000, 0x30_0000, 0x30_1000]
    with pytest.raises(NoSpace, match="allowed"):
        iommufd.map(ioas, buffer, PAGE)


def test_touching_ranges_are_one(iommufd: Iommufd, ioas: int) -> None:
    buffer = iommufd.caller.memory.map(2)
    iommufd.allow(ioas, [(0x10_1000, 0x10_1FFF), (0x10_0000, 0x10_0FFF)])
    assert iommufd.map(ioas, buffer, 2 * PAGE) == 0x10_0000


def test_a_fixed_iova_may_lie_outside(iommufd: Iommufd, ioas: int) -> None:
    buffer = iommufd.caller.memory.map(1)
    iommufd.allow(ioas, [(0x10_0000, 0x1F_FFFF)])
    assert iommufd.map(ioas, buffer, PAGE, iova=0x70_0000) == 0x70_0000


def test_a_long_list_is_read_whole(iommufd: Iommufd, ioas: int) -> None:
    memory = iommufd.caller.memory
    place = memory.map(3)
    count = 3 * PAGE // 16
    ranges = [uapi.iommu_iova_range(start=index << 20, last=(index << 20) + 99) for index in range(count)]
    memory.write(place, b"".join(map(bytes, reversed(ranges))))
    command = uapi.iommu_ioas_allow_iovas(ioas_id=ioas, num_iovas=count, allowed_iovas=place)
    iommufd.call(uapi.IOMMU_IOAS_ALLOW_IOVAS, command)
    with pytest.raises(AddressInUse):
        iommufd.reserve(ioas, (count - 1) << 20, 1)


def test_each_range_is_checked_before_the_next_is_read(iommufd: Iommufd, ioas: int) -> None:
    memory = iommufd.caller.memory
    place = memory.map(1) + PAGE - 16
    memory.write(place, bytes(uapi.iommu_iova_range(start=5, last=9)))
    command = uapi.iommu_ioas_allow_iovas(ioas_id=ioas, num_iovas=2, allowed_iovas=place)
    with pytest.raises(BadAddress):
        iommufd.call(uapi.IOMMU_IOAS_ALLOW_IOVAS, command)
    memory.write(place, bytes(uapi.iommu_iova_range(start=9, last=5)))
    with pytest.raises(InvalidArgument):
        iommufd.call(uapi.IOMMU_IOAS_ALLOW_IOVAS, command)


def test_an_unknown_ioas_is_not_found(iommufd: Iommufd) -> None:
    with pytest.raises(NotFound):
        iommufd.allow(99, [])
