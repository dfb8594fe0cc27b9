"""IOMMU_IOAS_MAP_FILE."""

from __future__ import annotations

import pytest

from ioas.errors import BadFile, InvalidArgument, NotFound, NotSupported, Overflow
from tests.support.caller import FakeFile
from tests.support.iommufd import EVERYTHING, FIXED, MOCK, PAGE, Iommufd, requester


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


@pytest.fixture
def fd(iommufd: Iommufd) -> int:
    """A memfd of 8 pages."""
    return iommufd.caller.install(FakeFile(8))


def test_the_checks_come_in_the_kernels_order(iommufd: Iommufd, ioas: int, fd: int) -> None:
    with pytest.raises(NotSupported):
        iommufd.map_file(99, 77, 0, EVERYTHING, flags=8)
    with pytest.raises(Overflow):
        iommufd.map_file(99, 77, 0, EVERYTHING, flags=0)
    with pytest.raises(InvalidArgument):
        iommufd.map_file(99, 77, 0, 0, flags=FIXED)
    with pytest.raises(NotFound):
        iommufd.map_file(99, 77, 0, 0)
    with pytest.raises(InvalidArgument):
        iommufd.map_file(ioas, 77, 0, 0)
    with pytest.raises(Overflow):
        iommufd.map_file(ioas, 77, EVERYTHING, PAGE)
    with pytest.raises(BadFile):
        iommufd.map_file(ioas, 77, 0, PAGE)


def test_dma_reaches_the_pages_of_the_file(iommufd: Iommufd, ioas: int, fd: int) -> None:
    device = iommufd.bind(requester(iommufd.system))
    device.attach(ioas)
    file = iommufd.caller.files[fd]
    assert isinstance(file, FakeFile)
    file.page(3)[:5] = b"three"
    iova = iommufd.map_file(ioas, fd, 2 * PAGE, 4 * PAGE)
    assert device.requester.dma.read(iova + PAGE, 5) == b"three"
    device.requester.dma.write(iova, b"two")
    assert file.page(2)[:3] == b"two"


def test_a_page_of_a_file_is_the_same_page_through_an_address(iommufd: Iommufd, ioas: int, fd: int) -> None:
    _, table, _ = iommufd.mock(ioas)
    file = iommufd.caller.files[fd]
    assert isinstance(file, FakeFile)
    address = iommufd.caller.memory.map(8, ram=file)
    iommufd.map_file(ioas, fd, PAGE, 2 * PAGE, MOCK)
    iommufd.test(3, table, check_map={"iova": MOCK, "length": 2 * PAGE, "uptr": address + PAGE})


def test_beyond_the_end_of_the_file_is_invalid_once_it_is_pinned(iommufd: Iommufd, ioas: int, fd: int) -> None:
    iommufd.map_file(ioas, fd, 7 * PAGE, 2 * PAGE, MOCK)
    with pytest.raises(InvalidArgument):
        iommufd.mock(ioas)
    iommufd.unmap(ioas)
    iommufd.mock(ioas)
    with pytest.raises(InvalidArgument):
        iommufd.map_file(ioas, fd, 7 * PAGE, 2 * PAGE, MOCK)


def test_another_kind_of_file_is_refused_only_when_it_is_pinned(iommufd: Iommufd, ioas: int) -> None:
    iommufd.caller.foreign.add(0)
    iommufd.map_file(ioas, 0, 0, PAGE, MOCK)
    with pytest.raises(InvalidArgument):
        iommufd.mock(ioas)


def test_the_offset_in_the_file_is_what_placement_sees(iommufd: Iommufd, ioas: int, fd: int) -> None:
    assert iommufd.map_file(ioas, fd, 2 * PAGE, 4 * PAGE) == 2 * PAGE
    assert iommufd.map_file(ioas, fd, 0x1800, 0x800) == 0x1800


def test_a_file_is_held_after_its_descriptor_is_closed(iommufd: Iommufd, ioas: int, fd: int) -> None:
    iommufd.map_file(ioas, fd, 0, PAGE, MOCK)
    del iommufd.caller.files[fd]
    iommufd.mock(ioas)
    assert iommufd.system.memory.held_frames == 1
