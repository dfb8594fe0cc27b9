"""DMA-BUFs: devices reach them until their exporter takes them back; software does not reach them at all."""

from __future__ import annotations

import pytest

from ioas.errors import BadFile, InvalidArgument, NoDevice
from ioas.uapi import iommufd_test as test_uapi
from tests.support.iommufd import MOCK, PAGE, Iommufd

PAGES = 4


def get(iommufd: Iommufd, length: int = PAGES * PAGE) -> int:
    command = test_uapi.iommu_test_cmd(op=test_uapi.IOMMU_TEST_OP_DMABUF_GET)
    command.size = 72
    command.dmabuf_get.length = length
    place = iommufd.caller.memory.map(1)
    iommufd.caller.memory.write(place, bytes(command))
    return iommufd.context.ioctl(iommufd.caller, test_uapi.IOMMU_TEST_CMD, place)


def revoke(iommufd: Iommufd, fd: int, revoked: bool = True) -> None:
    fields = {"dmabuf_fd": fd, "revoked": int(revoked)}
    iommufd.test(test_uapi.IOMMU_TEST_OP_DMABUF_REVOKE, dmabuf_revoke=fields)


def phys(iommufd: Iommufd, table: int, iova: int) -> int | None:
    from ioas.soft.iommufd.hwpt import PagingTable

    return iommufd.context.objects.get(table, PagingTable).domain.phys(iova)


def test_it_is_mapped_contiguously_and_counts_against_nobody() -> None:
    iommufd = Iommufd()
    ioas = iommufd.alloc()
    _, table, _ = iommufd.mock(ioas)
    iommufd.map_file(ioas, get(iommufd), 0, PAGES * PAGE, MOCK)
    first = phys(iommufd, table, MOCK)
    assert first is not None
    assert [phys(iommufd, table, MOCK + page * PAGE) for page in range(PAGES)] == [
        first + page * PAGE for page in range(PAGES)
    ]
    assert iommufd.caller.memory.pinned_pages == 0
    iommufd.unmap(ioas)
    assert iommufd.system.memory.held_frames == 0


@pytest.mark.parametrize(
    ("start", "length"), [(0, 0), (PAGES * PAGE, PAGE), (0, PAGES * PAGE + 1), (PAGE, PAGES * PAGE)]
)
def test_what_is_beyond_it_cannot_be_mapped(start: int, length: int) -> None:
    iommufd = Iommufd()
    with pytest.raises(InvalidArgument):
        iommufd.map_file(iommufd.alloc(), get(iommufd), start, length)


@pytest.mark.parametrize("length", [0, 513 * PAGE])
def test_tests_get_one_to_512_pages(length: int) -> None:
    with pytest.raises(InvalidArgument):
        get(Iommufd(), length)


def test_a_revoked_one_is_unmapped_everywhere_and_for_good() -> None:
    iommufd = Iommufd()
    ioas, other = iommufd.alloc(), iommufd.alloc()
    _, table, device = iommufd.mock(ioas)
    fd = get(iommufd)
    iommufd.map_file(ioas, fd, 0, PAGES * PAGE, MOCK)
    iommufd.copy(ioas, MOCK, PAGE, ioas, MOCK + 16 * PAGE)
    revoke(iommufd, fd)
    assert phys(iommufd, table, MOCK) is None
    assert phys(iommufd, table, MOCK + 16 * PAGE) is None
    with pytest.raises(NoDevice):
        iommufd.map_file(other, fd, 0, PAGE)
    later = iommufd.hwpt(device, ioas)
    assert phys(iommufd, later, MOCK) is None, "a further domain does not get it either"
    revoke(iommufd, fd, revoked=False)
    assert phys(iommufd, table, MOCK) is None
    iommufd.map_file(ioas, fd, 0, PAGE, MOCK + 32 * PAGE)
    assert phys(iommufd, table, MOCK + 32 * PAGE) is not None
    iommufd.unmap(ioas)
    assert iommufd.system.memory.held_frames == 0


def test_software_does_not_reach_it() -> None:
    iommufd = Iommufd()
    ioas = iommufd.alloc()
    iommufd.map_file(ioas, get(iommufd), 0, PAGES * PAGE, MOCK)
    access = iommufd.access(ioas)
    with pytest.raises(InvalidArgument, match="only devices"):
        iommufd.pin(access, MOCK, PAGE)
    rw = {"iova": MOCK, "length": 8, "uptr": iommufd.caller.memory.map(1)}
    for flags in (0, test_uapi.MOCK_ACCESS_RW_WRITE):
        with pytest.raises(InvalidArgument, match="only devices"):
            iommufd.test(test_uapi.IOMMU_TEST_OP_ACCESS_RW, access, access_rw={**rw, "flags": flags})


def test_revoking_wants_a_dma_buf() -> None:
    iommufd = Iommufd()
    with pytest.raises(BadFile):
        revoke(iommufd, 99)
    with pytest.raises(InvalidArgument):
        revoke(iommufd, iommufd.access(iommufd.alloc()))
