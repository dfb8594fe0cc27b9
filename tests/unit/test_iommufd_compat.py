"""An iommufd file as a VFIO container."""

from __future__ import annotations

from ctypes import sizeof
from typing import Any

import pytest

from ioas.errors import (
    AddressInUse,
    BadAddress,
    InvalidArgument,
    KernelError,
    NoDevice,
    NotFound,
    OutOfMemory,
    Overflow,
    UnknownRequest,
)
from ioas.uapi import iommufd as iommufd_uapi, vfio as uapi
from tests.support.caller import FakeCaller
from tests.support.iommufd import EVERYTHING, MOCK, PAGE, Iommufd, requester

VA = 1 << 31
RW = uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE
ALL = uapi.VFIO_DMA_UNMAP_FLAG_ALL


class Container(Iommufd):
    """With the container's calls as methods."""

    def by_value(self, request: int, value: int) -> int:
        return self.context.ioctl(self.caller, request, value)

    def map_dma(self, iova: int, size: int, vaddr: int = VA, **fields: int) -> None:
        command = uapi.vfio_iommu_type1_dma_map(
            **{"argsz": 32, "flags": RW, "iova": iova, "size": size, "vaddr": vaddr, **fields}
        )
        self._by_pointer(uapi.VFIO_IOMMU_MAP_DMA, command)

    def unmap_dma(self, iova: int, size: int, flags: int = 0, argsz: int = 24) -> int:
        """The bytes unmapped; on a failure they are in `unmapped`."""
        command = uapi.vfio_iommu_type1_dma_unmap(argsz=argsz, flags=flags, iova=iova, size=size)
        try:
            self._by_pointer(uapi.VFIO_IOMMU_UNMAP_DMA, command)
        finally:
            self.unmapped = command.size
        return self.unmapped

    def info(self, argsz: int, place: int) -> bytes:
        """The page after GET_INFO with `argsz`; it was full of 0xee."""
        self.caller.memory.write(place, argsz.to_bytes(4, "little").ljust(PAGE, b"\xee"))
        self.context.ioctl(self.caller, uapi.VFIO_IOMMU_GET_INFO, place)
        return self.caller.memory.read(place, PAGE)

    def _by_pointer(self, request: int, command: Any) -> None:
        self.caller.memory.write(self._place, bytes(command))
        try:
            self.context.ioctl(self.caller, request, self._place)
        finally:
            answer = type(command).from_buffer_copy(self.caller.memory.read(self._place, sizeof(command)))
            command.size = answer.size


@pytest.fixture
def empty() -> Container:
    """A container that nothing was put into."""
    return Container()


@pytest.fixture
def container(empty: Container) -> Container:
    """A container with an IOAS and a mock device."""
    return filled(empty)


def filled(empty: Container) -> Container:
    """The same, with an IOAS and a mock device."""
    ioas = empty.alloc()
    empty.mock(ioas)
    empty.call(
        iommufd_uapi.IOMMU_VFIO_IOAS,
        iommufd_uapi.iommu_vfio_ioas(ioas_id=ioas, op=iommufd_uapi.IOMMU_VFIO_IOAS_SET),
    )
    return empty


@pytest.fixture
def buffer(container: Container) -> int:
    return container.caller.memory.map(8)


def test_the_api_version_is_0(empty: Container) -> None:
    assert empty.by_value(uapi.VFIO_GET_API_VERSION, 0) == 0


@pytest.mark.parametrize(
    ("extension", "answer"),
    [
        (uapi.VFIO_TYPE1_IOMMU, 1),
        (uapi.VFIO_TYPE1v2_IOMMU, 1),
        (uapi.VFIO_UNMAP_ALL, 1),
        (uapi.VFIO_NOIOMMU_IOMMU, 1),
        (6, 0),
        (uapi.VFIO_UPDATE_VADDR, 0),
        (2, 0),
        (1 << 40, 0),
    ],
)
def test_extensions(empty: Container, extension: int, answer: int) -> None:
    assert empty.by_value(uapi.VFIO_CHECK_EXTENSION, extension) == answer


def test_coherency_is_a_question_of_the_page_tables(container: Container, empty: Container) -> None:
    assert container.by_value(uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_DMA_CC_IOMMU) == 0
    other = Container()
    with pytest.raises(NoDevice):
        other.by_value(uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_DMA_CC_IOMMU)
    ioas = other.alloc()
    other.call(iommufd_uapi.IOMMU_VFIO_IOAS, iommufd_uapi.iommu_vfio_ioas(ioas_id=ioas, op=1))
    other.bind(requester(other.system)).attach(ioas)
    assert other.by_value(uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_DMA_CC_IOMMU) == 1


