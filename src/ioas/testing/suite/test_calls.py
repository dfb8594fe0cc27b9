"""Calls as they arrive: numbers, sizes, pointers and flags, before anything is looked at closely (main.c, 7.3)."""

from __future__ import annotations

import ctypes
import mmap
from typing import NamedTuple

import pytest

from ioas.api import Device, Iommufd
from ioas.errors import BadAddress, InvalidArgument, NotFound, NotSupported, TooBig, UnknownRequest
from ioas.host import PAGE_SIZE
from ioas.uapi import iommufd as uapi
from ioas.uapi.base import Struct
from ioas.uapi.vfio import VFIO_DEVICE_GET_INFO, vfio_device_info


class Command(NamedTuple):
    """A request, and the structure that it comes with."""

    request: int
    structure: type[Struct]


COMMANDS = {
    "DESTROY": Command(uapi.IOMMU_DESTROY, uapi.iommu_destroy),
    "IOAS_ALLOC": Command(uapi.IOMMU_IOAS_ALLOC, uapi.iommu_ioas_alloc),
    "IOAS_ALLOW_IOVAS": Command(uapi.IOMMU_IOAS_ALLOW_IOVAS, uapi.iommu_ioas_allow_iovas),
    "IOAS_COPY": Command(uapi.IOMMU_IOAS_COPY, uapi.iommu_ioas_copy),
    "IOAS_IOVA_RANGES": Command(uapi.IOMMU_IOAS_IOVA_RANGES, uapi.iommu_ioas_iova_ranges),
    "IOAS_MAP": Command(uapi.IOMMU_IOAS_MAP, uapi.iommu_ioas_map),
    "IOAS_UNMAP": Command(uapi.IOMMU_IOAS_UNMAP, uapi.iommu_ioas_unmap),
    "OPTION": Command(uapi.IOMMU_OPTION, uapi.iommu_option),
    "VFIO_IOAS": Command(uapi.IOMMU_VFIO_IOAS, uapi.iommu_vfio_ioas),
    "HWPT_ALLOC": Command(uapi.IOMMU_HWPT_ALLOC, uapi.iommu_hwpt_alloc),
    "GET_HW_INFO": Command(uapi.IOMMU_GET_HW_INFO, uapi.iommu_hw_info),
}
FLAGGED = ["IOAS_ALLOC", "IOAS_MAP", "IOAS_COPY", "GET_HW_INFO"]
UNKNOWN_FLAG = 1 << 31
FIRST_VERSION = 16
"""Bytes of struct vfio_device_info before there were capabilities."""

each_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


@each_command
@pytest.mark.parametrize("size", [0, 4, 7])
def test_a_structure_shorter_than_the_first_version_is_refused(
    ioas_iommufd: Iommufd, command: Command, size: int
) -> None:
    with pytest.raises(InvalidArgument):
        ioas_iommufd.ioctl(command.request, command.structure(size=size))


@each_command
def test_a_longer_structure_with_something_unknown_in_its_tail_is_too_big(
    ioas_iommufd: Iommufd, command: Command
) -> None:
    size = ctypes.sizeof(command.structure)
    longer = bytearray(size + 16)
    longer[0:4] = (size + 16).to_bytes(4, "little")
    longer[-1] = 1
    with pytest.raises(TooBig):
        ioas_iommufd.ioctl(command.request, longer)


def test_a_structure_of_tomorrow_that_says_no_more_works(ioas_iommufd: Iommufd) -> None:
    size = ctypes.sizeof(uapi.iommu_ioas_alloc)
    longer = bytearray(size + 16)
    longer[0:4] = (size + 16).to_bytes(4, "little")
    assert ioas_iommufd.ioctl(uapi.IOMMU_IOAS_ALLOC, longer) == 0
    made = uapi.iommu_ioas_alloc.from_buffer(longer)
    ioas_iommufd.destroy(made.out_ioas_id)
    with pytest.raises(NotFound):
        ioas_iommufd.destroy(made.out_ioas_id)


@each_command
def test_a_structure_that_is_not_there_is_a_bad_address(ioas_iommufd: Iommufd, command: Command) -> None:
    for address in (0, 8, (1 << 47) - 8):
        with pytest.raises(BadAddress):
            ioas_iommufd.ioctl(command.request, address)


def test_a_structure_that_ends_where_memory_does_is_a_bad_address(ioas_iommufd: Iommufd) -> None:
    memory = mmap.mmap(-1, 2 * PAGE_SIZE)
    anchor = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(anchor)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(start + PAGE_SIZE, PAGE_SIZE, 0) == 0
    at = start + PAGE_SIZE - 4
    memory[PAGE_SIZE - 4 : PAGE_SIZE] = ctypes.sizeof(uapi.iommu_ioas_alloc).to_bytes(4, "little")
    with pytest.raises(BadAddress):
        ioas_iommufd.ioctl(uapi.IOMMU_IOAS_ALLOC, at)
    libc.mprotect(start + PAGE_SIZE, PAGE_SIZE, 3)
    del anchor
    memory.close()


@pytest.mark.parametrize("name", FLAGGED)
def test_unknown_flags_are_not_supported(ioas_iommufd: Iommufd, name: str) -> None:
    request, structure = COMMANDS[name]
    with pytest.raises(NotSupported):
        ioas_iommufd.ioctl(request, structure(size=ctypes.sizeof(structure), flags=UNKNOWN_FLAG))


@pytest.mark.parametrize("name", ["IOAS_IOVA_RANGES", "IOAS_ALLOW_IOVAS", "IOAS_UNMAP"])
def test_the_number_0_names_nothing(ioas_iommufd: Iommufd, name: str) -> None:
    request, structure = COMMANDS[name]
    with pytest.raises(NotFound):
        ioas_iommufd.ioctl(request, structure(size=ctypes.sizeof(structure)))


@pytest.mark.parametrize("request_number", [0x3B00, 0x3BFE, 0x3B7F])
def test_unknown_requests_are_told(ioas_iommufd: Iommufd, request_number: int) -> None:
    with pytest.raises(UnknownRequest):
        ioas_iommufd.ioctl(request_number, bytearray(64))


def test_requests_of_a_device_are_none_of_an_iommufd_and_the_other_way_round(
    ioas_iommufd: Iommufd, ioas_device: Device
) -> None:
    size = ctypes.sizeof(vfio_device_info)
    with pytest.raises(UnknownRequest):
        ioas_iommufd.ioctl(VFIO_DEVICE_GET_INFO, vfio_device_info(argsz=size))
    with pytest.raises(UnknownRequest):
        ioas_device.ioctl(uapi.IOMMU_IOAS_ALLOC, uapi.iommu_ioas_alloc(size=ctypes.sizeof(uapi.iommu_ioas_alloc)))


def test_a_device_s_structures_may_be_shorter_but_not_too_short(ioas_device: Device) -> None:
    info = vfio_device_info(argsz=4)
    with pytest.raises(InvalidArgument):
        ioas_device.ioctl(VFIO_DEVICE_GET_INFO, info)
    info.argsz = FIRST_VERSION
    ioas_device.ioctl(VFIO_DEVICE_GET_INFO, info)
    assert info.num_irqs >= 5
