"""How structures come in and go out, whatever the command (copy_struct_from_user, iommufd_fops_ioctl)."""

from __future__ import annotations

from ctypes import sizeof
from errno import EBUSY

import pytest

from ioas.errors import BadAddress, InvalidArgument, KernelError, NotFound, TooBig, UnknownRequest
from ioas.soft.iommu import System
from ioas.soft.iommufd import Context
from ioas.soft.iommufd.commands import COMMANDS
from ioas.uapi import iommufd as uapi
from ioas.uapi.base import end_of
from ioas.uapi.iommufd_test import IOMMU_TEST_CMD
from tests.support.caller import FakeCaller
from tests.support.iommufd import PAGE, Iommufd

OTHER_TYPE = 1 << 8


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def page(iommufd: Iommufd) -> int:
    """A page of the caller's memory with nothing behind it."""
    return iommufd.caller.memory.map(1)


def outcome(iommufd: Iommufd, request: int, place: int) -> int | None:
    """The errno of a call on the structure at `place`."""
    try:
        iommufd.context.ioctl(iommufd.caller, request, place)
    except KernelError as error:
        return error.errno
    return None


def test_there_are_22_commands() -> None:
    assert len(COMMANDS) == 22


@pytest.mark.parametrize("request_number", COMMANDS)
def test_a_structure_shorter_than_its_first_version_is_invalid(
    iommufd: Iommufd, page: int, request_number: int
) -> None:
    iommufd.caller.memory.write(page, (COMMANDS[request_number].minimum - 1).to_bytes(4, "little"))
    with pytest.raises(InvalidArgument):
        iommufd.context.ioctl(iommufd.caller, request_number, page)


@pytest.mark.parametrize("request_number", COMMANDS)
def test_an_unknown_tail_is_taken_when_it_is_zero_and_refused_when_not(
    iommufd: Iommufd, page: int, request_number: int
) -> None:
    length = COMMANDS[request_number].length
    iommufd.caller.memory.write(page, length.to_bytes(4, "little"))
    plain = outcome(iommufd, request_number, page)
    iommufd.caller.memory.write(page, (length + 9).to_bytes(4, "little"))
    assert outcome(iommufd, request_number, page) == plain
    iommufd.caller.memory.write(page + length + 8, b"\x01")
    with pytest.raises(TooBig):
        iommufd.context.ioctl(iommufd.caller, request_number, page)


def test_a_bad_pointer_is_a_bad_address(iommufd: Iommufd) -> None:
    with pytest.raises(BadAddress):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_DESTROY, 0)


def test_a_structure_that_runs_off_its_page_is_a_bad_address(iommufd: Iommufd, page: int) -> None:
    place = page + PAGE - 4
    iommufd.caller.memory.write(place, (8).to_bytes(4, "little"))
    with pytest.raises(BadAddress):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_DESTROY, place)


def test_a_short_structure_may_end_where_memory_ends(iommufd: Iommufd, page: int) -> None:
    minimum = end_of(uapi.iommu_hwpt_alloc, "__reserved")
    assert minimum < sizeof(uapi.iommu_hwpt_alloc)
    place = page + PAGE - minimum
    iommufd.caller.memory.write(place, minimum.to_bytes(4, "little"))
    with pytest.raises(NotFound):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_HWPT_ALLOC, place)


def test_an_answer_is_cut_to_what_the_caller_knows(iommufd: Iommufd, page: int) -> None:
    """A structure of the first version gets no more bytes back than it has."""
    memory = iommufd.caller.memory
    minimum = end_of(uapi.iommu_ioas_alloc, "out_ioas_id")
    memory.write(page, minimum.to_bytes(4, "little") + bytes(8) + b"kept")
    iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_IOAS_ALLOC, page)
    assert memory.read(page, 16) == minimum.to_bytes(4, "little") + bytes(4) + (1).to_bytes(4, "little") + b"kept"


def test_what_comes_first_in_a_long_tail_counts(iommufd: Iommufd, page: int) -> None:
    """A caller may claim 4 GiB: a wrong byte before the end of memory is E2BIG, the end of memory is EFAULT."""
    memory = iommufd.caller.memory
    memory.write(page, (0xFFFF_FFFF).to_bytes(4, "little"))
    with pytest.raises(BadAddress):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_DESTROY, page)
    memory.write(page + PAGE - 1, b"\x01")
    with pytest.raises(TooBig):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_DESTROY, page)


