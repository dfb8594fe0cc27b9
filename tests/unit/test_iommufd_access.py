"""Accesses: pinning and copying without DMA, through the test access of the selftests."""

from __future__ import annotations

from errno import EBADE

import pytest

from ioas.errors import (
    AddressInUse,
    BadAddress,
    InvalidArgument,
    KernelError,
    NotFound,
    NotPermitted,
    NotSupported,
    OutOfMemory,
    Overflow,
    WrongFile,
)
from ioas.uapi import iommufd_test as uapi
from tests.support.caller import FakeCaller, FakeFile
from tests.support.iommufd import EVERYTHING, MOCK, PAGE, READ, RW, WRITE, Iommufd

SLOW = uapi.MOCK_ACCESS_RW_SLOW_PATH


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


@pytest.fixture
def buffer(iommufd: Iommufd) -> int:
    return iommufd.caller.memory.map(8)


def rw(
    iommufd: Iommufd, access: int, iova: int, length: int, user: int, flags: int = 0, caller: FakeCaller | None = None
) -> None:
    fields = {"iova": iova, "length": length, "uptr": user, "flags": flags}
    iommufd.test(uapi.IOMMU_TEST_OP_ACCESS_RW, access, caller, access_rw=fields)


# -- pinning


def test_pins_are_counted_by_page_and_let_go_by_page(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, 8 * PAGE, MOCK)
    fd = iommufd.access(ioas)
    held = iommufd.system.memory
    pins = [iommufd.pin(fd, MOCK + PAGE * first, pages * PAGE) for first, pages in ((0, 4), (2, 4), (3, 1))]
    assert held.held_frames == iommufd.caller.memory.pinned_pages == 6
    for pin, left in zip(pins, (4, 1, 0), strict=True):
        iommufd.unpin(fd, pin)
        assert held.held_frames == iommufd.caller.memory.pinned_pages == left


def test_a_pinned_page_is_the_page_at_the_address(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, 8 * PAGE, MOCK)
    fd = iommufd.access(ioas)
    iommufd.pin(fd, MOCK + PAGE, PAGE, buffer + PAGE)
    with pytest.raises(KernelError) as raised:
        iommufd.pin(fd, MOCK + PAGE, PAGE, buffer)
    assert raised.value.errno == EBADE
    assert iommufd.system.memory.held_frames == 1


def test_pages_stay_pinned_for_the_access_when_the_device_goes_and_for_the_device_when_the_access_goes(
    iommufd: Iommufd, ioas: int, buffer: int
) -> None:
    iommufd.map(ioas, buffer, 8 * PAGE, MOCK)
    fd = iommufd.access(ioas)
    pin = iommufd.pin(fd, MOCK + 2 * PAGE, 2 * PAGE)
    mock, _, _ = iommufd.mock(ioas)
    assert iommufd.system.memory.held_frames == 8
    iommufd.destroy(mock)
    assert iommufd.system.memory.held_frames == 2
    iommufd.mock(ioas)
    iommufd.unpin(fd, pin)
    assert iommufd.system.memory.held_frames == 8


def test_a_pin_spans_areas_that_line_up_with_pages(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, 2 * PAGE, MOCK)
    iommufd.map(ioas, buffer + 4 * PAGE, 2 * PAGE, MOCK + 2 * PAGE)
    fd = iommufd.access(ioas)
    iommufd.pin(fd, MOCK + PAGE, 2 * PAGE)
    with pytest.raises(NotFound):
        iommufd.pin(fd, MOCK, 5 * PAGE)
    assert iommufd.system.memory.held_frames == 2


def test_pins_want_page_aligned_areas(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer + 2048, 2 * PAGE, MOCK)
    with pytest.raises(AddressInUse):
        iommufd.access(ioas)
    iommufd.unmap(ioas)
    fd = iommufd.access(ioas)
    with pytest.raises(InvalidArgument):
        iommufd.map(ioas, buffer + 2048, 2 * PAGE, MOCK)
    iommufd.map(ioas, buffer, PAGE, MOCK)
    with pytest.raises(InvalidArgument):
        iommufd.pin(fd, MOCK + 2048, 2048)


def test_pinning_needs_the_permission_of_the_mapping(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, PAGE, MOCK, READ)
    iommufd.map(ioas, buffer, PAGE, MOCK + PAGE, WRITE)
    fd = iommufd.access(ioas)
    with pytest.raises(NotPermitted):
        iommufd.pin(fd, MOCK, PAGE, write=True)
    with pytest.raises(NotPermitted):
        iommufd.pin(fd, MOCK + PAGE, PAGE)
    iommufd.pin(fd, MOCK, PAGE)
    iommufd.pin(fd, MOCK + PAGE, PAGE, write=True)


