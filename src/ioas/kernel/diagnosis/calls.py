"""Why an ioctl was refused: what its arguments, the kernel's own answers and sysfs say about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from errno import (
    EACCES,
    EADDRINUSE,
    EBADF,
    EBADFD,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EMFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.kernel.diagnosis import devices, maps
from ioas.kernel.diagnosis.call import Call, Finding
from ioas.uapi import iommufd, vfio

if TYPE_CHECKING:
    from typing_extensions import Buffer

_Answer = str | Callable[[Call], Finding | None]
"""A sentence, or what finds one (None when it cannot)."""


def why_refused(fd: int, path: str, request: int, argument: int | Buffer, error: OSError) -> KernelError:
    """The exception for an ioctl(2) that failed on `fd`."""
    number = error.errno or 0
    call = Call(fd, path, request, argument)
    answer = _ANSWERS.get(request, {}).get(number) or _GENERAL.get(number)
    found = answer(call) if callable(answer) else None
    if found is not None:
        return refuse(number, *found)
    sentence = answer if isinstance(answer, str) else os.strerror(number)
    return refuse(number, f"{call.name}: {sentence}", "file", path)


_GENERAL: Mapping[int, _Answer] = {
    EBADF: "there is no such file descriptor",
    EBADFD: "the descriptor is not of the kind that the call needs",
    EFAULT: "the structure, or what it points to, is not there",
    EMFILE: "there is no free file descriptor",
    ENODEV: devices.gone,
    ENOENT: "there is no such object, or it is of another kind",
    ENOTTY: "this file, device or kernel does not know the call",
    EOPNOTSUPP: "a flag, type or feature that this kernel or device does not have",
    EPERM: "a capability is missing (CAP_SYS_RAWIO without an IOMMU, CAP_SYS_RESOURCE for limits)",
}

_MAPPING: Mapping[int, _Answer] = {
    EADDRINUSE: "the IOVA is reserved",
    EEXIST: maps.overlaps,
    EFAULT: maps.no_such_memory,
    EINVAL: maps.wrong,
    ENOENT: "there is no such IOAS",
    ENOMEM: maps.beyond_limit,
    ENOSPC: maps.no_room,
    EOVERFLOW: "address, IOVA or length wraps around",
}

_ANSWERS: Mapping[int, Mapping[int, _Answer]] = {
    iommufd.IOMMU_DESTROY: {EBUSY: "the object is used by another one: a device attached to it, or a page table on it"},
    iommufd.IOMMU_IOAS_MAP: _MAPPING,
    iommufd.IOMMU_IOAS_MAP_FILE: {**_MAPPING, EINVAL: "misaligned, reserved, or beyond the end of the memory file"},
    iommufd.IOMMU_IOAS_COPY: {**_MAPPING, ENOENT: "no such IOAS, or a hole in the source", EFAULT: "no such memory"},
    iommufd.IOMMU_IOAS_UNMAP: {
        ENOENT: maps.nothing_whole,
        EBUSY: "the memory is in use by a hardware queue",
    },
    iommufd.IOMMU_IOAS_ALLOW_IOVAS: {
        EADDRINUSE: "a range clashes with what attached devices reserve",
        EINVAL: "ranges overlap, or one ends before it begins",
    },
    iommufd.IOMMU_IOAS_NOIOMMU_GET_PA: {
        ENOENT: "nothing is mapped at this IOVA",
        EOPNOTSUPP: "no device without an IOMMU is attached to this IOAS, or this kernel has no such call",
        EPERM: "physical addresses are for CAP_SYS_RAWIO alone",
    },
    iommufd.IOMMU_HWPT_ALLOC: {
        EOPNOTSUPP: "the IOMMU in front of the device does not have what was asked for",
        EINVAL: "the IOAS or page table is of the wrong kind for this device",
    },
    iommufd.IOMMU_HWPT_SET_DIRTY_TRACKING: {EOPNOTSUPP: "the page table was made without dirty tracking"},
    iommufd.IOMMU_VFIO_IOAS: {ENODEV: "no IOAS stands for a container"},
    iommufd.IOMMU_IOAS_CHANGE_PROCESS: {EINVAL: "there is memory that was not mapped from a memory file"},
    iommufd.IOMMU_OPTION: {EPERM: "CAP_SYS_RESOURCE is missing", EBUSY: "there are objects already"},
    vfio.VFIO_DEVICE_BIND_IOMMUFD: {
        EBUSY: devices.not_free,
        EINVAL: "this file is bound already, or was opened through a group",
        EBADFD: "the descriptor is no iommufd",
        EACCES: "the token of the virtual function is wrong or missing",
        EPERM: devices.not_free,
    },
    vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT: {
        EADDRINUSE: "what is mapped there already is reserved for this device",
        EINVAL: "devices of one group cannot be attached to different things, or the page table is not for this device",
        EBUSY: "another device of its group is attached to something else",
    },
    vfio.VFIO_GROUP_SET_CONTAINER: {
        EBUSY: devices.not_free,
        EPERM: devices.not_free,
        EINVAL: "the group is in a container already",
    },
    vfio.VFIO_GROUP_GET_DEVICE_FD: {EINVAL: "the group is in no container, or that has no IOMMU type yet"},
    vfio.VFIO_SET_IOMMU: {
        EINVAL: "the container is empty or has a type already",
        ENODEV: "this kernel serves the groups by no such type",
        EPERM: "the type is not allowed: it needs CAP_SYS_RAWIO, or interrupt remapping is missing"
        " (vfio_iommu_type1.allow_unsafe_interrupts)",
    },
    vfio.VFIO_IOMMU_MAP_DMA: {**_MAPPING, ENOSPC: "there are as many mappings as dma_entry_limit allows"},
    vfio.VFIO_IOMMU_UNMAP_DMA: {EINVAL: "misaligned, or a mapping would be cut in two"},
    vfio.VFIO_DEVICE_RESET: {
        EINVAL: "the device has no way to be reset by itself",
        ENOTTY: "the device has no way to be reset by itself, or does not answer",
    },
    vfio.VFIO_DEVICE_SET_IRQS: {
        EINVAL: devices.no_such_interrupts,
        ENOSPC: "the device has fewer interrupt vectors",
    },
    vfio.VFIO_DEVICE_GET_REGION_INFO: {EINVAL: devices.not_bound_yet},
    vfio.VFIO_DEVICE_GET_INFO: {EINVAL: devices.not_bound_yet},
    vfio.VFIO_DEVICE_GET_IRQ_INFO: {EINVAL: devices.not_bound_yet},
}
