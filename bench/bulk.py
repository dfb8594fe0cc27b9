"""What moves in bulk: dirty bitmaps of a large range, and copies through an access.

Both use the mock devices of the kernel's selftests, which write and copy where real devices would take their time.
"""

from __future__ import annotations

import mmap
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from ctypes import sizeof
from functools import partial
from pathlib import Path

import numpy

import ioas
from bench import commands
from bench.report import Line
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi

BITMAP_MS = 10
ACCESS_US = 40
MIB = 1 << 20
DIRTY = 128 * MIB
PAGE = 4096
PAGES = DIRTY // PAGE
SAMPLES = 1_000
FIXED = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE | uapi.IOMMU_IOAS_MAP_FIXED_IOVA
IOVA = test_uapi.MOCK_APERTURE_START
_SIZE = sizeof(test_uapi.iommu_test_cmd)
SIZES = ((16, "16 bytes"), (4 * PAGE, "16 KiB"))
WAYS = (
    (0, "read"),
    (test_uapi.MOCK_ACCESS_RW_WRITE, "write"),
    (test_uapi.MOCK_ACCESS_RW_SLOW_PATH, "read through pins"),
    (test_uapi.MOCK_ACCESS_RW_WRITE | test_uapi.MOCK_ACCESS_RW_SLOW_PATH, "write through pins"),
)


class Mocked:
    """An IOAS with 128 MiB of memory and a mock device whose table tracks what is written."""

    def __init__(self) -> None:
        self.host = ioas.SoftHost(iommufd_test=True, capabilities=["ipc_lock"])
        self.iommufd = self.host.iommufd()
        self.ioctl = self.iommufd.ioctl
        self.space = self.iommufd.ioas()
        self.memory = mmap.mmap(-1, DIRTY)
        self.address = self.register(self.memory)
        made = test_uapi.iommu_test_cmd(size=_SIZE, op=test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN, id=self.space.id)
        self.ioctl(test_uapi.IOMMU_TEST_CMD, made)
        mapping = uapi.iommu_ioas_map(
            size=40, flags=FIXED, ioas_id=self.space.id, user_va=self.address, length=DIRTY, iova=IOVA
        )
        self.ioctl(uapi.IOMMU_IOAS_MAP, mapping)
        self.device = made.mock_domain.out_idev_id

    def register(self, buffer: mmap.mmap) -> int:
        """The address at which the host may read and write `buffer`."""
        return self.iommufd.session.caller.register(buffer)

    def table(self) -> int:
        """A page table that tracks."""
        command = uapi.iommu_hwpt_alloc(
            size=sizeof(uapi.iommu_hwpt_alloc),
            flags=uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
            dev_id=self.device,
            pt_id=self.space.id,
        )
        self.ioctl(uapi.IOMMU_HWPT_ALLOC, command)
        number = int(command.out_hwpt_id)
        size = sizeof(uapi.iommu_hwpt_set_dirty_tracking)
        on = uapi.iommu_hwpt_set_dirty_tracking(size=size, hwpt_id=number, flags=uapi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
        self.ioctl(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, on)
        return number

    def bitmap(self) -> tuple[int, numpy.ndarray]:
        """Memory for a bitmap of all pages: its address, and the bytes."""
        memory = mmap.mmap(-1, PAGES // 8)
        return self.register(memory), numpy.frombuffer(memory, numpy.uint8)

    def access(self) -> int:
        """A test access, its descriptor."""
        command = test_uapi.iommu_test_cmd(size=_SIZE, op=test_uapi.IOMMU_TEST_OP_CREATE_ACCESS, id=self.space.id)
        self.ioctl(test_uapi.IOMMU_TEST_CMD, command)
        return int(command.create_access.out_access_fd)

    def close(self) -> None:
        """Give the machine back."""
        self.iommufd.close()
        self.host.close()


def measure() -> Iterator[Line]:
    """Dirty bitmaps of 128 MiB, set and read, and ACCESS_RW of several sizes."""
    machine = Mocked()
    for name, pattern in (("every page", 0xFF), ("every second page", 0x55)):
        yield from _dirty(machine, name, pattern)
    yield from _copies(machine)
    machine.close()
    yield from _by_notification()


def _dirty(machine: Mocked, name: str, pattern: int) -> Iterator[Line]:
    """Mark pages through the mock, read the bitmap and make them clean, and hold it against what was marked."""
    table, (source, wanted), (target, found) = machine.table(), machine.bitmap(), machine.bitmap()
    wanted[:] = pattern
    mark = test_uapi.iommu_test_cmd(size=_SIZE, op=test_uapi.IOMMU_TEST_OP_DIRTY, id=table)
    mark.dirty.iova, mark.dirty.length, mark.dirty.page_size, mark.dirty.uptr = IOVA, DIRTY, PAGE, source
    get = uapi.iommu_hwpt_get_dirty_bitmap(size=48, hwpt_id=table, iova=IOVA, length=DIRTY, page_size=PAGE, data=target)
    marking, getting = [], []
    for _ in range(11):
        found[:] = 0
        marking.append(_time(lambda: machine.ioctl(test_uapi.IOMMU_TEST_CMD, mark)))
        getting.append(_time(lambda: machine.ioctl(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, get)))
        if not numpy.array_equal(found, wanted):
            raise RuntimeError("the bitmap is not what was marked")
    yield Line(f"marking {name} of 128 MiB dirty", statistics.median(marking) * 1e3, "ms", BITMAP_MS)
    yield Line("GET_DIRTY_BITMAP of the same, at 4 KiB", statistics.median(getting) * 1e3, "ms", BITMAP_MS)


def _copies(machine: Mocked) -> Iterator[Line]:
    """ACCESS_RW in this process, where the mock device has all memory pinned."""
    access, place = machine.access(), machine.register(mmap.mmap(-1, 4 * PAGE))
    for flags, way in WAYS:
        for length, size in SIZES:
            command = test_uapi.iommu_test_cmd(size=_SIZE, op=test_uapi.IOMMU_TEST_OP_ACCESS_RW, id=access)
            asked = command.access_rw
            asked.iova, asked.length, asked.uptr, asked.flags = IOVA + 8, length, place, flags
            call = partial(machine.ioctl, test_uapi.IOMMU_TEST_CMD, command)
            samples = [_time(call) for _ in range(SAMPLES)]
            yield Line(f"ACCESS_RW in process, {way}, {size}", statistics.median(samples) * 1e6, "us", ACCESS_US)


def _by_notification() -> Iterator[Line]:
    """ACCESS_RW of another program: memory that is pinned, and memory that is not."""
    with tempfile.TemporaryDirectory() as directory:
        client = commands.compiled("access_client", Path(directory))
        text = commands.output([*commands.IOAS_RUN[:-1], "--iommufd-test", "--", *client])
    figures = {name: int(value) / 1000 for name, value in (line.split() for line in text.splitlines())}
    for state, pinned in (("pinned_", "pinned"), ("", "not pinned")):
        for way, name in (("read", "read"), ("write", "write"), ("pins_read", WAYS[2][1]), ("pins_write", WAYS[3][1])):
            for length, size in SIZES:
                figure = figures[f"{state}{way}_{length}"]
                yield Line(f"ACCESS_RW by notification, {name}, {size}, {pinned}", figure, "us", ACCESS_US)


def _time(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