def test_the_range_of_a_pin_is_checked_first(iommufd: Iommufd, ioas: int) -> None:
    fd = iommufd.access(ioas)
    with pytest.raises(InvalidArgument):
        iommufd.pin(fd, MOCK, 0)
    with pytest.raises(Overflow):
        iommufd.pin(fd, EVERYTHING - PAGE + 1, 2 * PAGE)
    with pytest.raises(NotFound):
        iommufd.pin(fd, MOCK, PAGE)


def test_a_hole_is_found_when_it_is_pinned(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.caller.memory.unmap(buffer + 2 * PAGE, 1)
    iommufd.map(ioas, buffer, 4 * PAGE, MOCK)
    fd = iommufd.access(ioas)
    iommufd.pin(fd, MOCK, PAGE)
    with pytest.raises(BadAddress):
        iommufd.pin(fd, MOCK, 4 * PAGE)
    assert iommufd.system.memory.held_frames == iommufd.caller.memory.pinned_pages == 1


def test_pins_are_charged(ioas: int) -> None:
    iommufd = Iommufd(caller=FakeCaller([], memlock=4 * PAGE))
    ioas = iommufd.alloc()
    iommufd.map(ioas, iommufd.caller.memory.map(8), 8 * PAGE, MOCK)
    fd = iommufd.access(ioas)
    iommufd.pin(fd, MOCK, 3 * PAGE)
    with pytest.raises(OutOfMemory):
        iommufd.pin(fd, MOCK + 2 * PAGE, 4 * PAGE)
    assert iommufd.system.memory.held_frames == iommufd.system.accounting.locked(1000) == 3
    iommufd.pin(fd, MOCK, 4 * PAGE)


def test_closing_the_access_lets_go_of_everything(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, 8 * PAGE, MOCK)
    fd = iommufd.access(ioas)
    iommufd.pin(fd, MOCK, 8 * PAGE)
    iommufd.caller.files[fd].close()  # type: ignore[union-attr]
    assert iommufd.system.memory.held_frames == 0
    iommufd.destroy(ioas)


def test_an_access_can_move_to_another_ioas_and_its_pins_do_not(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, PAGE, MOCK)
    fd = iommufd.access(ioas)
    iommufd.pin(fd, MOCK, PAGE)
    other = iommufd.alloc()
    iommufd.map(other, buffer + PAGE, PAGE, MOCK)
    iommufd.test(uapi.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, fd, access_replace_ioas={"ioas_id": other})
    assert iommufd.system.memory.held_frames == 0
    iommufd.pin(fd, MOCK, PAGE, buffer + PAGE)
    iommufd.destroy(ioas)
    with pytest.raises(NotFound):
        iommufd.test(uapi.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, fd, access_replace_ioas={"ioas_id": ioas})


# -- copying


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("slow", [0, SLOW])
def test_what_is_written_through_iova_is_read_at_the_address_and_back(
    iommufd: Iommufd, ioas: int, buffer: int, slow: int, attached: bool
) -> None:
    memory = iommufd.caller.memory
    fd = iommufd.access(ioas, pins=False)
    if attached:
        iommufd.mock(ioas)
    iommufd.map(ioas, buffer + 2048, 4 * PAGE, MOCK)
    user = memory.map(4)
    for start, length in ((0, 1), (2047, 2), (PAGE - 1, PAGE + 2), (100, 4 * PAGE - 100)):
        data = bytes((index * 7 + length) & 255 for index in range(length))
        memory.write(user, data)
        rw(iommufd, fd, MOCK + start, length, user, slow | uapi.MOCK_ACCESS_RW_WRITE)
        assert memory.read(buffer + 2048 + start, length) == data
        memory.write(user, bytes(length))
        rw(iommufd, fd, MOCK + start, length, user, slow)
        assert memory.read(user, length) == data
    assert iommufd.system.memory.held_frames == (5 if attached else 0)


def test_a_file_is_copied_from_through_its_pages(iommufd: Iommufd, ioas: int) -> None:
    file = FakeFile(2)
    file.page(0)[PAGE - 2 :] = b"ab"
    file.page(1)[:2] = b"cd"
    iommufd.map_file(ioas, iommufd.caller.install(file), 0, 2 * PAGE, MOCK)
    fd = iommufd.access(ioas, pins=False)
    user = iommufd.caller.memory.map(1)
    rw(iommufd, fd, MOCK + PAGE - 2, 4, user)
    assert iommufd.caller.memory.read(user, 4) == b"abcd"


def test_memory_of_a_process_that_is_gone_is_reached_only_where_it_is_pinned(iommufd: Iommufd, ioas: int) -> None:
    child = FakeCaller()
    memory = child.memory
    address = memory.map(2)
    memory.write(address + PAGE - 2, b"left")
    user = iommufd.caller.memory.map(1)
    fd = iommufd.access(ioas, pins=False)
    mock, _, _ = iommufd.mock(ioas)
    iommufd.map(ioas, address, 2 * PAGE, MOCK, caller=child)
    memory.alive = False
    for iova, length, data in ((MOCK + PAGE - 2, 4, b"left"), (MOCK + PAGE - 2, 2, b"le")):
        rw(iommufd, fd, iova, length, user)
        assert iommufd.caller.memory.read(user, length) == data
    iommufd.destroy(mock)
    with pytest.raises(BadAddress):
        rw(iommufd, fd, MOCK, 1, user)
    with pytest.raises(BadAddress):
        iommufd.mock(ioas)


def test_memory_of_another_process_is_reached_as_it_is_now_and_not_through_pins(iommufd: Iommufd, ioas: int) -> None:
    """iopt_pages_rw_page: what its address space refuses is EFAULT, though the page is pinned for writing."""
    child = FakeCaller()
    address = child.memory.map(1)
    user = iommufd.caller.memory.map(1)
    fd = iommufd.access(ioas, pins=False)
    iommufd.mock(ioas)
    iommufd.map(ioas, address, PAGE, MOCK, caller=child)
    rw(iommufd, fd, MOCK, 4, user, uapi.MOCK_ACCESS_RW_WRITE)
    child.memory.protect(address)
    with pytest.raises(BadAddress):
        rw(iommufd, fd, MOCK, 4, user, uapi.MOCK_ACCESS_RW_WRITE)
    rw(iommufd, fd, MOCK, 4, user)


def test_a_copy_stops_at_a_hole_after_what_stands_before_it(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    iommufd.map(ioas, buffer, PAGE, MOCK)
    fd = iommufd.access(ioas, pins=False)
    user = iommufd.caller.memory.map(1)
    iommufd.caller.memory.write(user, b"data")
    with pytest.raises(NotFound):
        rw(iommufd, fd, MOCK + PAGE - 2, 4, user, uapi.MOCK_ACCESS_RW_WRITE)
    assert iommufd.caller.memory.read(buffer + PAGE - 2, 2) == b"da"


@pytest.mark.parametrize(("mapped", "flags"), [(READ, uapi.MOCK_ACCESS_RW_WRITE), (WRITE, 0)])
def test_copying_needs_the_permission_of_the_mapping(
    iommufd: Iommufd, ioas: int, buffer: int, mapped: int, flags: int
) -> None:
    iommufd.map(ioas, buffer, PAGE, MOCK, mapped)
    fd = iommufd.access(ioas, pins=False)
    with pytest.raises(NotPermitted):
        rw(iommufd, fd, MOCK, 4, buffer + 4 * PAGE, flags)


def test_the_arguments_of_a_copy_are_checked(iommufd: Iommufd, ioas: int, buffer: int) -> None:
    fd = iommufd.access(ioas, pins=False)
    iommufd.map(ioas, buffer, PAGE, MOCK, RW)
    for length, flags, error in (((16 << 20) + 1, 0, OutOfMemory), (1, 2, NotSupported), (0, 0, InvalidArgument)):
        with pytest.raises(error):
            rw(iommufd, fd, MOCK, length, buffer, flags)
    for flags in (0, uapi.MOCK_ACCESS_RW_WRITE):
        with pytest.raises(BadAddress):
            rw(iommufd, fd, MOCK, 4, 0, flags)


# -- the descriptor


def test_only_the_descriptor_of_a_test_access_is_taken(iommufd: Iommufd, ioas: int) -> None:
    iommufd.caller.foreign.add(50)
    other = iommufd.caller.install(iommufd.context)
    for fd in (other, 50, 77):
        with pytest.raises(WrongFile):
            iommufd.pin(fd, MOCK, PAGE)


def test_an_access_made_for_copying_does_not_pin(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(NotSupported):
        iommufd.pin(iommufd.access(ioas, pins=False), MOCK, PAGE)


def test_an_access_wants_an_ioas_and_known_flags(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(NotFound):
        iommufd.access(99)
    with pytest.raises(NotSupported):
        iommufd.test(uapi.IOMMU_TEST_OP_CREATE_ACCESS, ioas, create_access={"flags": 2})
    assert not iommufd.caller.files
    iommufd.destroy(ioas)