def test_without_an_ioas_there_is_no_device_but_arguments_are_checked_first(empty: Container) -> None:
    place = empty.caller.memory.map(1)
    for wrong in ({"argsz": 31}, {"flags": 4}):
        with pytest.raises(InvalidArgument):
            empty.map_dma(0, PAGE, **wrong)
    with pytest.raises(InvalidArgument):
        empty.unmap_dma(0, PAGE, flags=1)
    with pytest.raises(InvalidArgument):
        empty.info(15, place)
    with pytest.raises(InvalidArgument):
        empty.by_value(uapi.VFIO_SET_IOMMU, 2)
    for call in (
        lambda: empty.map_dma(0, PAGE),
        lambda: empty.unmap_dma(0, PAGE),
        lambda: empty.info(16, place),
        lambda: empty.by_value(uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_IOMMU),
    ):
        with pytest.raises(NoDevice):
            call()


def test_unknown_requests_and_dirty_pages_are_nobodys(container: Container) -> None:
    for request in (uapi.VFIO_IOMMU_DIRTY_PAGES, uapi.VFIO_IOMMU_ENABLE, uapi.VFIO_GROUP_GET_STATUS):
        with pytest.raises(UnknownRequest):
            container.by_value(request, 0)


def test_bad_pointers_are_bad_addresses(container: Container) -> None:
    for request in (uapi.VFIO_IOMMU_MAP_DMA, uapi.VFIO_IOMMU_UNMAP_DMA, uapi.VFIO_IOMMU_GET_INFO):
        with pytest.raises(BadAddress):
            container.by_value(request, 0)


def test_mapping_and_unmapping(container: Container, buffer: int) -> None:
    container.map_dma(MOCK, 8 * PAGE, buffer)
    assert container.system.memory.held_frames == 8
    assert container.unmap_dma(MOCK, 8 * PAGE) == 8 * PAGE
    assert container.unmap_dma(MOCK, 8 * PAGE) == 0
    assert container.unmap_dma(0, 0, ALL) == 0


def test_a_mapping_with_a_device_needs_a_permission_and_without_one_does_not(empty: Container) -> None:
    ioas = empty.alloc()
    empty.call(iommufd_uapi.IOMMU_VFIO_IOAS, iommufd_uapi.iommu_vfio_ioas(ioas_id=ioas, op=1))
    empty.map_dma(MOCK, PAGE, flags=0)
    empty.unmap_dma(0, 0, ALL)
    empty.mock(ioas)
    with pytest.raises(InvalidArgument):
        empty.map_dma(MOCK, PAGE, empty.caller.memory.map(1), flags=0)


def test_all_takes_no_range(container: Container, buffer: int) -> None:
    container.map_dma(MOCK, PAGE, buffer)
    for iova, size in ((MOCK, 0), (0, PAGE)):
        with pytest.raises(InvalidArgument):
            container.unmap_dma(iova, size, ALL)
    assert container.unmap_dma(0, 0, ALL) == PAGE


def test_a_failed_unmap_tells_how_far_it_came(container: Container, buffer: int) -> None:
    container.map_dma(MOCK, PAGE, buffer)
    container.map_dma(MOCK + PAGE, 2 * PAGE, buffer)
    for iova, size, error in ((0, 0, InvalidArgument), (EVERYTHING, 2, Overflow)):
        with pytest.raises(error):
            container.unmap_dma(iova, size)
        assert container.unmapped == 0
    with pytest.raises(NotFound):
        container.unmap_dma(MOCK, 2 * PAGE)
    assert container.unmapped == PAGE


def test_type_1_cuts_mappings_at_pages_and_version_2_does_not(container: Container, buffer: int) -> None:
    container.by_value(uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU)
    container.map_dma(MOCK, 8 * PAGE, buffer)
    with pytest.raises(NotFound):
        container.unmap_dma(MOCK + 2 * PAGE, PAGE)
    container.unmap_dma(0, 0, ALL)
    container.by_value(uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_IOMMU)
    container.map_dma(MOCK, 8 * PAGE, buffer)
    with pytest.raises(InvalidArgument):
        container.unmap_dma(MOCK + 2048, PAGE)
    assert container.unmap_dma(MOCK + 2 * PAGE, 3 * PAGE) == 3 * PAGE
    assert container.system.memory.held_frames == container.caller.memory.pinned_pages == 5
    assert container.unmap_dma(MOCK, PAGE) == PAGE
    assert container.unmap_dma(0, 0, ALL) == 4 * PAGE
    assert container.system.memory.held_frames == 0


