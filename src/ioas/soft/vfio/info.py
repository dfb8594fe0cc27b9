"""What a device tells about itself: VFIO_DEVICE_GET_INFO, GET_REGION_INFO, GET_IRQ_INFO (vfio_pci_core.c, 7.3)."""

from __future__ import annotations

import ctypes
from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.capability_chain import InfoCapability, chain
from ioas.soft.vfio.regions import OFFSET_SHIFT, rom_image_size
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice
    from ioas.soft.vfio.device_file import DeviceFile

_READ_WRITE = uapi.VFIO_REGION_INFO_FLAG_READ | uapi.VFIO_REGION_INFO_FLAG_WRITE


def get_info(file: DeviceFile, argument: Argument, info: uapi.vfio_device_info) -> int:
    """9 regions, 5 interrupt indexes, and whether the function can be reset. Raises KernelError(EFAULT)."""
    info.flags = uapi.VFIO_DEVICE_FLAGS_PCI
    if file.device.reset_works:
        info.flags |= uapi.VFIO_DEVICE_FLAGS_RESET
    info.num_regions = uapi.VFIO_PCI_NUM_REGIONS
    info.num_irqs = uapi.VFIO_PCI_NUM_IRQS
    argument.write(0, bytes(info)[: min(info.argsz, ctypes.sizeof(info))])
    return 0


def get_region_info(file: DeviceFile, argument: Argument, info: uapi.vfio_region_info) -> int:
    """Size, flags and offset of a region, with its capabilities where they fit. Raises KernelError: EINVAL, EFAULT."""
    size, flags, capabilities = _region(file.device, info.index)
    info.offset, info.size, info.flags = info.index << OFFSET_SHIFT, size, flags
    base = ctypes.sizeof(info)
    if tail := chain(capabilities, base):
        info.flags |= uapi.VFIO_REGION_INFO_FLAG_CAPS
        if info.argsz < base + len(tail):
            info.argsz, info.cap_offset = base + len(tail), 0
        else:
            argument.write(base, tail)
            info.cap_offset = base
    argument.write(0, bytes(info))
    return 0


def _region(device: VfioDevice, index: int) -> tuple[int, int, list[InfoCapability]]:
    """Size in bytes, flags and capabilities."""
    function = device.function
    if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
        return function.config.size, _READ_WRITE, []
    if index == uapi.VFIO_PCI_ROM_REGION_INDEX:
        rom = function.rom
        return (rom.size, uapi.VFIO_REGION_INFO_FLAG_READ, []) if rom and rom_image_size(rom.contents) else (0, 0, [])
    if index > uapi.VFIO_PCI_BAR5_REGION_INDEX:
        raise refuse(EINVAL, "no such region; this is no VGA device and regions are 0 to 7", "region", index)
    bar = function.bars[index]
    if bar is None:
        return 0, 0, []
    if index not in device.mappable_bars:
        return bar.size, _READ_WRITE, []
    holds_table = index == device.msix_table.bar
    return (
        bar.size,
        _READ_WRITE | uapi.VFIO_REGION_INFO_FLAG_MMAP,
        [InfoCapability(uapi.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE)] if holds_table else [],
    )


def get_irq_info(file: DeviceFile, argument: Argument, info: uapi.vfio_irq_info) -> int:
    """How many interrupts an index has, and how they behave. Raises KernelError: EINVAL, EFAULT."""
    if info.index >= uapi.VFIO_PCI_NUM_IRQS:
        raise refuse(EINVAL, f"interrupt indexes are 0 to {uapi.VFIO_PCI_NUM_IRQS - 1}", "field", "index")
    info.flags = uapi.VFIO_IRQ_INFO_EVENTFD
    info.count = file.device.irqs.count(info.index)
    if info.index == uapi.VFIO_PCI_INTX_IRQ_INDEX:
        info.flags |= uapi.VFIO_IRQ_INFO_MASKABLE | uapi.VFIO_IRQ_INFO_AUTOMASKED
    elif info.index != uapi.VFIO_PCI_MSIX_IRQ_INDEX or not file.device.msix_table.size:
        info.flags |= uapi.VFIO_IRQ_INFO_NORESIZE
    argument.write(0, bytes(info))
    return 0
