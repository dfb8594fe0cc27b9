"""An ordinary program's view of groups and containers, by system calls alone."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

BDF = "0000:01:00.0"
CONFIG = 7 << 40
VFIO = ord(";") << 8
SET_IOMMU, SET_CONTAINER, UNSET_CONTAINER = VFIO | 0x66, VFIO | 0x68, VFIO | 0x69
GET_DEVICE_FD, MAP_DMA, UNMAP_DMA = VFIO | 0x6A, VFIO | 0x71, VFIO | 0x72
TYPE1V2 = 3
IOVA = 0x100000

_libc = ctypes.CDLL(None, use_errno=True)


def group_path(bdf: str = BDF) -> str:
    return f"/dev/vfio/{os.path.basename(os.readlink(f'/sys/bus/pci/devices/{bdf}/iommu_group'))}"


def open_group(bdf: str = BDF) -> int:
    return os.open(group_path(bdf), os.O_RDWR | os.O_CLOEXEC)


def open_container(*groups: int, node: str = "/dev/vfio/vfio") -> int:
    """A container with groups and a driver."""
    container = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    for group in groups:
        fcntl.ioctl(group, SET_CONTAINER, struct.pack("i", container))
    if groups:
        fcntl.ioctl(container, SET_IOMMU, TYPE1V2)
    return container


def give(group: int, bdf: str = BDF) -> int:
    """The device's descriptor; fcntl.ioctl would not return it."""
    fd = _libc.ioctl(group, GET_DEVICE_FD, ctypes.c_char_p(bdf.encode()))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def map_dma(container: int, vaddr: int, size: int, iova: int = IOVA, flags: int = 3) -> None:
    fcntl.ioctl(container, MAP_DMA, struct.pack("<IIQQQ", 32, flags, vaddr, iova, size))


def unmap_dma(container: int, size: int, iova: int = IOVA) -> int:
    answer = fcntl.ioctl(container, UNMAP_DMA, struct.pack("<IIQQ", 24, 0, iova, size))
    return struct.unpack("<IIQQ", answer)[3]


def locked() -> int:
    """Locked memory in KiB, as the kernel shows it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmLck"))
