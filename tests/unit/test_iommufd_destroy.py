"""IOMMU_DESTROY, and what goes when the file is closed."""

from __future__ import annotations

import pytest

from ioas.errors import Busy, NotFound
from tests.support.iommufd import MOCK, PAGE, Iommufd, requester


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


def test_id_0_is_never_valid(iommufd: Iommufd) -> None:
    with pytest.raises(NotFound):
        iommufd.destroy(0)


def test_ids_count_from_1_and_the_lowest_free_one_is_next(iommufd: Iommufd) -> None:
    assert [iommufd.alloc() for _ in range(4)] == [1, 2, 3, 4]
    iommufd.destroy(3)
    iommufd.destroy(2)
    assert [iommufd.alloc() for _ in range(3)] == [2, 3, 5]


def test_a_destroyed_object_is_not_found(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.destroy(ioas)
    with pytest.raises(NotFound):
        iommufd.destroy(ioas)


def test_an_ioas_is_busy_while_a_page_table_carries_it(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    mock, table, _ = iommufd.mock(ioas)
    with pytest.raises(Busy):
        iommufd.destroy(ioas)
    iommufd.destroy(mock)
    with pytest.raises(NotFound):
        iommufd.destroy(table)
    iommufd.destroy(ioas)


def test_a_bound_device_cannot_be_destroyed_by_its_user(iommufd: Iommufd) -> None:
    _, _, device = iommufd.mock(iommufd.alloc())
    with pytest.raises(Busy):
        iommufd.destroy(device)


def test_an_ioas_is_busy_while_an_access_uses_it(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    fd = iommufd.access(ioas)
    with pytest.raises(Busy, match="access"):
        iommufd.destroy(ioas)
    iommufd.caller.files.pop(fd).close()  # type: ignore[union-attr]
    iommufd.destroy(ioas)


def test_an_ioas_goes_with_its_mappings(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, MOCK)
    iommufd.destroy(ioas)
    iommufd.close()
    assert not iommufd.leaks()


def test_closing_the_file_destroys_everything_leaves_first(iommufd: Iommufd) -> None:
    first, second = iommufd.alloc(), iommufd.alloc()
    buffer = iommufd.caller.memory.map(4)
    for ioas in (first, second):
        _, _, device = iommufd.mock(ioas)
        iommufd.hwpt(device, ioas)
        iommufd.map(ioas, buffer, 4 * PAGE, MOCK)
    iommufd.access(first)
    assert iommufd.system.memory.held_frames == 8
    iommufd.close()
    assert not iommufd.leaks()
    assert not iommufd.system.groups


def test_a_bound_device_keeps_the_context_of_a_closed_file(iommufd: Iommufd) -> None:
    """Follows iommufd_ctx_get in iommufd_device_bind: a VFIO device outlives the descriptor it was bound to."""
    ioas = iommufd.alloc()
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0)
    iommufd.context.close()
    assert iommufd.system.memory.held_frames == 1
    assert device.requester.domain is not None
    device.unbind()
    assert not iommufd.leaks()


def test_an_access_keeps_the_context_of_a_closed_file(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    fd = iommufd.access(ioas)
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0)
    iommufd.pin(fd, 0, PAGE)
    iommufd.context.close()
    assert iommufd.system.memory.held_frames == 1
    iommufd.caller.close_all()
    assert not iommufd.leaks()
