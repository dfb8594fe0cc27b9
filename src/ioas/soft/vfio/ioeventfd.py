"""VFIO_DEVICE_IOEVENTFD: a write to a register whenever an eventfd is signalled (follows vfio_pci_rdwr.c, 7.3)."""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENODEV, ENOSPC
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import refuse
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.regions import OFFSET_MASK, OFFSET_SHIFT
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice
    from ioas.soft.vfio.device_file import DeviceFile

MOST = 1000
"""How many of them a device has at most (VFIO_PCI_IOEVENTFD_MAX)."""


class IoEvent(NamedTuple):
    """What is written: `data` of `width` bytes at `offset` of a BAR."""

    bar: int
    offset: int
    width: int
    data: int


def ioeventfd(file: DeviceFile, argument: Argument, request: uapi.vfio_device_ioeventfd) -> int:
    """Begin or (fd -1) end such a write.

    Raises KernelError: EINVAL for flags, a place outside of the BARs or in the MSI-X table; EEXIST when
    the same is there; ENODEV when there is nothing to end; ENOSPC beyond 1,000; and what eventfds are refused with.
    """
    device = file.device
    width = request.flags
    if width not in (1, 2, 4, 8) or request.fd < -1:
        raise refuse(EINVAL, "flags hold one of four sizes, and fd is a descriptor or -1", "field", "flags")
    event = IoEvent(request.offset >> OFFSET_SHIFT, request.offset & OFFSET_MASK, width, request.data)
    _check_place(device, event)
    with file.kept_bound(device.lock):
        watches = device.ioeventfds
        if event in watches:
            if request.fd != -1:
                raise refuse(EEXIST, "the same write is there already", "region", event.bar)
            watches.pop(event).close()
            return 0
        if request.fd < 0:
            raise refuse(ENODEV, "there is no such write", "region", event.bar)
        if len(watches) >= MOST:
            raise refuse(ENOSPC, f"a device has at most {MOST} of them", "limit", MOST)
        watches[event] = device.watcher.watch(argument.caller.eventfd(request.fd), lambda: _write(device, event))
    return 0


def _check_place(device: VfioDevice, event: IoEvent) -> None:
    bar = device.function.bars[event.bar] if event.bar <= uapi.VFIO_PCI_BAR5_REGION_INDEX else None
    if bar is None or event.offset + event.width > bar.size:
        raise refuse(EINVAL, "the place is not in a BAR of the device", "region", event.bar)
    if device.msix_table.overlaps(event.bar, event.offset, event.width):
        raise refuse(EINVAL, "the place is in the MSI-X table", "region", event.bar)


def _write(device: VfioDevice, event: IoEvent) -> None:
    """On the watcher's thread; takes no lock of the device, for closing waits for this thread."""
    bar = device.function.bars[event.bar]
    if bar is not None and (bar.is_io or device.memory_enabled):
        mask = (1 << 8 * event.width) - 1
        device.function.bar_write(event.bar, event.offset, (event.data & mask).to_bytes(event.width, "little"))
