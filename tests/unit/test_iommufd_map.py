"""IOMMU_IOAS_MAP: arguments, pinning, and who is charged."""

from __future__ import annotations

import pytest

from ioas.errors import (
    AlreadyExists,
    BadAddress,
    InvalidArgument,
    NotFound,
    NotSupported,
    OutOfMemory,
    Overflow,
)
from ioas.host import Capability
from ioas.uapi import iommufd as uapi
from tests.support.caller import FakeCaller
from tests.support.iommufd import EVERYTHING, FIXED, MOCK, PAGE, READ, RW, WRITE, Iommufd, requester

NOWHERE = 1 << 31


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


def test_unknown_flags_come_first(iommufd: Iommufd) -> None:
    with pytest.raises(NotSupported):
        iommufd.map(99, 0, EVERYTHING, flags=8)


def test_a_length_or_iova_of_all_ones_overflows_before_anything_else_is_looked_at(iommufd: Iommufd) -> None:
    with pytest.raises(Overflow):
        iommufd.map(99, 0, EVERYTHING, flags=0)
    with pytest.raises(Overflow):
        iommufd.map(99, 0, PAGE, iova=EVERYTHING, flags=0)


def test_a_mapping_is_readable_or_writeable(iommufd: Iommufd) -> None:
    with pytest.raises(InvalidArgument):
        iommufd.map(99, 0, PAGE, flags=FIXED)


def test_then_the_ioas_is_looked_for(iommufd: Iommufd) -> None:
    with pytest.raises(NotFound):
        iommufd.map(99, 0, 0, iova=0)