def test_the_whole_range_of_a_cut_area_is_gone_from_the_device_and_the_rest_is_not(empty: Container) -> None:
    ioas = empty.alloc()
    empty.call(iommufd_uapi.IOMMU_VFIO_IOAS, iommufd_uapi.iommu_vfio_ioas(ioas_id=ioas, op=1))
    empty.by_value(uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_IOMMU)
    device = empty.bind(requester(empty.system))
    device.attach(ioas)
    from tests.support.ram import Ram

    empty.map_dma(0, 2 << 20, empty.caller.memory.map(512, ram=Ram(512, order=9)))
    empty.unmap_dma(100 * PAGE, 12 * PAGE)
    reachable = [page for page in range(512) if device.requester.dma.read(page * PAGE, 1) is not None]
    assert reachable == [page for page in range(512) if not 100 <= page < 112]


def test_room_is_found_after_an_area_was_cut_that_placement_had_not_looked_at(empty: Container) -> None:
    ioas = empty.alloc()
    empty.call(
        iommufd_uapi.IOMMU_VFIO_IOAS,
        iommufd_uapi.iommu_vfio_ioas(op=iommufd_uapi.IOMMU_VFIO_IOAS_SET, ioas_id=ioas),
    )
    empty.by_value(uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_IOMMU)
    memory = empty.caller.memory.map(8)
    first = empty.map(ioas, memory, PAGE)
    empty.map_dma(first + PAGE, 4 * PAGE, memory)
    assert empty.unmap_dma(first + PAGE, 2 * PAGE) == 2 * PAGE
    assert empty.map(ioas, memory, PAGE) == first + PAGE
    assert empty.map(ioas, memory, 2 * PAGE) == first + 5 * PAGE


def test_a_pinned_area_is_not_cut(container: Container, buffer: int) -> None:
    container.by_value(uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_IOMMU)
    container.map_dma(MOCK, 8 * PAGE, buffer)
    container.pin(container.access(1), MOCK, PAGE)
    with pytest.raises(InvalidArgument, match="access"):
        container.unmap_dma(MOCK + 2 * PAGE, PAGE)


def test_type_1_wants_aligned_areas(empty: Container) -> None:
    ioas = empty.alloc()
    empty.call(iommufd_uapi.IOMMU_VFIO_IOAS, iommufd_uapi.iommu_vfio_ioas(ioas_id=ioas, op=1))
    empty.map_dma(MOCK, 100)
    with pytest.raises(AddressInUse):
        empty.by_value(uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_IOMMU)


FULL = 24 + 16 + 16 + 16
"""The info, DMA_AVAIL (rounded up), IOVA_RANGE with one range."""


def test_the_info_tells_page_sizes_a_limit_and_ranges(container: Container, buffer: int) -> None:
    page = container.info(PAGE, buffer)
    info = uapi.vfio_iommu_type1_info.from_buffer_copy(page)
    assert (info.argsz, info.flags, info.cap_offset) == (FULL, 3, 24)
    assert info.iova_pgsizes & (2 * PAGE - 1) == PAGE
    available = uapi.vfio_iommu_type1_info_dma_avail.from_buffer_copy(page, 24)
    assert (available.header.id, available.header.version, available.header.next) == (3, 1, 40)
    assert available.avail == 0xFFFF_FFFF
    ranges = uapi.vfio_iommu_type1_info_cap_iova_range.from_buffer_copy(page, 40)
    assert (ranges.header.id, ranges.header.version, ranges.header.next, ranges.nr_iovas) == (1, 1, 0, 1)
    assert uapi.vfio_iova_range.from_buffer_copy(page, 56).start == MOCK
    assert page[FULL:] == b"\xee" * (PAGE - FULL)


@pytest.mark.parametrize("argsz", range(16, FULL + 1))
def test_nothing_is_written_beyond_argsz(container: Container, buffer: int, argsz: int) -> None:
    page = container.info(argsz, buffer)
    assert page[argsz:] == b"\xee" * (PAGE - argsz)
    assert int.from_bytes(page[:4], "little") == FULL
    if argsz >= 20:
        assert int.from_bytes(page[16:20], "little") == (24 if argsz >= FULL else 0)


def test_a_value_is_not_a_buffer(empty: Container) -> None:
    from ioas.errors import UsageError

    with pytest.raises(UsageError):
        empty.context.ioctl(empty.caller, uapi.VFIO_SET_IOMMU, bytearray(8))


def test_what_a_page_table_refuses_comes_before_what_it_would_cost() -> None:
    container = filled(Container(caller=FakeCaller([], memlock=PAGE)))
    address = container.caller.memory.map(4)
    with pytest.raises(InvalidArgument):
        container.map_dma(MOCK, 3 * PAGE, address, flags=0)
    with pytest.raises(OutOfMemory):
        container.map_dma(MOCK, 3 * PAGE, address)
    container.map_dma(MOCK, PAGE, address)
    assert container.caller.memory.pinned_pages == 1


def test_every_refusal_has_a_reason(container: Container) -> None:
    with pytest.raises(KernelError) as raised:
        container.map_dma(0, PAGE)
    assert "aperture" in raised.value.refusal.reason
