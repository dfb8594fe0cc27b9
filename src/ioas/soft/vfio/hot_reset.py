"""Resets of everything on a bus: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and PCI_HOT_RESET (vfio_pci_core.c, 7.3).

Every function on the bus must be in the hands of vfio-pci, and of the program. Who has opened the device as a cdev owns
those that are bound to the same iommufd, or share a group with one that is. Who has it from a group proves ownership
by descriptors of the groups that the functions are in.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from errno import EBADF, EINVAL, ENODEV, ENOSPC, EPERM
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.soft.vfio.argument import Argument
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.iommufd import Context
    from ioas.soft.pci import Function
    from ioas.soft.vfio.device import VfioDevice
    from ioas.soft.vfio.device_file import DeviceFile
    from ioas.soft.vfio.group import VfioGroup

_ENTRY = ctypes.sizeof(uapi.vfio_pci_dependent_device)
_HEAD = ctypes.sizeof(uapi.vfio_pci_hot_reset)
NOT_OWNED = uapi.VFIO_PCI_DEVID_NOT_OWNED & 0xFFFF_FFFF
OWNED = uapi.VFIO_PCI_DEVID_OWNED


class GroupProof:
    """An open group: whoever has it owns its devices."""

    group: VfioGroup


def get_info(file: DeviceFile, argument: Argument, header: uapi.vfio_pci_hot_reset_info) -> int:
    """Which functions a hot reset would reset, and whose they are: by object ids for a cdev, else by groups.

    Raises KernelError: ENODEV on a root bus, ENOSPC (with `count` filled in) for want of room, EPERM for a function
    without a group, EFAULT.
    """
    device = file.device
    _check_resettable(device)
    with device.system.lock:
        functions = list(device.function.place.bus.functions.values())
        room = (header.argsz - ctypes.sizeof(header)) // _ENTRY
        header.flags, header.count = 0, len(functions)
        if len(functions) > room:
            argument.write(0, bytes(header))
            reason = f"{len(functions)} functions are affected, argsz has room for {room}"
            raise refuse(ENOSPC, reason, "field", "argsz")
        entries = [_entry(function, _identity(file, function)) for function in functions]
    argument.write(ctypes.sizeof(header), b"".join(map(bytes, entries)))
    if file.is_cdev:
        header.flags = uapi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID
        if all(entry.devid != NOT_OWNED for entry in entries):
            header.flags |= uapi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
    argument.write(0, bytes(header))
    return 0


def hot_reset(file: DeviceFile, argument: Argument, header: uapi.vfio_pci_hot_reset) -> int:
    """Reset every function on the bus.

    Raises KernelError: EINVAL for flags, descriptors from a cdev or none from a group, more descriptors than functions
    or others than of groups, functions that vfio-pci or the program does not have; ENODEV on a root bus; EBADF, EFAULT.
    """
    device = file.device
    if header.flags:
        raise refuse(EINVAL, "no flags are known", "field", "flags")
    if bool(header.count) == file.is_cdev:
        how = "as a cdev takes no group descriptors" if file.is_cdev else "from a group takes descriptors of groups"
        raise refuse(EINVAL, f"a device opened {how}", "field", "count")
    _check_resettable(device)
    with file.kept_bound(device.system.lock):
        if file.is_cdev:
            _reset(device, lambda member: device_id(member, device.context) != NOT_OWNED, "bound to the same iommufd")
        else:
            groups = _groups(device, argument, header.count)
            _reset(device, lambda member: member.group in groups, "in one of the groups that were given")
    return 0


def _groups(device: VfioDevice, argument: Argument, count: int) -> Sequence[VfioGroup]:
    """The groups behind the descriptors (vfio_pci_ioctl_pci_hot_reset_groups)."""
    functions = len(device.function.place.bus.functions)
    if count > functions:
        raise refuse(EINVAL, f"{count} groups are more than the {functions} functions on the bus", "field", "count")
    groups = []
    for fd in struct.unpack(f"{count}i", argument.read(_HEAD, 4 * count)):
        file = _file(argument, fd)
        if not isinstance(file, GroupProof):
            raise refuse(EINVAL, "the descriptor is not one of a group", "file", f"fd {fd}")
        groups.append(file.group)
    return groups


def _file(argument: Argument, fd: int) -> object:
    """The file of this machine behind a descriptor; None for a file of another kind. Raises KernelError(EBADF)."""
    try:
        return argument.caller.file(fd)
    except KernelError as error:
        if error.errno == EBADF:
            raise
        return None


def _reset(device: VfioDevice, owned: Callable[[VfioDevice], bool], wanted: str) -> None:
    """Follows vfio_pci_dev_set_hot_reset: what is exported is taken back function by function, until one is refused."""
    missing = device.set.missing(device)
    if missing is not None:
        raise refuse(EINVAL, "vfio-pci does not have this function, which would be reset", "device", str(missing.bdf))
    with ExitStack() as held:
        for member in device.set.members:
            if not owned(member):
                raise refuse(EINVAL, f"this function is not {wanted}", "device", member.name)
            held.enter_context(member.lock)
            held.enter_context(member.exports.away())
        for member in device.set.members:
            member.power.change(0)
        device.bus_reset()


def _check_resettable(device: VfioDevice) -> None:
    if not device.below_port:
        raise refuse(ENODEV, "the function is on a root bus, which cannot be reset", "device", device.name)


def _entry(function: Function, identity: int) -> uapi.vfio_pci_dependent_device:
    bdf = function.bdf
    entry = uapi.vfio_pci_dependent_device(segment=bdf.domain, bus=bdf.bus, devfn=bdf.devfn)
    entry.devid = identity
    return entry


def _identity(file: DeviceFile, function: Function) -> int:
    """Follows vfio_pci_fill_devs."""
    if file.is_cdev:
        member = file.device.set.find(function)
        return NOT_OWNED if member is None else device_id(member, file.device.context)
    group = function.requester.group
    if group is None:
        raise refuse(EPERM, "the function is in no group", "device", str(function.bdf))
    return group.id


def device_id(member: VfioDevice, context: Context | None) -> int:
    """The object id in `context`, OWNED for a function that shares a group with one bound to it, or NOT_OWNED."""
    if member.iommufd and member.context is context:
        return member.iommufd.id
    group = member.function.requester.group
    if group is not None and group.owner is context:
        return OWNED
    return NOT_OWNED
