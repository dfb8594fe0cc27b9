"""The table of a VFIO device's ioctls, and the dispatcher that alone checks `argsz`.

The order is that of vfio_device_fops_unl_ioctl (7.3): BIND_IOMMUFD first; then nothing until the file is bound; then
the commands that only cdev files know (`CDEV_COMMANDS`); then those of the device (`COMMANDS`).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING, Any, NamedTuple

from ioas.errors import refuse
from ioas.soft.vfio import bind, features, hot_reset, info, ioeventfd, reset, set_irqs
from ioas.soft.vfio.argument import Argument, copy_in
from ioas.uapi import vfio as uapi
from ioas.uapi.base import Struct

if TYPE_CHECKING:
    from ioas.soft.vfio.device_file import DeviceFile

NOT_BOUND = "the device file is not bound yet; VFIO_DEVICE_BIND_IOMMUFD comes first"


class Command(NamedTuple):
    """One ioctl: who carries it out, and the structure up to the last field of its first version."""

    handler: Callable[[DeviceFile, Argument, Any], int]
    struct: type[Struct] | None = None
    last: str = ""


COMMANDS: dict[int, Command] = {
    uapi.VFIO_DEVICE_FEATURE: Command(features.feature, uapi.vfio_device_feature, "flags"),
    uapi.VFIO_DEVICE_GET_INFO: Command(info.get_info, uapi.vfio_device_info, "num_irqs"),
    uapi.VFIO_DEVICE_GET_REGION_INFO: Command(info.get_region_info, uapi.vfio_region_info, "offset"),
    uapi.VFIO_DEVICE_GET_IRQ_INFO: Command(info.get_irq_info, uapi.vfio_irq_info, "count"),
    uapi.VFIO_DEVICE_SET_IRQS: Command(set_irqs.set_irqs, uapi.vfio_irq_set, "count"),
    uapi.VFIO_DEVICE_RESET: Command(reset.reset),
    uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: Command(hot_reset.get_info, uapi.vfio_pci_hot_reset_info, "count"),
    uapi.VFIO_DEVICE_PCI_HOT_RESET: Command(hot_reset.hot_reset, uapi.vfio_pci_hot_reset, "count"),
    uapi.VFIO_DEVICE_IOEVENTFD: Command(ioeventfd.ioeventfd, uapi.vfio_device_ioeventfd, "fd"),
}
CDEV_COMMANDS: dict[int, Command] = {
    uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT: Command(bind.attach, uapi.vfio_device_attach_iommufd_pt, "pt_id"),
    uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT: Command(bind.detach, uapi.vfio_device_detach_iommufd_pt, "flags"),
    **COMMANDS,
}


def dispatch(file: DeviceFile, argument: Argument, request: int) -> int:
    """Carry out `request` on an open cdev; the result of the ioctl. Raises KernelError."""
    if request == uapi.VFIO_DEVICE_BIND_IOMMUFD:
        return file.bind(argument)
    if not file.bound:
        raise refuse(EINVAL, NOT_BOUND, "request", name(request))
    with file.device.power.awake():
        return _carry_out(file, argument, request)


def _carry_out(file: DeviceFile, argument: Argument, request: int) -> int:
    command = file.commands.get(request)
    if command is None:
        raise refuse(ENOTTY, "no such request on a VFIO PCI device", "request", name(request))
    value = None if command.struct is None else copy_in(argument, command.struct, command.last)
    return command.handler(file, argument, value)


def name(request: int) -> str:
    """The request as a person reads it: the kernel's name, or the number."""
    return _NAMES.get(request, f"{request:#x}")


_NAMES = {
    number: name for name, number in vars(uapi).items() if name.startswith("VFIO_DEVICE_") and number in CDEV_COMMANDS
}
