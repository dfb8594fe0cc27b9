"""IOMMU_IOAS_ALLOC and IOMMU_IOAS_IOVA_RANGES."""

from __future__ import annotations

import pytest

from ioas.errors import BadAddress, MessageTooLong, NotFound, NotSupported
from ioas.uapi import iommufd as uapi
from tests.support.iommufd import EVERYTHING, MOCK, PAGE, Iommufd, requester

MOCK_LAST = (1 << 31) - 1


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


def test_an_ioas_takes_no_flags(iommufd: Iommufd) -> None:
    with pytest.raises(NotSupported):
        iommufd.call(uapi.IOMMU_IOAS_ALLOC, uapi.iommu_ioas_alloc(flags=1))
    assert iommufd.alloc() == 1


def test_without_a_device_all_iova_is_usable_to_the_byte(iommufd: Iommufd) -> None:
    assert iommufd.ranges(iommufd.alloc()) == ([(0, EVERYTHING)], 1)


def test_a_mock_device_narrows_iova_to_its_aperture_and_granule(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    mock, _, _ = iommufd.mock(ioas)
    assert iommufd.ranges(ioas) == ([(MOCK, MOCK_LAST)], 2048)
    iommufd.destroy(mock)
    assert iommufd.ranges(ioas) == ([(0, EVERYTHING)], 1)


def test_a_vtd_device_takes_the_interrupt_range_out(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    assert iommufd.ranges(ioas) == ([(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 48) - 1)], PAGE)
    device.detach()
    assert iommufd.ranges(ioas) == ([(0, EVERYTHING)], 1)


def test_overlapping_reservations_are_one_hole(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.reserve(ioas, 0x1000, 0x2000)
    iommufd.reserve(ioas, 0x2000, 0x2000)
    iommufd.reserve(ioas, 0x4000, 0x1000)
    assert iommufd.ranges(ioas)[0] == [(0, 0xFFF), (0x5000, EVERYTHING)]


def test_a_short_array_gets_what_fits_and_the_number_there_are(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.reserve(ioas, PAGE, PAGE)
    place = iommufd.caller.memory.map(1)
    command = uapi.iommu_ioas_iova_ranges(ioas_id=ioas, num_iovas=1, allowed_iovas=place)
    with pytest.raises(MessageTooLong):
        iommufd.call(uapi.IOMMU_IOAS_IOVA_RANGES, command)
    assert (command.num_iovas, command.out_iova_alignment) == (2, 1)
    assert iommufd.caller.memory.read(place, 32) == bytes(uapi.iommu_iova_range(start=0, last=PAGE - 1)) + bytes(16)


def test_an_array_that_is_not_there_is_a_bad_address(iommufd: Iommufd) -> None:
    with pytest.raises(BadAddress):
        iommufd.call(uapi.IOMMU_IOAS_IOVA_RANGES, uapi.iommu_ioas_iova_ranges(ioas_id=iommufd.alloc(), num_iovas=1))


def test_reserved_fields_come_before_the_id(iommufd: Iommufd) -> None:
    command = uapi.iommu_ioas_iova_ranges(ioas_id=77)
    setattr(command, "__reserved", 1)
    with pytest.raises(NotSupported):
        iommufd.call(uapi.IOMMU_IOAS_IOVA_RANGES, command)
    with pytest.raises(NotFound):
        iommufd.ranges(77)
