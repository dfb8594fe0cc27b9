"""IOMMU_OPTION."""

from __future__ import annotations

import pytest

from ioas.errors import AddressInUse, Busy, InvalidArgument, NotFound, NotPermitted, NotSupported
from ioas.host import Capability
from ioas.soft.iommu import Domain
from ioas.soft.iommufd import Context
from ioas.uapi import iommufd as uapi
from tests.support.caller import FakeCaller
from tests.support.iommufd import MOCK, PAGE, Iommufd, requester

RLIMIT, HUGE = uapi.IOMMU_OPTION_RLIMIT_MODE, uapi.IOMMU_OPTION_HUGE_PAGES
SET, GET = uapi.IOMMU_OPTION_OP_SET, uapi.IOMMU_OPTION_OP_GET


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


def test_memory_is_charged_to_the_user_unless_the_process_is_chosen(iommufd: Iommufd) -> None:
    assert iommufd.option(RLIMIT, GET, 7) == 0
    assert iommufd.option(RLIMIT, SET, 1) == 1
    assert iommufd.option(RLIMIT, GET) == 1
    assert iommufd.option(RLIMIT, SET, 0) == 0


def test_a_container_charges_the_process_from_the_start(iommufd: Iommufd) -> None:
    iommufd.context = Context(iommufd.system, vfio=True)
    assert iommufd.option(RLIMIT, GET) == 1


def test_the_checks_of_rlimit_mode_come_in_the_kernels_order(iommufd: Iommufd) -> None:
    nobody = FakeCaller([])
    with pytest.raises(NotSupported):
        iommufd.option(RLIMIT, 5, 2, 1, nobody)
    with pytest.raises(NotSupported):
        iommufd.option(RLIMIT, 5, 2, 0, nobody)
    iommufd.alloc()
    with pytest.raises(NotPermitted):
        iommufd.option(RLIMIT, SET, 2, 0, nobody)
    with pytest.raises(Busy):
        iommufd.option(RLIMIT, SET, 2)
    iommufd.destroy(1)
    with pytest.raises(InvalidArgument):
        iommufd.option(RLIMIT, SET, 2)


def test_sys_resource_is_the_capability_that_counts(iommufd: Iommufd) -> None:
    assert iommufd.option(RLIMIT, SET, 1, 0, FakeCaller([Capability.SYS_RESOURCE])) == 1


def test_unknown_options_and_reserved_fields_are_not_supported(iommufd: Iommufd) -> None:
    with pytest.raises(NotSupported):
        iommufd.option(2, GET)
    command = uapi.iommu_option(option_id=HUGE)
    setattr(command, "__reserved", 1)
    with pytest.raises(NotSupported):
        iommufd.call(uapi.IOMMU_OPTION, command)


def test_large_pages_are_allowed_until_they_are_turned_off(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    assert iommufd.option(HUGE, GET, 3, ioas) == 1
    assert iommufd.option(HUGE, SET, 0, ioas) == 0
    assert iommufd.option(HUGE, GET, 3, ioas) == 0
    assert iommufd.ranges(ioas)[1] == PAGE
    assert iommufd.option(HUGE, SET, 1, ioas) == 1
    assert iommufd.ranges(ioas)[1] == 1


def test_huge_pages_is_0_or_1_of_an_ioas(iommufd: Iommufd) -> None:
    for op in (GET, SET):
        with pytest.raises(NotFound):
            iommufd.option(HUGE, op)
    ioas = iommufd.alloc()
    with pytest.raises(InvalidArgument):
        iommufd.option(HUGE, SET, 2, ioas)
    with pytest.raises(NotSupported):
        iommufd.option(HUGE, 2, 0, ioas)


def test_without_large_pages_everything_is_aligned_to_pages(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.option(HUGE, SET, 0, ioas)
    with pytest.raises(InvalidArgument):
        iommufd.map(ioas, (1 << 31) + 2048, PAGE, MOCK)
    iommufd.option(HUGE, SET, 1, ioas)
    iommufd.map(ioas, (1 << 31) + 2048, PAGE, MOCK)
    with pytest.raises(AddressInUse):
        iommufd.option(HUGE, SET, 0, ioas)
    assert iommufd.option(HUGE, GET, 3, ioas) == 1


def test_large_pages_stay_once_a_domain_has_mappings(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.mock(ioas)
    iommufd.option(HUGE, SET, 0, ioas)
    iommufd.option(HUGE, SET, 1, ioas)
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, MOCK)
    with pytest.raises(InvalidArgument):
        iommufd.option(HUGE, SET, 0, ioas)
    iommufd.option(HUGE, SET, 1, ioas)


@pytest.mark.parametrize(("enable", "size_lg2"), [(0, 12), (1, 21)])
def test_contiguous_memory_is_joined_only_when_large_pages_are_on(iommufd: Iommufd, enable: int, size_lg2: int) -> None:
    from ioas.soft.iommu.walker import walk
    from tests.support.ram import Ram

    ioas = iommufd.alloc()
    iommufd.option(HUGE, SET, enable, ioas)
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    iommufd.map(ioas, iommufd.caller.memory.map(512, ram=Ram(512, order=9)), 2 << 20, 0)
    domain = device.requester.domain
    assert isinstance(domain, Domain)
    found = walk(domain.format, iommufd.system.memory.tables, domain.table.root, 0)
    assert found is not None
    assert found.size_lg2 == size_lg2
