"""IOMMU_IOAS_CHANGE_PROCESS: who is charged after a fork or an exec."""

from __future__ import annotations

import pytest

from ioas.errors import InvalidArgument, NotSupported, OutOfMemory
from ioas.host import Capability
from ioas.uapi import iommufd as uapi
from tests.support.caller import FakeCaller, FakeFile
from tests.support.iommufd import MOCK, PAGE, Iommufd


def opened(capabilities: tuple[Capability, ...] = (), mode: int | None = None) -> tuple[Iommufd, int, int]:
    """A file with an IOAS that has a device, and a memfd of 4 pages."""
    iommufd = Iommufd(caller=FakeCaller({*capabilities, Capability.SYS_RESOURCE}))
    if mode is not None:
        iommufd.option(uapi.IOMMU_OPTION_RLIMIT_MODE, uapi.IOMMU_OPTION_OP_SET, mode)
    ioas = iommufd.alloc()
    iommufd.mock(ioas)
    return iommufd, ioas, iommufd.caller.install(FakeFile(4))


def change(iommufd: Iommufd, caller: FakeCaller | None = None) -> None:
    iommufd.call(uapi.IOMMU_IOAS_CHANGE_PROCESS, uapi.iommu_ioas_change_process(), caller)


def pages(*callers: FakeCaller) -> list[tuple[int, int]]:
    return [(caller.memory.pinned_pages, caller.memory.locked_pages) for caller in callers]


def test_all_mappings_must_be_of_files() -> None:
    iommufd, ioas, fd = opened()
    iommufd.map_file(ioas, fd, 0, PAGE, MOCK)
    iommufd.map(iommufd.alloc(), 1 << 31, PAGE, iova=0)
    with pytest.raises(InvalidArgument, match="file"):
        change(iommufd, FakeCaller())


def test_reserved_fields_are_not_supported() -> None:
    iommufd, _, _ = opened()
    command = uapi.iommu_ioas_change_process()
    setattr(command, "__reserved", 1)
    with pytest.raises(NotSupported):
        iommufd.call(uapi.IOMMU_IOAS_CHANGE_PROCESS, command)


@pytest.mark.parametrize(("mode", "locked"), [(0, 0), (1, 3)])
def test_the_charge_moves_to_the_caller_once_for_shared_pages(mode: int, locked: int) -> None:
    iommufd, ioas, fd = opened(mode=mode)
    child = FakeCaller([], uid=2000)
    iommufd.map_file(ioas, fd, 0, 3 * PAGE, MOCK)
    iommufd.copy(ioas, MOCK, 3 * PAGE, ioas, MOCK + 8 * PAGE)
    change(iommufd)
    assert pages(iommufd.caller, child) == [(3, locked), (0, 0)]
    change(iommufd, child)
    assert pages(iommufd.caller, child) == [(0, 0), (3, locked)]
    assert [iommufd.system.accounting.locked(uid) for uid in (1000, 2000)] == [0, 0 if mode else 3]
    iommufd.unmap(ioas)
    assert pages(iommufd.caller, child) == [(0, 0), (0, 0)]
    assert iommufd.system.accounting.locked(2000) == 0


def test_what_the_caller_may_not_lock_stays_with_the_former_process() -> None:
    iommufd, ioas, fd = opened(mode=1)
    child = FakeCaller([], memlock=2 * PAGE)
    iommufd.map_file(ioas, fd, 0, 3 * PAGE, MOCK)
    with pytest.raises(OutOfMemory):
        change(iommufd, child)
    assert pages(iommufd.caller, child) == [(3, 3), (0, 0)]


def test_what_was_mapped_with_ipc_lock_stays_where_it_was_counted() -> None:
    iommufd, ioas, fd = opened((Capability.IPC_LOCK,))
    child = FakeCaller([])
    iommufd.map_file(ioas, fd, 0, 3 * PAGE, MOCK)
    change(iommufd, child)
    assert pages(iommufd.caller, child) == [(3, 0), (0, 0)]
    iommufd.unmap(ioas)
    assert pages(iommufd.caller, child) == [(0, 0), (0, 0)]


def test_unpinned_mappings_move_too() -> None:
    iommufd = Iommufd(caller=FakeCaller([]))
    ioas = iommufd.alloc()
    child = FakeCaller()
    iommufd.map_file(ioas, iommufd.caller.install(FakeFile(4)), 0, 2 * PAGE, MOCK)
    change(iommufd, child)
    iommufd.mock(ioas)
    assert pages(iommufd.caller, child) == [(0, 0), (2, 0)]
