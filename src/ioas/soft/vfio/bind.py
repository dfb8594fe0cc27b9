"""Binding a cdev to an iommufd, attaching and detaching page tables (VFIO's device_cdev.c and iommufd.c, 7.3)."""

from __future__ import annotations

import ctypes
from errno import E2BIG, EBADFD, EINVAL
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommufd import Context
from ioas.soft.vfio.argument import Argument
from ioas.uapi import vfio as uapi
from ioas.uapi.base import end_of, offset_of

if TYPE_CHECKING:
    from ioas.soft.vfio.cdev import Cdev
    from ioas.soft.vfio.device_file import DeviceFile

_BIND_SIZE = ctypes.sizeof(uapi.vfio_device_bind_iommufd)
_OUT_DEVID = offset_of(uapi.vfio_device_bind_iommufd, "out_devid")
_TOKEN_SIZE = 16


def bind(file: Cdev, argument: Argument) -> int:
    """VFIO_DEVICE_BIND_IOMMUFD: claim the device's DMA for a context and open the device.

    Raises KernelError: EFAULT; EINVAL for argsz, flags, a negative fd, a second bind or a token; E2BIG for a
    tail that is not zero; EBUSY while the group is open; EBADF and EBADFD for an fd that is no iommufd; EPERM when the
    group has another owner.
    """
    request = copy_in_bind(argument)
    device = file.device
    with device.system.lock:
        file.check_open()
        device.block_group()
        try:
            _open(file, argument, request)
        except BaseException:
            device.unblock_group()
            raise
    return 0


def _open(file: Cdev, argument: Argument, request: uapi.vfio_device_bind_iommufd) -> None:
    device = file.device
    if file.bound:
        raise refuse(EINVAL, "this device file is bound already", "device", device.name)
    token = None
    if request.flags & uapi.VFIO_DEVICE_BIND_FLAG_TOKEN:
        token = argument.caller.memory.read(request.token_uuid_ptr, _TOKEN_SIZE)
    device.match_token(token)
    device.open(_context(argument, request.iommufd))
    try:
        argument.write(_OUT_DEVID, device.device_id.to_bytes(4, "little"))
    except KernelError:
        device.close()
        raise
    file.bound = True


def copy_in_bind(argument: Argument) -> uapi.vfio_device_bind_iommufd:
    """The structure of BIND_IOMMUFD, after the checks that every file makes.

    As copy_struct_from_user: a short structure is filled up with zeros, a longer one must end in zeros. Raises
    KernelError: EFAULT, EINVAL, E2BIG.
    """
    argsz = int.from_bytes(argument.read(0, 4), "little")
    least = end_of(uapi.vfio_device_bind_iommufd, "out_devid")
    if argsz < least:
        raise refuse(EINVAL, f"argsz is {argsz}; the structure has at least {least} bytes", "field", "argsz")
    start = _BIND_SIZE
    while start < argsz:  # page by page: what is not zero counts before a hole behind it does
        length = min(argsz - start, PAGE_SIZE - (argument.address + start) % PAGE_SIZE)
        if any(argument.read(start, length)):
            raise refuse(E2BIG, f"bytes behind the {_BIND_SIZE} that are known are not zero", "field", "argsz")
        start += length
    data = argument.read(0, min(argsz, _BIND_SIZE))
    request = uapi.vfio_device_bind_iommufd.from_buffer_copy(data.ljust(_BIND_SIZE, b"\0"))
    if request.iommufd < 0:
        raise refuse(EINVAL, f"iommufd is {request.iommufd}", "field", "iommufd")
    if request.flags & ~uapi.VFIO_DEVICE_BIND_FLAG_TOKEN:
        raise refuse(EINVAL, "unknown flags", "field", "flags")
    return request


def _context(argument: Argument, fd: int) -> Context:
    file = argument.caller.file(fd)
    if not isinstance(file, Context):
        raise refuse(EBADFD, "the descriptor is not an iommufd", "file", fd)
    return file


def attach(file: DeviceFile, argument: Argument, request: uapi.vfio_device_attach_iommufd_pt) -> int:
    """VFIO_DEVICE_ATTACH_IOMMUFD_PT: use an IOAS or page table, in place of the one in use; returns its id in `pt_id`.

    Raises KernelError: EINVAL, EFAULT, and what `ioas.soft.iommufd.Device` refuses.
    """
    device = file.device
    pasid = _pasid(argument, request, uapi.VFIO_DEVICE_ATTACH_PASID)
    with file.kept_bound(device.system.lock):
        page_table = device.attach(request.pt_id, pasid)
        try:
            argument.write(offset_of(type(request), "pt_id"), page_table.to_bytes(4, "little"))
        except KernelError:
            device.detach(None)
            raise
    return 0


def detach(file: DeviceFile, argument: Argument, request: uapi.vfio_device_detach_iommufd_pt) -> int:
    """VFIO_DEVICE_DETACH_IOMMUFD_PT: no DMA when it returns; nothing attached is no error.

    Raises KernelError: EINVAL, EFAULT.
    """
    pasid = _pasid(argument, request, uapi.VFIO_DEVICE_DETACH_PASID)
    with file.kept_bound(file.device.system.lock):
        file.device.detach(pasid)
    return 0


def _pasid(
    argument: Argument,
    request: uapi.vfio_device_attach_iommufd_pt | uapi.vfio_device_detach_iommufd_pt,
    flag: int,
) -> int | None:
    """The PASID, if the flag says that there is one; it is read only then."""
    if request.flags & ~flag:
        raise refuse(EINVAL, "unknown flags", "field", "flags")
    if not request.flags & flag:
        return None
    kind = type(request)
    end = end_of(kind, "pasid")
    if request.argsz < end:
        raise refuse(EINVAL, f"argsz is {request.argsz}; with a PASID the structure has {end} bytes", "field", "argsz")
    return int.from_bytes(argument.read(offset_of(kind, "pasid"), 4), "little")