def test_a_known_number_with_other_bits_is_an_unknown_request(iommufd: Iommufd, page: int) -> None:
    with pytest.raises(UnknownRequest):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_DESTROY ^ OTHER_TYPE, page)
    with pytest.raises(BadAddress):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_DESTROY ^ OTHER_TYPE, 0)


@pytest.mark.parametrize("number", [0x00, 0x7F, 0xA1, 0xFF])
def test_a_number_of_nobody_is_an_unknown_request_whatever_it_points_to(iommufd: Iommufd, number: int) -> None:
    with pytest.raises(UnknownRequest):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_DESTROY & ~0xFF | number, 0)


def test_the_test_request_is_known_only_when_it_was_asked_for() -> None:
    plain = Iommufd(test=False)
    with pytest.raises(UnknownRequest):
        plain.context.ioctl(plain.caller, IOMMU_TEST_CMD, 0)
    with pytest.raises(BadAddress):
        Iommufd(test=True).context.ioctl(plain.caller, IOMMU_TEST_CMD, 0)


def test_a_structure_of_this_process_is_answered_where_it_stands() -> None:
    context, caller = Context(System()), FakeCaller()
    command = uapi.iommu_ioas_alloc(size=12)
    context.ioctl(caller, uapi.IOMMU_IOAS_ALLOC, command)
    assert command.out_ioas_id == 1


def test_a_buffer_of_this_process_is_held_to_the_same_rules() -> None:
    context, caller = Context(System()), FakeCaller()
    exact = bytearray((12).to_bytes(4, "little") + bytes(8))
    context.ioctl(caller, uapi.IOMMU_IOAS_ALLOC, exact)
    assert exact[8:] == (1).to_bytes(4, "little")
    with pytest.raises(BadAddress):
        context.ioctl(caller, uapi.IOMMU_IOAS_ALLOC, exact[:8])
    with pytest.raises(BadAddress):
        context.ioctl(caller, uapi.IOMMU_IOAS_ALLOC, bytes(exact))
    with pytest.raises(TooBig):
        context.ioctl(caller, uapi.IOMMU_IOAS_ALLOC, bytearray((16).to_bytes(4, "little") + bytes(8) + b"tail"))


def test_an_object_whose_id_cannot_be_told_is_not_made(iommufd: Iommufd) -> None:
    place = iommufd.caller.memory.map(1, write=False)
    ram, page, _ = iommufd.caller.memory._pages[place >> 12]
    ram.page(page)[:4] = (12).to_bytes(4, "little")
    with pytest.raises(BadAddress):
        iommufd.context.ioctl(iommufd.caller, uapi.IOMMU_IOAS_ALLOC, place)
    assert iommufd.alloc() == 1


def test_an_iommufd_file_is_neither_read_nor_written_nor_mapped(iommufd: Iommufd) -> None:
    with pytest.raises(InvalidArgument):
        iommufd.context.read(iommufd.caller, 1, None)
    with pytest.raises(InvalidArgument):
        iommufd.context.write(iommufd.caller, b"x", None)
    for length, protection, flags, errno in (
        (PAGE, 3, 1, "ENXIO"),
        (PAGE, 3, 3, "ENXIO"),  # MAP_SHARED_VALIDATE
        (5, 3, 1, "ENXIO"),
        (0, 3, 1, "EINVAL"),
        (PAGE, 3, 2, "EINVAL"),
        (PAGE, 7, 1, "EPERM"),
    ):
        with pytest.raises(KernelError, match=errno):
            iommufd.context.mmap(iommufd.caller, length, protection, flags, PAGE)


def test_closing_twice_is_closing_once(iommufd: Iommufd) -> None:
    iommufd.alloc()
    iommufd.close()
    iommufd.close()
    assert not iommufd.leaks()


def test_a_busy_object_names_its_user(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    _, table, _ = iommufd.mock(ioas)
    with pytest.raises(KernelError, match=f"page table {table}") as raised:
        iommufd.destroy(ioas)
    assert raised.value.errno == EBUSY
