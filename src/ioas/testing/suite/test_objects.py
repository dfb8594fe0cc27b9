"""Objects of an iommufd: ids, kinds, uses, options, the container's address space."""

from __future__ import annotations

import select

import pytest

from ioas.api import Device, Ioas, Iommufd
from ioas.api.host import BaseHost
from ioas.errors import (
    AlreadyExists,
    Busy,
    InvalidArgument,
    KernelError,
    NoDevice,
    NotFound,
    NotPermitted,
    NotSupported,
    UsageError,
)
from ioas.host import PAGE_SIZE
from ioas.testing.suite.edu import IOVA
from ioas.uapi.iommufd import IOMMU_OPTION_HUGE_PAGES

NOBODY = 0xFFFF_FFF0


def test_ids_are_positive_and_each_is_given_once(ioas_iommufd: Iommufd) -> None:
    spaces = [ioas_iommufd.ioas() for _ in range(5)]
    ids = {space.id for space in spaces}
    assert len(ids) == 5
    assert min(ids) > 0
    for space in spaces:
        space.close()


def test_the_id_of_a_destroyed_object_is_given_again(ioas_iommufd: Iommufd) -> None:
    with ioas_iommufd.ioas() as first:
        freed = first.id
    with ioas_iommufd.ioas() as second:
        assert second.id == freed


def test_what_does_not_exist_is_not_found(ioas_iommufd: Iommufd) -> None:
    for number in (0, NOBODY):
        with pytest.raises(NotFound):
            ioas_iommufd.destroy(number)


def test_an_object_is_destroyed_once(ioas_iommufd: Iommufd) -> None:
    space = ioas_iommufd.ioas()
    ioas_iommufd.destroy(space.id)
    with pytest.raises(NotFound):
        ioas_iommufd.destroy(space.id)
    space.forget()


def test_an_object_that_something_else_uses_cannot_be_destroyed(ioas_device: Device, ioas_space: Ioas) -> None:
    iommufd = ioas_space.iommufd
    for number in (ioas_space.id, ioas_device.id):
        with pytest.raises(Busy):
            iommufd.destroy(number)
    table = ioas_device.attach(ioas_space)
    with pytest.raises(Busy):
        iommufd.destroy(table)


def test_an_id_of_the_wrong_kind_is_not_found(ioas_device: Device, ioas_space: Ioas) -> None:
    iommufd = ioas_space.iommufd
    with pytest.raises(NotFound):
        iommufd.option(IOMMU_OPTION_HUGE_PAGES, ioas_device.id)
    stranger = Ioas(iommufd, ioas_device.id)
    for use in (stranger.ranges, stranger.unmap_all, lambda: stranger.allow([(0, PAGE_SIZE - 1)])):
        with pytest.raises(NotFound):
            use()
    stranger.forget()


def test_two_open_files_are_two_worlds(ioas_host: BaseHost) -> None:
    with ioas_host.iommufd() as one, ioas_host.iommufd() as other, one.ioas() as first, other.ioas() as second:
        assert first.id == second.id
        with second.alloc(PAGE_SIZE, iova=IOVA), first.alloc(PAGE_SIZE, iova=IOVA), pytest.raises(AlreadyExists):
            first.alloc(PAGE_SIZE, iova=IOVA)


def test_an_iommufd_is_always_ready_and_can_be_neither_read_nor_written(ioas_iommufd: Iommufd) -> None:
    assert select.select([ioas_iommufd], [ioas_iommufd], [], 0)[:2] == ([ioas_iommufd], [ioas_iommufd])
    with pytest.raises(InvalidArgument):
        ioas_iommufd.read(8)
    with pytest.raises(InvalidArgument):
        ioas_iommufd.write(bytes(8))


def test_a_closed_iommufd_says_so(ioas_host: BaseHost) -> None:
    iommufd = ioas_host.iommufd()
    space = iommufd.ioas()
    iommufd.close()
    iommufd.close()
    for use in (iommufd.ioas, iommufd.fileno, space.ranges, lambda: space.alloc(PAGE_SIZE)):
        with pytest.raises(UsageError, match="is closed"):
            use()
    space.close()


def test_large_pages_are_an_option_of_each_space(ioas_iommufd: Iommufd) -> None:
    with ioas_iommufd.ioas() as one, ioas_iommufd.ioas() as other:
        assert (one.huge_pages, other.huge_pages) == (True, True)
        one.huge_pages = False
        assert (one.huge_pages, other.huge_pages) == (False, True)
        one.huge_pages = True
        with pytest.raises(InvalidArgument):
            ioas_iommufd.set_option(IOMMU_OPTION_HUGE_PAGES, 2, one.id)


def test_an_unknown_option_is_not_supported(ioas_iommufd: Iommufd) -> None:
    for use in (lambda: ioas_iommufd.option(0x7FFF), lambda: ioas_iommufd.set_option(0x7FFF, 1)):
        with pytest.raises(NotSupported):
            use()


def test_what_counts_locked_memory_is_settled_before_there_are_objects(ioas_iommufd: Iommufd) -> None:
    assert ioas_iommufd.rlimit_mode == 0
    with ioas_iommufd.ioas(), pytest.raises((Busy, NotPermitted)):  # EPERM without CAP_SYS_RESOURCE
        ioas_iommufd.rlimit_mode = 1


def test_the_container_s_space_is_set_got_and_cleared(ioas_iommufd: Iommufd) -> None:
    with pytest.raises(NoDevice):
        _ = ioas_iommufd.vfio_ioas
    with pytest.raises(NotFound):
        ioas_iommufd.vfio_ioas = NOBODY
    with ioas_iommufd.ioas() as space:
        ioas_iommufd.vfio_ioas = space.id
        assert ioas_iommufd.vfio_ioas == space.id
        ioas_iommufd.vfio_ioas = 0
    with pytest.raises(NoDevice):
        _ = ioas_iommufd.vfio_ioas


def test_only_memory_of_files_can_be_charged_to_another_process(ioas_iommufd: Iommufd) -> None:
    ioas_iommufd.change_process()
    with ioas_iommufd.ioas() as space, space.alloc(PAGE_SIZE), pytest.raises(InvalidArgument):
        ioas_iommufd.change_process()


def test_a_refusal_says_what_was_refused_and_why(ioas_iommufd: Iommufd) -> None:
    with pytest.raises(KernelError) as caught:
        ioas_iommufd.destroy(NOBODY)
    assert caught.value.errno == caught.value.refusal.errno
    assert caught.value.refusal.name == "ENOENT"
    assert str(caught.value).startswith("ENOENT: ")
