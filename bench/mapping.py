"""What a mapping costs inside one process: an IOAS with an edu attached behind a VT-d unit."""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterator
from ctypes import sizeof

import numpy

import ioas
from bench.report import Line
from ioas.uapi import iommufd as uapi

PAIR_US = 25
GROWTH = 2
GIGABYTE_MS = 60
GIB = 1 << 30
PAGE = 4096
FEW, MANY = 1_000, 1_000_000
PAIRS = 3_000
BASE = 1 << 32
MAP_NORESERVE = 0x4000  # Linux, all architectures but a few; Python 3.11 has no name for it
READ_WRITE = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE
FIXED = READ_WRITE | uapi.IOMMU_IOAS_MAP_FIXED_IOVA


class Space:
    """An IOAS on a software machine with one device attached, and a registered buffer of `length` bytes to map."""

    def __init__(self, length: int) -> None:
        self.host = ioas.SoftHost(devices=["edu"], capabilities=["ipc_lock"])
        self.iommufd = self.host.iommufd()
        self.device = self.host.device("0000:01:00.0")
        self.device.bind(self.iommufd)
        self.space = self.iommufd.ioas()
        self.device.attach(self.space)
        self.address = self.iommufd.session.caller.register(_untouched(length))

    def mapper(self, length: int, iova: int | None) -> tuple[Callable[[], object], Callable[[], object]]:
        """Two calls on prepared structures: map `length` bytes (at `iova`, or where the host likes), and unmap them."""
        flags = READ_WRITE if iova is None else FIXED
        size = sizeof(uapi.iommu_ioas_map)
        mapping = uapi.iommu_ioas_map(
            size=size, flags=flags, ioas_id=self.space.id, user_va=self.address, length=length, iova=iova or 0
        )
        unmapping = uapi.iommu_ioas_unmap(size=sizeof(uapi.iommu_ioas_unmap), ioas_id=self.space.id, length=length)
        ioctl = self.iommufd.ioctl

        def do_map() -> None:
            ioctl(uapi.IOMMU_IOAS_MAP, mapping)

        def do_unmap() -> None:
            unmapping.iova, unmapping.length = mapping.iova, length
            ioctl(uapi.IOMMU_IOAS_UNMAP, unmapping)

        return do_map, do_unmap

    def fill(self, count: int) -> None:
        """Map `count` pages of the buffer as single areas, a page of IOVA apart: no gap is large enough for two."""
        mapping = uapi.iommu_ioas_map(size=sizeof(uapi.iommu_ioas_map), flags=FIXED, ioas_id=self.space.id, length=PAGE)
        for index in range(count):
            mapping.user_va = self.address + index * PAGE
            mapping.iova = BASE + 2 * PAGE * index
            self.iommufd.ioctl(uapi.IOMMU_IOAS_MAP, mapping)

    def close(self) -> None:
        """Give the machine back."""
        self.device.close()
        self.iommufd.close()
        self.host.close()


def _untouched(length: int) -> mmap.mmap:
    """Memory that is there and costs nothing, for nobody writes to it."""
    return mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)


def measure() -> Iterator[Line]:
    """MAP+UNMAP pairs at 1,000 and 1,000,000 areas, MAP of 1 GiB, and what they can be held against."""
    yield from _yardsticks()
    few = _pairs(FEW)
    many = _pairs(MANY)
    for name, at_few in few.items():
        budget = PAIR_US if name.startswith("4 KiB") else None
        yield Line(f"MAP+UNMAP of {name}, {FEW:,} areas", at_few, "us", budget)
        yield Line(f"MAP+UNMAP of {name}, {MANY:,} areas", many[name], "us", budget)
        yield Line("    growth", many[name] / at_few, "x", GROWTH)
    yield from _gigabyte()


def _pairs(areas: int) -> dict[str, float]:
    """Median microseconds of a MAP and its UNMAP with `areas` areas mapped, by kind."""
    space = Space(areas * PAGE)
    space.fill(areas)
    kinds = {
        "4 KiB, fixed IOVA": space.mapper(PAGE, BASE + 2 * PAGE * (areas // 2) + PAGE),
        "4 KiB, automatic IOVA": space.mapper(PAGE, None),
        "8 KiB, automatic IOVA past every gap": space.mapper(2 * PAGE, None),
    }
    figures = {name: _median(*calls) for name, calls in kinds.items()}
    space.close()
    return figures


def _median(*calls: Callable[[], object]) -> float:
    """The median time of making all `calls` once, in microseconds."""
    samples = []
    for _ in range(PAIRS):
        start = time.perf_counter_ns()
        for call in calls:
            call()
        samples.append(time.perf_counter_ns() - start)
    return statistics.median(samples) / 1000


def _gigabyte() -> Iterator[Line]:
    space = Space(GIB)
    do_map, do_unmap = space.mapper(GIB, BASE)
    maps, unmaps = [], []
    for _ in range(5):
        start = time.perf_counter_ns()
        do_map()
        middle = time.perf_counter_ns()
        do_unmap()
        maps.append(middle - start)
        unmaps.append(time.perf_counter_ns() - middle)
    space.close()
    yield Line("MAP of 1 GiB of 4 KiB frames", statistics.median(maps) / 1e6, "ms", GIGABYTE_MS)
    yield Line("UNMAP of the same", statistics.median(unmaps) / 1e6, "ms")


def _yardsticks() -> Iterator[Line]:
    yield Line("os.getppid(), a system call from Python", _median(os.getppid), "us")
    table: dict[int, int] = {}

    def insert_and_remove() -> None:
        table[BASE] = PAGE
        del table[BASE]

    yield Line("insert into and remove from a dict, by a Python function", _median(insert_and_remove), "us")
    entries = numpy.empty(GIB // PAGE, dtype=numpy.uint64)
    frames = numpy.arange(GIB // PAGE, dtype=numpy.uint64)
    copying = _median(lambda: numpy.copyto(entries, frames)) / 1000
    yield Line("writing the 2 MiB of entries that 1 GiB of frames needs (NumPy)", copying, "ms")
