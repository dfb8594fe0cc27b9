"""Why memory could not be mapped or unmapped: by the arguments, this process's memory, and the ranges of the IOAS."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
from pathlib import Path
from typing import NamedTuple

from ioas.host import PAGE_SIZE
from ioas.kernel.diagnosis.call import Call, Finding
from ioas.uapi import iommufd, vfio

_MANY_RANGES = 64


class _Wish(NamedTuple):
    """What a call asks to be mapped; `iova` None leaves the choice to the kernel, `ioas` is None in a container."""

    address: int
    length: int
    iova: int | None
    access: int
    ioas: int | None


def _wish(call: Call) -> _Wish:
    if call.request == vfio.VFIO_IOMMU_MAP_DMA:
        old = call.struct(vfio.vfio_iommu_type1_dma_map)
        return _Wish(old.vaddr, old.size, old.iova, old.flags, None)
    if call.request == iommufd.IOMMU_IOAS_MAP:
        new = call.struct(iommufd.iommu_ioas_map)
        return _Wish(new.user_va, new.length, _fixed(new.flags, new.iova), new.flags & _ACCESS, new.ioas_id)
    if call.request == iommufd.IOMMU_IOAS_MAP_FILE:
        file = call.struct(iommufd.iommu_ioas_map_file)
        return _Wish(0, file.length, _fixed(file.flags, file.iova), file.flags & _ACCESS, file.ioas_id)
    copy = call.struct(iommufd.iommu_ioas_copy)
    return _Wish(0, copy.length, _fixed(copy.flags, copy.dst_iova), copy.flags & _ACCESS, copy.dst_ioas_id)


_ACCESS = iommufd.IOMMU_IOAS_MAP_READABLE | iommufd.IOMMU_IOAS_MAP_WRITEABLE


def _fixed(flags: int, iova: int) -> int | None:
    return iova if flags & iommufd.IOMMU_IOAS_MAP_FIXED_IOVA else None


def overlaps(call: Call) -> Finding | None:
    """EEXIST."""
    wish = _wish(call)
    if wish.iova is None:
        return None
    return "something is mapped at this IOVA already", "area", f"{wish.iova:#x}-{wish.iova + wish.length - 1:#x}"


def no_room(call: Call) -> Finding:
    """ENOSPC."""
    return f"no {_wish(call).length:#x} bytes of IOVA in a row are free", "field", "length"


def beyond_limit(call: Call) -> Finding:
    """ENOMEM: nearly always the limit of locked memory."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY:
        return "there is not so much memory, or the kernel has none for page tables", "limit", "memory"
    counts = {key: value.strip() for key, _, value in map(_split, Path("/proc/self/status").read_text().splitlines())}
    used = f"{counts.get('VmPin', '?')} pinned and {counts.get('VmLck', '?')} locked"
    length = _wish(call).length
    return f"{length:#x} bytes more than {used} are beyond the limit of {limit:#x} bytes", "limit", "RLIMIT_MEMLOCK"


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def no_such_memory(call: Call) -> Finding | None:
    """EFAULT: the first page that is not there, or may not be used so."""
    wish = _wish(call)
    need = "w" if wish.access & iommufd.IOMMU_IOAS_MAP_WRITEABLE else "r"
    at, end = wish.address, wish.address + wish.length
    for start, last, permissions in _areas():
        if start <= at <= last:
            if need not in permissions:
                what = "written" if need == "w" else "read"
                return f"the memory at {at:#x} cannot be {what}", "address", at
            at = last + 1
    if at < end:
        return f"no memory is mapped at {at:#x}", "address", at
    return "the memory cannot be pinned (a file that needs its writes noticed, or a device's memory)", "address", at


def _areas() -> list[tuple[int, int, str]]:
    areas = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        start, end = (int(word, 16) for word in span.split("-"))
        areas.append((start, end - 1, permissions))
    return areas


def wrong(call: Call) -> Finding | None:
    """EINVAL: misaligned, empty, without access, or reserved."""
    wish = _wish(call)
    if not wish.length:
        return "length is 0", "field", "length"
    if not wish.access:
        return "the device may neither read nor write", "field", "flags"
    ranges, alignment = _ranges(call.fd, wish.ioas) if wish.ioas is not None else ([], PAGE_SIZE)
    for name, value in (("length", wish.length), ("iova", wish.iova or 0), ("address", wish.address)):
        if value % alignment:
            return f"{name} is {value:#x}, which is not a multiple of {alignment:#x}", "field", name
    if wish.iova is None:
        return None
    last = wish.iova + wish.length - 1
    if not ranges:
        return f"IOVA {wish.iova:#x}-{last:#x} is reserved, or beyond the devices", "address", wish.iova
    if any(start <= wish.iova and last <= end for start, end in ranges):
        return None
    usable = ", ".join(f"{start:#x}-{end:#x}" for start, end in ranges)
    return f"IOVA {wish.iova:#x}-{last:#x} is reserved or beyond the device; usable is {usable}", "address", wish.iova


def _ranges(fd: int, ioas: int) -> tuple[list[tuple[int, int]], int]:
    """What can be mapped in an IOAS, and the alignment; nothing when it does not tell."""
    array = (iommufd.iommu_iova_range * _MANY_RANGES)()
    size = ctypes.sizeof(iommufd.iommu_ioas_iova_ranges)
    command = iommufd.iommu_ioas_iova_ranges(size, ioas, _MANY_RANGES, 0, ctypes.addressof(array))
    try:
        fcntl.ioctl(fd, iommufd.IOMMU_IOAS_IOVA_RANGES, command)
    except OSError:
        return [], PAGE_SIZE
    return [(one.start, one.last) for one in array[: command.num_iovas]], command.out_iova_alignment or os.sysconf(
        "SC_PAGESIZE"
    )


def nothing_whole(call: Call) -> Finding:
    """ENOENT of an unmap."""
    command = call.struct(iommufd.iommu_ioas_unmap)
    area = f"{command.iova:#x}-{command.iova + command.length - 1:#x}"
    return "nothing is mapped there, or a mapping reaches out of the range", "area", area
