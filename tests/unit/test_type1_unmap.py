"""VFIO_IOMMU_UNMAP_DMA: what each version takes out, and what it refuses (vfio_dma_do_unmap, 7.3)."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterator

import pytest

from ioas.host import PAGE_SIZE
from ioas.soft.iommu.epoch import Epoch
from ioas.uapi import vfio
from tests.support.group_client import ALL, BDF, LOSE, GroupClient, program
from tests.support.ram import Ram
from tests.support.vfio_client import refused

ENTRY_LIMIT = 65535
IOVA = 0x10_0000
TIMEOUT = 60
END = (1 << 64) - PAGE_SIZE
BITMAP = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program() as client:
        yield client


@pytest.fixture
def first(client: GroupClient) -> int:
    """A container of version 1 with four pages as two mappings."""
    return filled(client, vfio.VFIO_TYPE1_IOMMU)


@pytest.fixture
def second(client: GroupClient) -> int:
    """The same of version 2."""
    return filled(client, vfio.VFIO_TYPE1v2_IOMMU)


def filled(client: GroupClient, kind: int) -> int:
    container = client.container(kind)
    vaddr = client.caller.memory.map(4)
    for at in (0, 2 * PAGE_SIZE):
        client.map(container, vaddr + at, 2 * PAGE_SIZE, IOVA + at)
    return container


def test_whole_mappings_go(client: GroupClient, second: int) -> None:
    assert client.unmap(second, IOVA, 4 * PAGE_SIZE) == 4 * PAGE_SIZE
    assert client.host.functions[BDF].requester.dma.read(IOVA, 4) is None
    assert client.caller.memory.locked_pages == 0


def test_nothing_there_is_no_error(client: GroupClient, second: int) -> None:
    assert client.unmap(second, 2 * IOVA, PAGE_SIZE) == 0


def test_version_2_takes_several_mappings_in_a_large_range(client: GroupClient, second: int) -> None:
    assert client.unmap(second, 0, 1 << 40) == 4 * PAGE_SIZE


@pytest.mark.parametrize(("start", "pages"), [(0, 1), (1, 1), (1, 2), (0, 3), (-1, 2), (3, 2)])
def test_version_2_does_not_cut_a_mapping(client: GroupClient, second: int, start: int, pages: int) -> None:
    with refused(errno.EINVAL) as info:
        client.unmap(second, IOVA + start * PAGE_SIZE, pages * PAGE_SIZE)
    assert "in two" in info.value.refusal.reason
    assert client.available(second) == ENTRY_LIMIT - 2


def test_version_1_takes_the_whole_of_what_begins_in_the_range(client: GroupClient, first: int) -> None:
    assert client.unmap(first, IOVA, PAGE_SIZE) == 2 * PAGE_SIZE
    assert client.unmap(first, IOVA + PAGE_SIZE, 2 * PAGE_SIZE) == 2 * PAGE_SIZE


def test_version_1_leaves_what_begins_before_the_range(client: GroupClient, first: int) -> None:
    assert client.unmap(first, IOVA + PAGE_SIZE, 4 * PAGE_SIZE) == 0
    assert client.available(first) == ENTRY_LIMIT - 2


@pytest.mark.parametrize(
    ("iova", "size", "flags", "number"),
    [
        (0, 0, 0, errno.EINVAL),
        (1, PAGE_SIZE, 0, errno.EINVAL),
        (0, 1, 0, errno.EINVAL),
        (END, 2 * PAGE_SIZE, 0, errno.EOVERFLOW),
        (0, PAGE_SIZE, ALL, errno.EINVAL),
        (PAGE_SIZE, 0, ALL, errno.EINVAL),
        (0, PAGE_SIZE, 8, errno.EINVAL),
        (0, PAGE_SIZE, BITMAP, errno.EINVAL),
        (0, 0, BITMAP | ALL, errno.EINVAL),
        (0, 0, BITMAP | LOSE, errno.EINVAL),
    ],
)
def test_what_cannot_be_unmapped(
    client: GroupClient, second: int, iova: int, size: int, flags: int, number: int
) -> None:
    with refused(number):
        client.unmap(second, iova, size, flags)


def test_the_last_page_of_all_can_be_named(client: GroupClient, second: int) -> None:
    assert client.unmap(second, END, PAGE_SIZE) == 0


def test_all_goes_at_once(client: GroupClient, second: int) -> None:
    assert client.unmap(second, 0, 0, ALL) == 4 * PAGE_SIZE
    assert client.unmap(second, 0, 0, ALL) == 0


def test_addresses_are_lost_by_all_or_none(client: GroupClient, second: int) -> None:
    assert client.unmap(second, IOVA + 2 * PAGE_SIZE, 2 * PAGE_SIZE, LOSE) == 2 * PAGE_SIZE
    with refused(errno.EINVAL):
        client.unmap(second, IOVA, 4 * PAGE_SIZE, LOSE)
    assert client.unmap(second, IOVA, 2 * PAGE_SIZE, LOSE) == 2 * PAGE_SIZE  # the refused one lost nothing
    assert client.unmap(second, 0, 0, ALL) == 4 * PAGE_SIZE
    client.map(second, client.caller.memory.map(1), PAGE_SIZE, IOVA)


def test_random_ranges_against_a_plain_list() -> None:
    """Both versions, by a list of mappings and the rules as the documentation of the ioctl states them."""
    for kind in (vfio.VFIO_TYPE1_IOMMU, vfio.VFIO_TYPE1v2_IOMMU):
        with program() as client:
            container, dice = client.container(kind), random.Random(kind)
            vaddr = client.caller.memory.map(8)
            maps: dict[int, int] = {}
            for _ in range(600):
                iova, count = dice.randrange(24), dice.randrange(1, 8)
                if dice.random() < 0.5:
                    overlaps = any(start < iova + count and iova < start + size for start, size in maps.items())
                    _try_map(client, container, vaddr, iova, count, fails=overlaps)
                    if not overlaps:
                        maps[iova] = count
                else:
                    _try_unmap(client, container, maps, iova, count, version2=kind == vfio.VFIO_TYPE1v2_IOMMU)
            assert client.caller.memory.locked_pages == sum(maps.values())


def _try_map(client: GroupClient, container: int, vaddr: int, iova: int, count: int, *, fails: bool) -> None:
    if fails:
        with refused(errno.EEXIST):
            client.map(container, vaddr, count * PAGE_SIZE, iova * PAGE_SIZE)
    else:
        client.map(container, vaddr, count * PAGE_SIZE, iova * PAGE_SIZE)


def _try_unmap(
    client: GroupClient, container: int, maps: dict[int, int], iova: int, count: int, *, version2: bool
) -> None:
    inside = sorted(start for start, size in maps.items() if start < iova + count and iova < start + size)
    cut = any(start < iova or start + maps[start] > iova + count for start in inside)
    if version2 and cut:
        with refused(errno.EINVAL):
            client.unmap(container, iova * PAGE_SIZE, count * PAGE_SIZE)
        return
    taken = [] if inside and inside[0] < iova else inside
    expected = sum(maps.pop(start) for start in taken)
    assert client.unmap(container, iova * PAGE_SIZE, count * PAGE_SIZE) == expected * PAGE_SIZE


def test_no_dma_lands_when_an_unmap_has_returned(client: GroupClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that is about to move its bytes is waited for; its pages are unpinned after that."""
    container, ram = client.container(), Ram(1)
    client.map(container, client.caller.memory.map(1, ram=ram), PAGE_SIZE, IOVA)
    moving, go = threading.Event(), threading.Event()
    log: list[str] = []
    plain = Epoch._wait_for

    def wait_for(self: Epoch, epoch: int) -> None:
        go.set()
        plain(self, epoch)

    def before_write(offset: int, length: int) -> None:
        moving.set()
        assert go.wait(TIMEOUT)
        log.append("lands")

    monkeypatch.setattr(Epoch, "_wait_for", wait_for)
    ram.before_write = before_write
    transfer = threading.Thread(target=client.host.functions[BDF].requester.dma.write, args=(IOVA, b"x"))
    transfer.start()
    assert moving.wait(TIMEOUT)
    assert client.unmap(container, IOVA, PAGE_SIZE) == PAGE_SIZE
    log.append("returns")
    transfer.join(TIMEOUT)
    assert log == ["lands", "returns"]
