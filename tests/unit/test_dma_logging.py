"""DMA logging: the pages that a device says it has written (vfio_ioctl_device_feature_logging_*, 7.3)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Iterator
from ctypes import sizeof
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ioas.devices import edu
from ioas.soft.iommu.dirty import DirtyPages
from ioas.soft.iommufd.bitmap import UserBitmap
from ioas.uapi import vfio
from tests.support.caller import FakeMemory
from tests.support.migration import GET, SET, feature
from tests.support.vfio_client import Client, bound, refused

if TYPE_CHECKING:
    from typing_extensions import Buffer

START = SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START
STOP = SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP
REPORT = GET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
PAGE = 4096
IOVA = 0x100000
PAGES = 16
NEVER = 1 << 64


@pytest.fixture
def client() -> Iterator[Client]:
    with bound("edu,migration=on") as client:
        memory = mmap.mmap(-1, PAGES * PAGE)
        ioas = client.ioas()
        client.attach(ioas)
        client.map(ioas, ctypes.addressof(ctypes.c_char.from_buffer(memory)), PAGES * PAGE, IOVA)
        yield client
        client.detach()


def start(client: Client, *ranges: tuple[int, int], page_size: int = PAGE, count: int | None = None) -> int:
    """Log writes to (IOVA, length) ranges; the granule that the device takes."""
    data = bytearray(b"".join(struct.pack("QQ", *each) for each in ranges) or bytes(16))
    place = ctypes.addressof(ctypes.c_char.from_buffer(data))
    control = struct.pack("QIIQ", page_size, len(ranges) if count is None else count, 0, place)
    granule, *_ = struct.unpack("QIIQ", feature(client, START, control))
    return granule


def report(client: Client, iova: int = IOVA, length: int = PAGES * PAGE, page_size: int = PAGE) -> list[int]:
    """The pages that are reported, counted from `iova`."""
    bits = bytearray(64)
    place = ctypes.addressof(ctypes.c_char.from_buffer(bits))
    feature(client, REPORT, struct.pack("QQQQ", iova, length, page_size, place))
    number = int.from_bytes(bits, "little")
    return [bit for bit in range(512) if number >> bit & 1]


def write(client: Client, iova: int, length: int = 4) -> None:
    """The device writes; what is not mapped faults."""
    function = client.host.functions["0000:01:00.0"]
    assert isinstance(function, edu.Edu)
    with function.lock:
        function.dma.write(iova, bytes(length))


def test_pages_that_the_device_writes_are_reported_once(client: Client) -> None:
    assert start(client, (IOVA, PAGES * PAGE)) == PAGE
    write(client, IOVA + PAGE + 100)
    write(client, IOVA + 3 * PAGE - 2, 4)
    assert report(client) == [1, 2, 3]
    assert report(client) == []


def test_reads_and_writes_elsewhere_are_not_logged(client: Client) -> None:
    start(client, (IOVA, 2 * PAGE), (IOVA + 8 * PAGE, PAGE))
    function = client.host.functions["0000:01:00.0"]
    with function.lock:
        function.dma.read(IOVA, 64)
    write(client, IOVA + 4 * PAGE, 5 * PAGE)
    assert report(client) == [8]


def test_a_report_takes_what_is_in_its_range_alone(client: Client) -> None:
    start(client, (IOVA, PAGES * PAGE))
    write(client, IOVA, PAGES * PAGE)
    assert report(client, IOVA + 2 * PAGE, 3 * PAGE) == [0, 1, 2]
    assert report(client) == [0, 1, *range(5, PAGES)]


@pytest.mark.parametrize(("asked", "granule"), [(PAGE, PAGE), (8192, 8192), (1, PAGE), (1 << 40, 1 << 30)])
def test_the_device_takes_the_granule_that_is_nearest(client: Client, asked: int, granule: int) -> None:
    assert start(client, (0, 1 << 40), page_size=asked) == granule


def test_a_report_may_be_finer_or_coarser_than_the_log(client: Client) -> None:
    start(client, (IOVA, PAGES * PAGE), page_size=4 * PAGE)
    write(client, IOVA + 5 * PAGE)
    assert report(client) == [4, 5, 6, 7]
    write(client, IOVA + 5 * PAGE)
    assert report(client, page_size=8 * PAGE) == [0]


def test_a_log_runs_once_and_ends_as_often_as_one_likes(client: Client) -> None:
    start(client, (IOVA, PAGE))
    with refused(errno.EINVAL):
        start(client, (IOVA, PAGE))
    for _ in range(2):
        feature(client, STOP)
    with refused(errno.EINVAL):
        report(client)
    start(client, (IOVA, PAGE))
    assert report(client) == []


@pytest.mark.parametrize(
    ("ranges", "count", "number"),
    [
        ([(IOVA, PAGE)], 0, errno.EINVAL),
        ([(IOVA, PAGE)] * 1, 257, errno.E2BIG),
        ([(IOVA + 1, PAGE)], None, errno.EINVAL),
        ([(IOVA, PAGE + 1)], None, errno.EINVAL),
        ([(NEVER - PAGE, PAGE)], None, errno.EOVERFLOW),
        ([(IOVA, 2 * PAGE), (IOVA + PAGE, PAGE)], None, errno.EINVAL),
        ([(IOVA, PAGE), (IOVA, PAGE)], None, errno.EINVAL),
        ([(0, 0), (IOVA, PAGE)], None, errno.EINVAL),
    ],
)
def test_ranges_that_are_wrong_are_refused_and_nothing_is_logged(
    client: Client, ranges: list[tuple[int, int]], count: int | None, number: int
) -> None:
    with refused(number):
        start(client, *ranges, count=count)
    with refused(errno.EINVAL):
        report(client)


def test_ranges_that_are_not_there_are_a_fault(client: Client) -> None:
    with refused(errno.EFAULT):
        feature(client, START, struct.pack("QIIQ", PAGE, 1, 0, 8))


@pytest.mark.parametrize(
    ("iova", "length", "page_size", "number"),
    [
        (IOVA, PAGE, 2048, errno.EINVAL),
        (IOVA, PAGE, 3 * PAGE, errno.EINVAL),
        (IOVA, PAGE, 0, errno.EINVAL),
        (NEVER - PAGE, PAGE, PAGE, errno.EOVERFLOW),
    ],
)
def test_a_wrong_report_is_refused(client: Client, iova: int, length: int, page_size: int, number: int) -> None:
    start(client, (IOVA, PAGE))
    with refused(number):
        report(client, iova, length, page_size)


@pytest.mark.parametrize(
    ("number", "size"),
    [
        (START, sizeof(vfio.vfio_device_feature_dma_logging_control)),
        (REPORT, sizeof(vfio.vfio_device_feature_dma_logging_report)),
    ],
)
def test_a_structure_that_is_promised_too_short_is_refused(client: Client, number: int, size: int) -> None:
    with refused(errno.EINVAL):
        feature(client, number, bytes(size), cut=1)


@pytest.mark.parametrize(("iova", "length", "page"), [(IOVA, 1 << 63, 0), (0, NEVER - 1, IOVA // PAGE)])
def test_a_report_on_more_than_any_device_reaches_tells_what_was_written(
    client: Client, iova: int, length: int, page: int
) -> None:
    start(client, (0, 1 << 48))
    write(client, IOVA)
    assert report(client, iova, length) == [page]


def test_no_byte_of_memory_is_touched_that_stands_for_no_page_between_two_dirty_ones() -> None:
    """What is behind the end of a bitmap that is too short belongs to others, who change it meanwhile."""
    touched = set()

    class Memory(FakeMemory):
        def read(self, address: int, length: int) -> bytes:
            touched.update(range(address, address + length))
            return super().read(address, length)

        def write(self, address: int, data: Buffer) -> None:
            touched.update(range(address, address + len(bytes(data))))
            super().write(address, data)

    memory = Memory()
    place = memory.map(2) + 100
    pages = np.array([17, 40, PAGE * 8 + 3], np.int64)
    bitmap = UserBitmap(memory, place, 0, 1 << 63, PAGE)
    bitmap.record(DirtyPages(pages * PAGE, np.full(3, PAGE)))
    assert touched == {place + byte for byte in (2, 3, 4, 5, PAGE)}
    number = int.from_bytes(FakeMemory.read(memory, place, PAGE + 8), "little")
    assert number == sum(1 << int(page) for page in pages)


def test_closing_the_device_ends_the_log(client: Client) -> None:
    start(client, (IOVA, PAGE))
    client.device.close()
    client.device = client.open("/dev/vfio/devices/vfio0")
    client.bind()
    with refused(errno.EINVAL):
        report(client)
