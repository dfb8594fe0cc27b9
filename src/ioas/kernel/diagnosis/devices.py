"""Why a device cannot be had: who else has it or a device of its group, and whether it is there at all."""

from __future__ import annotations

import ctypes
import fcntl
from posixpath import basename

from ioas.kernel.diagnosis.call import Call, Finding
from ioas.kernel.diagnosis.holders import holders
from ioas.sysfs import PciDevice, Sysfs
from ioas.uapi import vfio

_HARMLESS = (None, "pcieport")
"""Drivers that do not stand in the way of the other devices of a group: none, and bridges' (they do no DMA)."""


def not_free(call: Call) -> Finding | None:
    """EBUSY or EPERM of binding: a device of the group is held by a driver, or by another program."""
    sysfs = Sysfs()
    for member in _group_of(sysfs, call.path):
        if member.driver not in _HARMLESS and member.vfio_device is None:
            return f"{member.bdf} of the same group is held by driver {member.driver}", "device", member.bdf
    for path in _other_ways(sysfs, call.path):
        if found := holders(path):
            return f"{found[0]} has it open by {path}", "file", path
    if found := [one for one in holders(call.path) if one != "this process"]:
        return f"{found[0]} has it open", "file", call.path
    return None


def gone(call: Call) -> Finding:
    """ENODEV."""
    name = basename(call.path)
    if call.path.startswith("/dev/vfio/devices/") and _device_of(Sysfs(), name) is None:
        return "the device is being removed, or is gone", "device", name
    return f"{call.name}: there is no such device, or it is gone", "device", name


def not_bound_yet(call: Call) -> Finding:
    """EINVAL of the first calls on a device."""
    return f"{call.name}: there is no such index, or the device is not bound yet", "device", basename(call.path)


def no_such_interrupts(call: Call) -> Finding | None:
    """EINVAL of VFIO_DEVICE_SET_IRQS: more than there are, as the device itself says."""
    wish = call.struct(vfio.vfio_irq_set)
    info = vfio.vfio_irq_info(argsz=ctypes.sizeof(vfio.vfio_irq_info), index=wish.index)
    kind = f"index {wish.index} ({_INTERRUPTS.get(wish.index, 'unknown')})"
    try:
        fcntl.ioctl(call.fd, vfio.VFIO_DEVICE_GET_IRQ_INFO, info)
    except OSError:
        return f"the device has no interrupts of {kind}, or is not bound yet", "field", "index"
    if wish.start + wish.count > info.count:
        asked = f"{wish.start} to {wish.start + wish.count - 1}"
        return f"the device has {info.count} interrupts of {kind}, and not {asked}", "field", "count"
    return f"interrupts of {kind} are not enabled, or do not know this action", "field", "flags"


_INTERRUPTS = {
    vfio.VFIO_PCI_INTX_IRQ_INDEX: "INTx",
    vfio.VFIO_PCI_MSI_IRQ_INDEX: "MSI",
    vfio.VFIO_PCI_MSIX_IRQ_INDEX: "MSI-X",
    vfio.VFIO_PCI_ERR_IRQ_INDEX: "error",
    vfio.VFIO_PCI_REQ_IRQ_INDEX: "request",
}


def _device_of(sysfs: Sysfs, name: str) -> PciDevice | None:
    """The function whose VFIO device is called `name`."""
    return next((one for one in sysfs.devices() if one.vfio_device == name), None)


def _group_of(sysfs: Sysfs, path: str) -> list[PciDevice]:
    """All functions in the group of a node."""
    name = basename(path).removeprefix("noiommu-") if "/devices/" not in path else basename(path)
    if name.isdecimal():
        number: int | None = int(name)
    else:
        device = _device_of(sysfs, name)
        number = device.iommu_group if device is not None else None
    return [sysfs.device(bdf) for bdf in sysfs.group(number).devices] if number is not None else []


def _other_ways(sysfs: Sysfs, path: str) -> list[str]:
    """The other nodes by which the group of a node can be in use."""
    members = _group_of(sysfs, path)
    ways = [f"/dev/vfio/devices/{member.vfio_device}" for member in members if member.vfio_device is not None]
    numbers = {member.iommu_group for member in members} - {None}
    ways += [f"/dev/vfio/{prefix}{number}" for number in numbers for prefix in ("", "noiommu-")]
    return [way for way in ways if way != path]
