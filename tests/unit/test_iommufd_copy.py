"""IOMMU_IOAS_COPY: pages that stand in several places are pinned once, and as long as anything needs them."""

from __future__ import annotations

import pytest

from ioas.errors import AlreadyExists, InvalidArgument, KernelError, NotFound, NotPermitted, NotSupported, Overflow
from tests.support.iommufd import EVERYTHING, FIXED, MOCK, PAGE, READ, RW, Iommufd, requester


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


@pytest.fixture
def buffer(iommufd: Iommufd) -> int:
    return iommufd.caller.memory.map(8)


def references(iommufd: Iommufd, address: int, pages: int) -> list[int]:
    """How often each page is pinned."""
    found = []
    for at in range(address, address + pages * PAGE, PAGE):
        for refs in range(4):
            try:
                iommufd.test(4, check_refs={"uptr": at, "length": PAGE, "refs": refs})
            except KernelError:
                continue
            found.append(refs)
    return found


def test_the_checks_come_in_the_kernels_order(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(NotSupported):
        iommufd.copy(99, EVERYTHING, 0, 98, flags=8)
    with pytest.raises(Overflow):
        iommufd.copy(99, EVERYTHING, 0, 98, flags=0)
    with pytest.raises(InvalidArgument):
        iommufd.copy(99, 0, 0, 98, flags=FIXED)
    with pytest.raises(NotFound, match="99"):
        iommufd.copy(99, 0, 0, 98)
    with pytest.raises(InvalidArgument):
        iommufd.copy(ioas, 0, 0, 98)
    with pytest.raises(Overflow):
        iommufd.copy(ioas, EVERYTHING - 1, PAGE, 98)
    with pytest.raises(NotFound, match="mapped"):
        iommufd.copy(ioas, 0, PAGE, 98)
    iommufd.map(ioas, 1 << 31, PAGE, iova=0)
    with pytest.raises(NotFound, match="98"):
        iommufd.copy(ioas, 0, PAGE, 98)


def test_any_bytes_of_a_mapping_can_be_copied_where_there_is_no_device(iommufd: Iommufd, ioas: int) -> None:
    iommufd.map(ioas, 1 << 31, 10_000, iova=500)
    target = iommufd.alloc()
    iommufd.copy(ioas, 511, 2048, target, 3)
    with pytest.raises(NotFound):
        iommufd.copy(ioas, 499, 2048, target, 5000)
    with pytest.raises(NotFound):
        iommufd.copy(ioas, 10_000, 501, target, 5000)


def test_a_copy_may_span_areas_that_touch_but_no_hole(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    _, table, _ = iommufd.mock(ioas)
    iommufd.map(ioas, buffer + 4 * PAGE, 2 * PAGE, MOCK)
    iommufd.map(ioas, buffer, 2 * PAGE, MOCK + 2 * PAGE)
    iommufd.copy(ioas, MOCK + PAGE, 2 * PAGE, ioas, MOCK + 8 * PAGE)
    iommufd.test(3, table, check_map={"iova": MOCK + 8 * PAGE, "length": PAGE, "uptr": buffer + 5 * PAGE})
    iommufd.test(3, table, check_map={"iova": MOCK + 9 * PAGE, "length": PAGE, "uptr": buffer})
    with pytest.raises(NotFound):
        iommufd.copy(ioas, MOCK + 3 * PAGE, 2 * PAGE, ioas, MOCK + 16 * PAGE)
    assert iommufd.unmap(ioas, MOCK + 8 * PAGE, PAGE) == PAGE


def test_what_is_not_free_is_not_copied_to(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.mock(ioas)
    iommufd.map(ioas, buffer, 2 * PAGE, MOCK)
    with pytest.raises(AlreadyExists):
        iommufd.copy(ioas, MOCK, PAGE, ioas, MOCK + PAGE)


def test_a_copy_gains_no_permission(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, PAGE, MOCK, READ)
    with pytest.raises(NotPermitted):
        iommufd.copy(ioas, MOCK, PAGE, ioas, MOCK + PAGE, RW)
    iommufd.copy(ioas, MOCK, PAGE, ioas, MOCK + PAGE, READ)


def test_shared_pages_are_pinned_and_charged_once(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.mock(ioas)
    iommufd.map(ioas, buffer, 4 * PAGE, MOCK)
    iommufd.copy(ioas, MOCK, 4 * PAGE, ioas, MOCK + 8 * PAGE)
    assert references(iommufd, buffer, 4) == [1] * 4
    assert iommufd.caller.memory.pinned_pages == 4


def test_a_copy_outlives_its_source_and_keeps_only_its_part_pinned(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    iommufd.caller.memory.write(buffer + 3 * PAGE, b"third")
    iommufd.map(ioas, buffer, 8 * PAGE, MOCK)
    iommufd.copy(ioas, MOCK + 2 * PAGE, 3 * PAGE, ioas, MOCK + 16 * PAGE)
    iommufd.unmap(ioas, MOCK, 8 * PAGE)
    assert references(iommufd, buffer, 8) == [0, 0, 1, 1, 1, 0, 0, 0]
    assert iommufd.caller.memory.pinned_pages == 3
    iommufd.caller.memory.unmap(buffer, 8)
    assert device.requester.dma.read(MOCK + 17 * PAGE, 5) == b"third"
    iommufd.unmap(ioas)
    assert iommufd.caller.memory.pinned_pages == iommufd.system.memory.held_frames == 0


def test_a_copy_into_an_ioas_with_a_device_pins_its_part_alone(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, 8 * PAGE, MOCK)
    target = iommufd.alloc()
    iommufd.mock(target)
    iommufd.copy(ioas, MOCK + PAGE, 2 * PAGE, target, MOCK)
    iommufd.copy(ioas, MOCK + 2 * PAGE, 3 * PAGE, target, MOCK + 8 * PAGE)
    assert references(iommufd, buffer, 8) == [0, 1, 1, 1, 1, 0, 0, 0]
    iommufd.unmap(target, MOCK, 2 * PAGE)
    assert references(iommufd, buffer, 8) == [0, 0, 1, 1, 1, 0, 0, 0]


def test_a_copy_is_of_the_page_that_is_pinned_whatever_the_address_shows_now(
    iommufd: Iommufd, ioas: int, buffer: int
) -> None:
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    iommufd.caller.memory.write(buffer, b"old")
    iommufd.map(ioas, buffer, PAGE, MOCK)
    iommufd.caller.memory.map(1, at=buffer)
    iommufd.copy(ioas, MOCK, PAGE, ioas, MOCK + PAGE)
    assert device.requester.dma.read(MOCK + PAGE, 3) == b"old"
