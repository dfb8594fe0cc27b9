"""What a type 1 container tells of itself, and its dirty pages."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from ioas.host import PAGE_SIZE
from ioas.uapi import vfio
from tests.support.group_client import BDF, GroupClient, program
from tests.support.vfio_client import refused

IOVA = 0x10_0000
START, STOP, GET = (
    vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
)


@pytest.fixture
def client() -> Iterator[GroupClient]:
    with program() as client:
        yield client


@pytest.fixture
def container(client: GroupClient) -> int:
    return client.container()


def test_extensions_before_and_after_a_driver_is_chosen(client: GroupClient) -> None:
    container = client.open("/dev/vfio/vfio")
    wanted = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
    shown = [client.ioctl(container, vfio.VFIO_CHECK_EXTENSION, number) for number in wanted]
    assert [number for number, value in zip(wanted, shown, strict=True) if value] == [
        vfio.VFIO_TYPE1_IOMMU,
        vfio.VFIO_TYPE1v2_IOMMU,
        vfio.VFIO_UNMAP_ALL,
    ]
    container = client.container()
    shown = [client.ioctl(container, vfio.VFIO_CHECK_EXTENSION, number) for number in wanted]
    assert [number for number, value in zip(wanted, shown, strict=True) if value] == [
        vfio.VFIO_TYPE1_IOMMU,
        vfio.VFIO_TYPE1v2_IOMMU,
        vfio.VFIO_DMA_CC_IOMMU,
        vfio.VFIO_UNMAP_ALL,
        vfio.VFIO_UPDATE_VADDR,
    ]


def test_capabilities_stand_in_the_kernels_order(client: GroupClient, container: int) -> None:
    info, capabilities = client.info(container)
    assert info.flags == vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS
    assert info.iova_pgsizes == 1 << 12 | 1 << 21 | 1 << 30
    assert list(capabilities) == [
        vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
        vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
        vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    ]
    assert struct.unpack("<IIQQ", capabilities[vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION]) == (0, 0, 4096, 1 << 28)
    assert client.available(container) == 65535
    assert client.ranges(container) == [(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 48) - 1)]


def test_where_the_capabilities_do_not_fit_their_size_is_told(client: GroupClient, container: int) -> None:
    whole = client.info(container)[0].argsz
    for argsz in (16, 24, 25):
        data = bytearray(argsz.to_bytes(4, "little") + b"\xaa" * (argsz - 4))
        client.ioctl(container, vfio.VFIO_IOMMU_GET_INFO, data)
        size, flags = struct.unpack_from("<II", data)
        assert (size, flags) == (24 + 32 + 16 + 48, 3)
        assert data[24:] == b"\xaa" * (argsz - 24)
    assert whole == 256
    with refused(errno.EINVAL):
        client.info(container, argsz=15)


def test_another_request_is_nobodys(client: GroupClient, container: int) -> None:
    with refused(errno.ENOTTY):
        client.ioctl(container, vfio.VFIO_IOMMU_ENABLE, bytearray(8))


def dirty(client: GroupClient, container: int, flags: int, argsz: int = 8) -> None:
    client.call(container, vfio.VFIO_IOMMU_DIRTY_PAGES, vfio.vfio_iommu_type1_dirty_bitmap(argsz=argsz, flags=flags))


def bitmap(client: GroupClient, container: int, iova: int, size: int, room: int = 64, **changed: int) -> bytes:
    """GET_BITMAP into `room` bytes of memory that are all ones in front of and behind what is written."""
    place = client.caller.memory.map(1)
    client.caller.memory.write(place, b"\xff" * 16 + bytes(room) + b"\xff" * 16)
    wanted = vfio.vfio_iommu_type1_dirty_bitmap_get(iova=iova, size=size)
    wanted.bitmap.pgsize = changed.get("pgsize", PAGE_SIZE)
    wanted.bitmap.size = changed.get("bytes", room)
    wanted.bitmap.data = changed.get("data", place + 16)
    header = vfio.vfio_iommu_type1_dirty_bitmap(argsz=changed.get("argsz", 48), flags=GET)
    client.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, bytearray(bytes(header) + bytes(wanted)))
    around = client.caller.memory.read(place, room + 32)
    assert around[:16] == around[-16:] == b"\xff" * 16
    return around[16:-16]


def test_every_mapped_page_is_dirty(client: GroupClient, container: int) -> None:
    """No device of the container tells what it writes: a kernel without better knowledge says all of it."""
    vaddr = client.caller.memory.map(8)
    client.map(container, vaddr, 4 * PAGE_SIZE, IOVA)
    client.map(container, vaddr, 2 * PAGE_SIZE, IOVA + 70 * PAGE_SIZE)
    dirty(client, container, START)
    found = int.from_bytes(bitmap(client, container, IOVA, 128 * PAGE_SIZE), "little")
    assert found == 0b1111 | 0b11 << 70
    assert int.from_bytes(bitmap(client, container, IOVA, 4 * PAGE_SIZE), "little") == 0b1111  # and again
    dirty(client, container, STOP)
    with refused(errno.EINVAL):
        bitmap(client, container, IOVA, 4 * PAGE_SIZE)


def test_a_mapping_that_does_not_begin_a_word_keeps_what_stands_there(client: GroupClient, container: int) -> None:
    client.map(container, client.caller.memory.map(2), 2 * PAGE_SIZE, IOVA + 3 * PAGE_SIZE)
    dirty(client, container, START)
    place = client.caller.memory.map(1)
    client.caller.memory.write(place, b"\x05" + bytes(6) + b"\x80")
    wanted = vfio.vfio_iommu_type1_dirty_bitmap_get(iova=IOVA, size=64 * PAGE_SIZE)
    wanted.bitmap = vfio.vfio_bitmap(pgsize=PAGE_SIZE, size=8, data=place)
    header = vfio.vfio_iommu_type1_dirty_bitmap(argsz=48, flags=GET)
    client.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, bytearray(bytes(header) + bytes(wanted)))
    assert client.caller.memory.read(place, 8) == bytes([0b11101]) + bytes(6) + b"\x80"


@pytest.mark.parametrize("changed", [{"pgsize": 0}, {"pgsize": 2 << 20}, {"bytes": 0}, {"bytes": 7}, {"data": 1 << 63}])
@pytest.mark.parametrize("more", [{}, {"argsz": 47}])
def test_a_wrong_bitmap_is_refused(
    client: GroupClient, container: int, changed: dict[str, int], more: dict[str, int]
) -> None:
    dirty(client, container, START)
    with refused(errno.EINVAL):
        bitmap(client, container, IOVA, 4 * PAGE_SIZE, **changed, **more)


def test_a_wrong_range_is_refused(client: GroupClient, container: int) -> None:
    client.map(container, client.caller.memory.map(4), 4 * PAGE_SIZE, IOVA)
    dirty(client, container, START)
    for iova, size, number in (
        (IOVA, 0, errno.EINVAL),
        (IOVA + 1, PAGE_SIZE, errno.EINVAL),
        (IOVA, PAGE_SIZE + 1, errno.EINVAL),
        (IOVA, 2 * PAGE_SIZE, errno.EINVAL),
        (IOVA + PAGE_SIZE, 8 * PAGE_SIZE, errno.EINVAL),
        (-PAGE_SIZE & (1 << 64) - 1, 2 * PAGE_SIZE, errno.EOVERFLOW),
    ):
        with refused(number):
            bitmap(client, container, iova, size)


def test_one_flag_at_a_time(client: GroupClient, container: int) -> None:
    for flags in (0, START | STOP, 8):
        with refused(errno.EINVAL):
            dirty(client, container, flags)
    with refused(errno.EINVAL):
        dirty(client, container, START, argsz=7)
    with refused(errno.EFAULT):
        client.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, 16)


def test_version_1_has_no_dirty_pages(client: GroupClient) -> None:
    container = client.container(vfio.VFIO_TYPE1_IOMMU)
    with refused(errno.EACCES):  # whatever the argument
        client.ioctl(container, vfio.VFIO_IOMMU_DIRTY_PAGES, 16)


def test_an_unmap_gives_its_dirty_pages(client: GroupClient, container: int) -> None:
    client.map(container, client.caller.memory.map(4), 4 * PAGE_SIZE, IOVA)
    place = client.caller.memory.map(1)
    command = vfio.vfio_iommu_type1_dma_unmap(
        argsz=48, flags=vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, iova=IOVA, size=4 * PAGE_SIZE
    )
    question = bytes(command) + bytes(vfio.vfio_bitmap(pgsize=PAGE_SIZE, size=8, data=place))
    with refused(errno.EINVAL):  # not tracked yet
        client.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, bytearray(question))
    dirty(client, container, START)
    client.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, bytearray(question))
    assert client.caller.memory.read(place, 8) == b"\x0f" + bytes(7)
    assert client.host.functions[BDF].requester.dma.read(IOVA, 1) is None


def test_what_the_bitmap_cannot_take_is_not_unmapped(client: GroupClient, container: int) -> None:
    client.map(container, client.caller.memory.map(1), PAGE_SIZE, IOVA)
    dirty(client, container, START)
    command = vfio.vfio_iommu_type1_dma_unmap(
        argsz=48, flags=vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, iova=IOVA, size=PAGE_SIZE
    )
    question = bytes(command) + bytes(vfio.vfio_bitmap(pgsize=PAGE_SIZE, size=8, data=4096))
    with refused(errno.EFAULT):
        client.ioctl(container, vfio.VFIO_IOMMU_UNMAP_DMA, bytearray(question))
    assert client.host.functions[BDF].requester.dma.read(IOVA, 1) == b"\0"
