"""What the API costs over the bare call, on the running kernel: a machine with an IOMMU and an edu bound to vfio-pci.

Every loop is measured once a round, in turn, and its best round counts: what else the machine does meanwhile only adds.
The reference guest is such a machine; times in it are those of an emulated processor.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import Array
from pathlib import Path

import ioas
from bench.commands import compiled, compiler, output
from bench.report import Line
from ioas.api import Device, Ioas, Memory, Region
from ioas.uapi import iommufd as uapi

WORST = 1 / 0.7
"""The API may take so many times as long as the bare call."""
EDU = (0x1234, 0x11E8)
ROUNDS = 400
PAIRS, READS = 20, 200
PAGE, IOVA = 4096, 0x100000
READ_WRITE = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE | uapi.IOMMU_IOAS_MAP_FIXED_IOVA
IDENTIFICATION = 0
IOCTL = "fcntl.ioctl on prepared structures"
CALL, ADDRESS = "API's ioctl on the same", "API's map_address, unmap"
ARRAY, POINTER = "ctypes array by offset", "ctypes from_address"
READ, VIEW = "API's read32", "API's view"

Loop = Callable[[int], object]
"""Does something so many times."""


def edu() -> str | None:
    """The address of an edu that the running kernel's VFIO has, if it can be opened."""
    with ioas.KernelHost() as host:
        found = (host.sysfs.device(bdf) for bdf in host.devices())
        return next((one.bdf for one in found if (one.vendor, one.device) == EDU), None)


def measure() -> Iterator[Line]:
    """The lines of this section; none on a machine without such a device."""
    bdf = edu()
    if bdf is None or not os.access("/dev/iommu", os.R_OK | os.W_OK):
        return
    with ioas.KernelHost() as host, host.iommufd() as iommufd, host.device(bdf, via="cdev") as device:
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        with Memory(PAGE) as memory:
            memory.view[0] = 1
            mappers = _mappers(space, memory)
            yield from _lines("MAP+UNMAP of 4 KiB", mappers, [(CALL, IOCTL), (ADDRESS, IOCTL)], PAIRS)
        yield from _reads(device, device.bar(0))
    yield from _in_c(bdf)


def _reads(device: Device, region: Region) -> Iterator[Line]:
    window = mmap.mmap(device.fileno(), region.size, offset=region.base)
    words = (ctypes.c_uint32 * (region.size // 4)).from_buffer(window)
    readers = _bare_readers(words) | _readers(region)
    yield from _lines("MMIO read of 4 bytes", readers, [(READ, POINTER), (READ, ARRAY), (VIEW, ARRAY)], READS)
    del readers, words
    window.close()  # as long as it is there, nobody else can bind the device


def _lines(what: str, loops: dict[str, Loop], budgeted: Sequence[tuple[str, str]], count: int) -> Iterator[Line]:
    """A line for each loop, and one over another for those of the API: `budgeted` pairs it with a bare one."""
    rounds = [{name: _each(loop, count) for name, loop in loops.items()} for _ in range(ROUNDS)]
    best = {name: min(one[name] for one in rounds) for name in loops}
    for name, value in best.items():
        yield Line(f"{what}, {name}", value, "us")
    for name, bare in budgeted:
        yield Line(f"    {name}, over {bare}", best[name] / best[bare], "x", WORST)


def _each(loop: Loop, count: int) -> float:
    """Microseconds for each time round."""
    start = time.perf_counter()
    loop(count)
    return (time.perf_counter() - start) / count * 1e6


def _mappers(space: Ioas, memory: Memory) -> dict[str, Loop]:
    """Ways to map and unmap one page at a fixed IOVA."""
    iommufd, address = space.iommufd.fileno(), memory.address
    mapping = uapi.iommu_ioas_map(40, READ_WRITE, space.id, 0, address, PAGE, IOVA)
    unmapping = uapi.iommu_ioas_unmap(24, space.id, IOVA, PAGE)

    def bare(count: int) -> None:
        for _ in range(count):
            fcntl.ioctl(iommufd, uapi.IOMMU_IOAS_MAP, mapping)
            unmapping.length = PAGE
            fcntl.ioctl(iommufd, uapi.IOMMU_IOAS_UNMAP, unmapping)

    def by_call(count: int) -> None:
        for _ in range(count):
            space.iommufd.ioctl(uapi.IOMMU_IOAS_MAP, mapping)
            unmapping.length = PAGE
            space.iommufd.ioctl(uapi.IOMMU_IOAS_UNMAP, unmapping)

    def by_address(count: int) -> None:
        for _ in range(count):
            space.map_address(address, PAGE, IOVA)
            space.unmap(IOVA, PAGE)

    def by_memory(count: int) -> None:
        for _ in range(count):
            space.map(memory, iova=IOVA).close()

    api: dict[str, Loop] = {CALL: by_call, ADDRESS: by_address, "API's map, close": by_memory}
    return {IOCTL: bare} | api


def _readers(region: Region) -> dict[str, Loop]:
    """Ways of the API to read the first register."""
    view = region.view(4)

    def by_method(count: int) -> None:
        for _ in range(count):
            region.read32(IDENTIFICATION)

    def by_view(count: int) -> None:
        for _ in range(count):
            view[IDENTIFICATION >> 2]

    return {READ: by_method, VIEW: by_view}


def _bare_readers(words: Array[ctypes.c_uint32]) -> dict[str, Loop]:
    """The same without the API."""

    def by_index(count: int) -> None:
        for _ in range(count):
            words[0]

    def by_offset(count: int) -> None:
        for _ in range(count):
            words[IDENTIFICATION >> 2]

    def by_address(count: int) -> None:
        base = ctypes.addressof(words)
        for _ in range(count):
            _ = ctypes.c_uint32.from_address(base + IDENTIFICATION).value

    return {"ctypes array by index": by_index, ARRAY: by_offset, POINTER: by_address}


def _in_c(bdf: str) -> Iterator[Line]:
    """The same from C, where there is a compiler."""
    if compiler() is None:
        return
    with tempfile.TemporaryDirectory() as directory:
        for line in output([*compiled("guest", Path(directory)), bdf]).splitlines():
            name, nanoseconds = line.rsplit(" ", 1)
            yield Line(name, int(nanoseconds) / 1000, "us")