def test_a_user_range_that_wraps_overflows(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(Overflow):
        iommufd.map(ioas, EVERYTHING - PAGE + 1, PAGE, iova=0)


def test_an_empty_mapping_is_invalid(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(InvalidArgument):
        iommufd.map(ioas, NOWHERE, 0, iova=0)


def test_an_iova_range_that_wraps_overflows(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(Overflow):
        iommufd.map(ioas, NOWHERE, 2 * PAGE, iova=EVERYTHING - PAGE + 1)


@pytest.mark.parametrize(("first", "pages"), [(16, 2), (16, 1), (17, 1), (15, 2), (15, 3)])
def test_no_part_of_an_iova_is_mapped_twice(iommufd: Iommufd, ioas: int, first: int, pages: int) -> None:
    iommufd.map(ioas, NOWHERE, 2 * PAGE, iova=16 * PAGE)
    with pytest.raises(AlreadyExists, match="0x10000-0x11fff"):
        iommufd.map(ioas, NOWHERE, pages * PAGE, iova=first * PAGE)


def test_neighbours_do_not_meet(iommufd: Iommufd, ioas: int) -> None:
    for page in (16, 15, 17):
        iommufd.map(ioas, NOWHERE, PAGE, iova=page * PAGE)


def test_reserved_iova_is_invalid_and_named(iommufd: Iommufd, ioas: int) -> None:
    iommufd.bind(requester(iommufd.system, "0000:07:00.0")).attach(ioas)
    with pytest.raises(InvalidArgument, match="msi region of 0000:07"):
        iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, iova=0xFEE0_0000)


def test_the_last_page_of_the_aperture_can_be_mapped_and_no_further(iommufd: Iommufd, ioas: int) -> None:
    iommufd.bind(requester(iommufd.system)).attach(ioas)
    buffer = iommufd.caller.memory.map(2)
    with pytest.raises(InvalidArgument, match="aperture"):
        iommufd.map(ioas, buffer, 2 * PAGE, iova=(1 << 48) - PAGE)
    iommufd.map(ioas, buffer, PAGE, iova=(1 << 48) - PAGE)


def test_without_a_domain_nothing_is_pinned_and_every_byte_can_be_mapped(iommufd: Iommufd, ioas: int) -> None:
    iommufd.map(ioas, NOWHERE + 5, 3, iova=7)
    iommufd.map(ioas, NOWHERE, 1, iova=10)
    assert iommufd.system.memory.held_frames == 0


def test_a_hole_is_found_when_a_device_is_attached(iommufd: Iommufd, ioas: int) -> None:
    memory = iommufd.caller.memory
    buffer = memory.map(4)
    iommufd.map(ioas, buffer, 4 * PAGE, iova=MOCK)
    iommufd.map(ioas, NOWHERE, PAGE, iova=MOCK + 8 * PAGE)
    with pytest.raises(BadAddress):
        iommufd.mock(ioas)
    assert iommufd.system.memory.held_frames == memory.pinned_pages == 0
    iommufd.unmap(ioas, MOCK + 8 * PAGE, PAGE)
    iommufd.mock(ioas)
    assert iommufd.system.memory.held_frames == memory.pinned_pages == 4


def test_with_a_domain_a_hole_is_found_at_once_and_nothing_is_left(iommufd: Iommufd, ioas: int) -> None:
    iommufd.mock(ioas)
    memory = iommufd.caller.memory
    buffer = memory.map(4)
    memory.unmap(buffer + 2 * PAGE, 1)
    with pytest.raises(BadAddress):
        iommufd.map(ioas, buffer, 4 * PAGE, iova=MOCK)
    assert iommufd.system.memory.held_frames == memory.pinned_pages == 0
    iommufd.map(ioas, buffer, 2 * PAGE, iova=MOCK)


def test_memory_that_can_only_be_read_is_mapped_for_reading_only(iommufd: Iommufd, ioas: int) -> None:
    iommufd.mock(ioas)
    buffer = iommufd.caller.memory.map(1, write=False)
    for flags in (WRITE, RW):
        with pytest.raises(BadAddress):
            iommufd.map(ioas, buffer, PAGE, iova=MOCK, flags=flags)
    iommufd.map(ioas, buffer, PAGE, iova=MOCK, flags=READ)


@pytest.mark.parametrize(("offset", "length", "iova"), [(1024, 2048, 0), (0, 1024, 0), (0, 2048, 1024)])
def test_everything_is_a_multiple_of_the_granule(
    iommufd: Iommufd, ioas: int, offset: int, length: int, iova: int
) -> None:
    iommufd.mock(ioas)
    with pytest.raises(InvalidArgument, match="2048"):
        iommufd.map(ioas, iommufd.caller.memory.map(1) + offset, length, iova=MOCK + iova)


def test_half_pages_can_be_mapped_where_the_granule_is_half_a_page(iommufd: Iommufd, ioas: int) -> None:
    _, table, _ = iommufd.mock(ioas)
    buffer = iommufd.caller.memory.map(2)
    iommufd.map(ioas, buffer + 2048, PAGE, iova=MOCK + 2048)
    iommufd.test(3, table, check_map={"iova": MOCK + 2048, "length": PAGE, "uptr": buffer + 2048})
    assert iommufd.system.memory.held_frames == 2


def test_a_failed_automatic_mapping_leaves_the_place_free(iommufd: Iommufd, ioas: int) -> None:
    iommufd.mock(ioas)
    with pytest.raises(BadAddress):
        iommufd.map(ioas, NOWHERE, PAGE)
    assert iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE) == MOCK


def test_who_has_ipc_lock_is_not_held_to_a_limit_but_shows_pinned_pages() -> None:
    iommufd = Iommufd(caller=FakeCaller([Capability.IPC_LOCK], memlock=PAGE))
    ioas = iommufd.alloc()
    iommufd.mock(ioas)
    iommufd.map(ioas, iommufd.caller.memory.map(4), 4 * PAGE, iova=MOCK)
    assert iommufd.caller.memory.pinned_pages == 4
    assert iommufd.caller.memory.locked_pages == iommufd.system.accounting.locked(1000) == 0


def test_pages_are_charged_to_the_user_once_and_refused_beyond_the_limit() -> None:
    iommufd = Iommufd(caller=FakeCaller([], memlock=4 * PAGE))
    ioas = iommufd.alloc()
    iommufd.mock(ioas)
    buffer = iommufd.caller.memory.map(4)
    iommufd.map(ioas, buffer, 3 * PAGE, iova=MOCK)
    with pytest.raises(OutOfMemory, match="RLIMIT_MEMLOCK"):
        iommufd.map(ioas, buffer, 2 * PAGE, iova=MOCK + 8 * PAGE)
    assert iommufd.system.accounting.locked(1000) == iommufd.caller.memory.pinned_pages == 3
    assert iommufd.system.memory.held_frames == 3
    iommufd.copy(ioas, MOCK, 3 * PAGE, ioas, MOCK + 8 * PAGE)
    assert iommufd.system.accounting.locked(1000) == 3
    iommufd.unmap(ioas)
    assert iommufd.system.accounting.locked(1000) == iommufd.caller.memory.pinned_pages == 0


def test_the_limit_is_met_by_an_attach_too() -> None:
    iommufd = Iommufd(caller=FakeCaller([], memlock=4 * PAGE))
    ioas = iommufd.alloc()
    iommufd.map(ioas, iommufd.caller.memory.map(8), 8 * PAGE, iova=MOCK)
    with pytest.raises(OutOfMemory):
        iommufd.mock(ioas)
    iommufd.close()
    assert not iommufd.leaks()


def test_in_process_mode_pages_are_locked_for_the_process() -> None:
    iommufd = Iommufd(caller=FakeCaller([Capability.SYS_RESOURCE], memlock=4 * PAGE))
    iommufd.option(uapi.IOMMU_OPTION_RLIMIT_MODE, uapi.IOMMU_OPTION_OP_SET, 1)
    ioas = iommufd.alloc()
    iommufd.mock(ioas)
    buffer = iommufd.caller.memory.map(5)
    iommufd.map(ioas, buffer, 4 * PAGE, iova=MOCK)
    assert iommufd.caller.memory.locked_pages == 4
    assert iommufd.system.accounting.locked(1000) == 0
    with pytest.raises(OutOfMemory):
        iommufd.map(ioas, buffer, PAGE, iova=MOCK + 8 * PAGE)


def test_memory_is_the_callers_not_the_openers(iommufd: Iommufd, ioas: int) -> None:
    _, table, _ = iommufd.mock(ioas)
    child = FakeCaller()
    buffer = child.memory.map(1)
    iommufd.map(ioas, buffer, PAGE, iova=MOCK, caller=child)
    assert (child.memory.pinned_pages, iommufd.caller.memory.pinned_pages) == (1, 0)
    iommufd.test(3, table, child, check_map={"iova": MOCK, "length": PAGE, "uptr": buffer})


def test_dma_reaches_the_page_that_was_mapped_after_the_address_shows_another(iommufd: Iommufd, ioas: int) -> None:
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    memory = iommufd.caller.memory
    buffer = memory.map(1)
    memory.write(buffer, b"old page")
    iova = iommufd.map(ioas, buffer, PAGE)
    memory.unmap(buffer, 1)
    memory.map(1, at=buffer)
    memory.write(buffer, b"new page")
    assert device.requester.dma.read(iova, 8) == b"old page"
    iommufd.unmap(ioas)
    assert device.requester.dma.read(iova, 8) is None
