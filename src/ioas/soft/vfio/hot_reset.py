"""Resets of everything on a bus: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and PCI_HOT_RESET (vfio_pci_core.c, 7.3).

For a device opened as a cdev, ownership is by iommufd: every function on the bus must be bound to the same context,
or share a group with one that is.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from errno import EINVAL, ENODEV, ENOSPC
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.vfio.argument import Argument
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.iommufd import Context
    from ioas.soft.vfio.device import VfioDevice
    from ioas.soft.vfio.device_file import DeviceFile

_ENTRY = ctypes.sizeof(uapi.vfio_pci_dependent_device)


def get_info(file: DeviceFile, argument: Argument, header: uapi.vfio_pci_hot_reset_info) -> int:
    """Which functions a hot reset would reset, and whose they are.

    Raises KernelError: ENODEV on a root bus, ENOSPC (with `count` filled in) for want of room, EFAULT.
    """
    device = file.device
    _check_resettable(device)
    members = device.siblings
    room = (header.argsz - ctypes.sizeof(header)) // _ENTRY
    header.flags, header.count = 0, len(members)
    if len(members) > room:
        argument.write(0, bytes(header))
        raise refuse(ENOSPC, f"{len(members)} functions are affected, argsz has room for {room}", "field", "argsz")
    with device.system.lock:
        entries = [_entry(member, device.context) for member in members]
    argument.write(ctypes.sizeof(header), b"".join(map(bytes, entries)))
    header.flags = uapi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID
    if all(entry.devid != uapi.VFIO_PCI_DEVID_NOT_OWNED & 0xFFFF_FFFF for entry in entries):
        header.flags |= uapi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
    argument.write(0, bytes(header))
    return 0


def hot_reset(file: DeviceFile, argument: Argument, header: uapi.vfio_pci_hot_reset) -> int:
    """Reset every function on the bus. Raises KernelError: EINVAL, ENODEV on a root bus."""
    device = file.device
    if header.flags:
        raise refuse(EINVAL, "no flags are known", "field", "flags")
    if header.count:
        raise refuse(EINVAL, "a device opened as a cdev takes no group descriptors", "field", "count")
    _check_resettable(device)
    with file.kept_bound(device.system.lock), ExitStack() as held:
        for member in device.siblings:
            if _device_id(member, device.context) == uapi.VFIO_PCI_DEVID_NOT_OWNED:
                raise refuse(EINVAL, "this function is not bound to the same iommufd", "device", member.name)
            held.enter_context(member.lock)
            held.enter_context(member.exports.away())  # also when a later member refuses, as in 7.3
        for member in device.siblings:
            member.power.change(0)
        device.bus_reset()
    return 0


def _check_resettable(device: VfioDevice) -> None:
    if not device.below_port:
        raise refuse(ENODEV, "the function is on a root bus, which cannot be reset", "device", device.name)


def _entry(member: VfioDevice, context: Context | None) -> uapi.vfio_pci_dependent_device:
    bdf = member.function.bdf
    entry = uapi.vfio_pci_dependent_device(segment=bdf.domain, bus=bdf.bus, devfn=bdf.devfn)
    entry.devid = _device_id(member, context) & 0xFFFF_FFFF
    return entry


def _device_id(member: VfioDevice, context: Context | None) -> int:
    """The object id in `context`, OWNED for a function that shares a group with one bound to it, or NOT_OWNED."""
    if member.iommufd and member.context is context:
        return member.iommufd.id
    group = member.function.requester.group
    if group is not None and group.owner is context:
        return uapi.VFIO_PCI_DEVID_OWNED
    return uapi.VFIO_PCI_DEVID_NOT_OWNED
