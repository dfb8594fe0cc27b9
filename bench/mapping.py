"""What a mapping costs inside one process, through the seam: an IOAS with an edu attached behind a VT-d unit."""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterator
from ctypes import sizeof

import numpy

from bench.report import Line
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost
from ioas.uapi import iommufd as uapi, vfio

PAIR_US = 25
GROWTH = 2
GIGABYTE_MS = 60
GIB = 1 << 30
PAGE = 4096
FEW, MANY = 1_000, 1_000_000
PAIRS = 3_000
BASE = 1 << 32
READ_WRITE = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE
FIXED = READ_WRITE | uapi.IOMMU_IOAS_MAP_FIXED_IOVA


class Space:
    """An IOAS on a software machine with one device attached, and a buffer of `length` bytes to map."""

    def __init__(self, length: int) -> None:
        self.host = SoftHost(devices=["edu"], capabilities=["ipc_lock"])
        self.caller = LocalCaller(self.host.grants)
        self.iommufd = self.host.open(self.caller, "/dev/iommu", os.O_RDWR)
        self._fd = self.caller.install(self.iommufd)
        alloc = uapi.iommu_ioas_alloc(size=sizeof(uapi.iommu_ioas_alloc))
        self.iommufd.ioctl(self.caller, uapi.IOMMU_IOAS_ALLOC, alloc)
        self.ioas = alloc.out_ioas_id
        self._attach()
        self.buffer = mmap.mmap(-1, length)
        self.address = self.caller.register(self.buffer)

    def _attach(self) -> None:
        device = self.host.open(self.caller, "/dev/vfio/devices/vfio0", os.O_RDWR)
        bind = vfio.vfio_device_bind_iommufd(argsz=sizeof(vfio.vfio_device_bind_iommufd), iommufd=self._fd)
        device.ioctl(self.caller, vfio.VFIO_DEVICE_BIND_IOMMUFD, bind)
        attach = vfio.vfio_device_attach_iommufd_pt(argsz=sizeof(vfio.vfio_device_attach_iommufd_pt), pt_id=self.ioas)
        device.ioctl(self.caller, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach)

    def mapper(self, length: int, iova: int | None) -> tuple[Callable[[], object], Callable[[], object]]:
        """Two calls on prepared structures: map `length` bytes (at `iova`, or where the host likes), and unmap them."""
        flags = READ_WRITE if iova is None else FIXED
        size = sizeof(uapi.iommu_ioas_map)
        mapping = uapi.iommu_ioas_map(
            size=size, flags=flags, ioas_id=self.ioas, user_va=self.address, length=length, iova=iova or 0
        )
        unmapping = uapi.iommu_ioas_unmap(size=sizeof(uapi.iommu_ioas_unmap), ioas_id=self.ioas, length=length)
        ioctl, caller = self.iommufd.ioctl, self.caller

        def do_map() -> None:
            ioctl(caller, uapi.IOMMU_IOAS_MAP, mapping)

        def do_unmap() -> None:
            unmapping.iova, unmapping.length = mapping.iova, length
            ioctl(caller, uapi.IOMMU_IOAS_UNMAP, unmapping)

        return do_map, do_unmap

    def fill(self, count: int) -> None:
        """Map `count` areas of one page, a page apart: gaps too small for two pages everywhere."""
        mapping = uapi.iommu_ioas_map(
            size=sizeof(uapi.iommu_ioas_map), flags=FIXED, ioas_id=self.ioas, user_va=self.address, length=PAGE
        )
        for index in range(count):
            mapping.iova = BASE + 2 * PAGE * index
            self.iommufd.ioctl(self.caller, uapi.IOMMU_IOAS_MAP, mapping)

    def close(self) -> None:
        """Give the machine back."""
        self.caller.close(self._fd)
        self.host.close()


def measure() -> Iterator[Line]:
    """MAP+UNMAP pairs at 1,000 and 1,000,000 areas, MAP of 1 GiB, and what they can be held against."""
    yield from _yardsticks()
    few = _pairs(FEW)
    many = _pairs(MANY)
    for name, at_few in few.items():
        yield Line(f"MAP+UNMAP of {name}, {FEW:,} areas", at_few, "us", PAIR_US)
        yield Line(f"MAP+UNMAP of {name}, {MANY:,} areas", many[name], "us", PAIR_US)
        yield Line("    growth", many[name] / at_few, "x", GROWTH)
    yield from _gigabyte()


def _pairs(areas: int) -> dict[str, float]:
    """Median microseconds of a MAP and its UNMAP with `areas` areas mapped, by kind."""
    space = Space(2 * PAGE)
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
