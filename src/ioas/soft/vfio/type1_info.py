"""VFIO_IOMMU_GET_INFO of a type 1 container: page sizes, dirty pages, how many mappings are left, usable IOVA.

Follows vfio_iommu_type1_get_info (7.3): the capabilities in the order in which the kernel adds them.
"""

from __future__ import annotations

import struct
from ctypes import sizeof
from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.vfio.capability_chain import InfoCapability, chain
from ioas.soft.vfio.type1_dirty import LARGEST_BITMAP
from ioas.uapi import vfio as uapi
from ioas.uapi.base import end_of

if TYPE_CHECKING:
    from ioas.soft.vfio.argument import Argument
    from ioas.soft.vfio.type1_mapper import Mapper

_MINIMUM = end_of(uapi.vfio_iommu_type1_info, "iova_pgsizes")


def get_info(argument: Argument, mapper: Mapper) -> int:
    """Answer as far as `argsz` allows; where the capabilities do not fit it returns what they would take.

    Raises KernelError: EFAULT, EINVAL.
    """
    size = sizeof(uapi.vfio_iommu_type1_info)
    info = uapi.vfio_iommu_type1_info.from_buffer_copy(argument.read(0, _MINIMUM).ljust(size, b"\0"))
    if info.argsz < _MINIMUM:
        raise refuse(EINVAL, f"argsz is {info.argsz}; the structure has at least {_MINIMUM} bytes", "field", "argsz")
    known = min(info.argsz, size)
    info.flags = uapi.VFIO_IOMMU_INFO_PGSIZES | uapi.VFIO_IOMMU_INFO_CAPS
    info.iova_pgsizes = mapper.domains.page_sizes
    tail = chain([_migration(mapper), _available(mapper), *_ranges(mapper)], size)
    if info.argsz < size + len(tail):
        info.argsz = size + len(tail)
    else:
        argument.write(size, tail)
        info.cap_offset = size
    argument.write(0, bytes(info)[:known])
    return 0


def _migration(mapper: Mapper) -> InfoCapability:
    body = struct.pack("<IIQQ", 0, 0, mapper.domains.granule, LARGEST_BITMAP)
    return InfoCapability(uapi.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, body=body)


def _available(mapper: Mapper) -> InfoCapability:
    return InfoCapability(uapi.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, body=struct.pack("<I", mapper.available))


def _ranges(mapper: Mapper) -> list[InfoCapability]:
    ranges = mapper.domains.ranges
    body = struct.pack("<II", len(ranges), 0) + b"".join(struct.pack("<QQ", *one) for one in ranges)
    return [InfoCapability(uapi.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, body=body)] if ranges else []
