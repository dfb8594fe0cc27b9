"""IOMMU_GET_HW_INFO."""

from __future__ import annotations

from typing import Any

import pytest

from ioas.errors import BadAddress, NotFound, NotSupported
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from tests.support.iommufd import Iommufd, requester

INFO = bytes(test_uapi.iommu_test_hw_info(test_reg=test_uapi.IOMMU_HW_INFO_SELFTEST_REGVAL))
SELFTEST = test_uapi.IOMMU_HW_INFO_TYPE_SELFTEST


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def mock(iommufd: Iommufd) -> int:
    return iommufd.mock(iommufd.alloc())[2]


@pytest.fixture
def place(iommufd: Iommufd) -> int:
    """A page of the caller's, full of 0xff."""
    place = iommufd.caller.memory.map(1)
    iommufd.caller.memory.write(place, b"\xff" * 4096)
    return place


def ask(iommufd: Iommufd, device: int, **fields: Any) -> uapi.iommu_hw_info:
    return iommufd.call(uapi.IOMMU_GET_HW_INFO, uapi.iommu_hw_info(dev_id=device, **fields))


@pytest.mark.parametrize("room", [0, 4, 8, 20])
def test_what_fits_is_written_the_rest_zeroed_and_the_true_length_told(
    iommufd: Iommufd, mock: int, place: int, room: int
) -> None:
    answer = ask(iommufd, mock, data_len=room, data_uptr=place)
    assert (answer.out_data_type, answer.data_len) == (SELFTEST, 8)
    assert iommufd.caller.memory.read(place, 24) == INFO[:room].ljust(room, b"\0").ljust(24, b"\xff")


def test_the_type_can_be_asked_for(iommufd: Iommufd, mock: int, place: int) -> None:
    typed = {"flags": uapi.IOMMU_HW_INFO_FLAG_INPUT_TYPE, "data_len": 8, "data_uptr": place}
    assert ask(iommufd, mock, in_data_type=SELFTEST, **typed).out_data_type == SELFTEST
    with pytest.raises(NotSupported):
        ask(iommufd, mock, in_data_type=SELFTEST + 1, **typed)


def test_a_type_without_the_flag_means_nothing(iommufd: Iommufd, mock: int) -> None:
    assert ask(iommufd, mock, in_data_type=77).out_data_type == SELFTEST


def test_unknown_flags_and_reserved_bytes_come_before_the_id(iommufd: Iommufd) -> None:
    with pytest.raises(NotSupported):
        ask(iommufd, 99, flags=2)
    command = uapi.iommu_hw_info(dev_id=99)
    getattr(command, "__reserved")[2] = 1
    with pytest.raises(NotSupported):
        iommufd.call(uapi.IOMMU_GET_HW_INFO, command)
    with pytest.raises(NotFound):
        ask(iommufd, 99)


def test_a_buffer_that_is_not_there_is_a_bad_address(iommufd: Iommufd, mock: int) -> None:
    with pytest.raises(BadAddress):
        ask(iommufd, mock, data_len=8)


def test_capabilities_are_those_of_device_and_unit(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    no_ats = uapi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
    expected = {
        None: (no_ats | uapi.IOMMU_HW_CAP_DIRTY_TRACKING, 0),
        test_uapi.MOCK_FLAGS_DEVICE_NO_DIRTY: (no_ats, 0),
        test_uapi.MOCK_FLAGS_DEVICE_PASID: (no_ats | uapi.IOMMU_HW_CAP_DIRTY_TRACKING, 20),
    }
    for flags, (capabilities, pasid) in expected.items():
        answer = ask(iommufd, iommufd.mock(ioas, flags)[2])
        assert (answer.out_capabilities, answer.out_max_pasid_log2) == (capabilities, pasid)


def test_a_vtd_unit_tells_its_capability_registers(iommufd: Iommufd, place: int) -> None:
    device = iommufd.bind(requester(iommufd.system))
    answer = ask(iommufd, device.id, data_len=24, data_uptr=place)
    assert answer.out_data_type == uapi.IOMMU_HW_INFO_TYPE_INTEL_VTD
    registers = uapi.iommu_hw_info_vtd.from_buffer_copy(iommufd.caller.memory.read(place, 24))
    assert registers.cap_reg >> 16 & 0x3F == 47
