"""The driver of noiommu.c in Python: an edu device without an IOMMU, the way DPDK goes.

    python3 noiommu.py 0000:01:00.0
    ioas run --no-iommu --cap sys_rawio --cap sys_admin -- python3 noiommu.py 0000:01:00.0

Needs the standard library alone. With --wild the device writes to memory that has been given back: under ioas run only.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import sys

SET_CONTAINER, GET_DEVICE_FD, SET_IOMMU, GET_REGION_INFO = 0x3B68, 0x3B6A, 0x3B66, 0x3B6C
NOIOMMU_IOMMU = 8
BAR0, CONFIG = 0, 7
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY = 1, 2
DEVICE_BUFFER = 0x40000
MAP_HUGETLB = 0x40000
PAGE, HUGE_PAGE = 4096, 2 << 20
PRESENT, FRAME = 1 << 63, (1 << 55) - 1
TEXT = b"Hello from user space"
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Edu:
    """The device, opened by its group, in a container that maps nothing."""

    def __init__(self, address: str) -> None:
        group = os.path.basename(os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group"))
        path = f"/dev/vfio/noiommu-{group}"
        print(f"edu {address} is in {path}: no IOMMU stands before it")
        self.container = os.open("/dev/vfio/vfio", os.O_RDWR)
        self.group = os.open(path, os.O_RDWR)
        fcntl.ioctl(self.group, SET_CONTAINER, struct.pack("i", self.container))
        fcntl.ioctl(self.container, SET_IOMMU, NOIOMMU_IOMMU)
        self.device = fcntl.ioctl(self.group, GET_DEVICE_FD, bytearray(address.encode() + b"\0"), True)
        self.bar0, config = self.region(BAR0), self.region(CONFIG)
        command = int.from_bytes(os.pread(self.device, 2, config + 4), "little") | 4
        os.pwrite(self.device, command.to_bytes(2, "little"), config + 4)

    def region(self, index: int) -> int:
        """Where a region begins in the device file."""
        info = bytearray(struct.pack("4I2Q", 32, 0, index, 0, 0, 0))
        fcntl.ioctl(self.device, GET_REGION_INFO, info, True)
        return struct.unpack("4I2Q", info)[5]

    def dma(self, source: int, destination: int, count: int, direction: int = 0) -> None:
        """Copy, and wait until it is done."""
        registers = {SOURCE: source, DESTINATION: destination, COUNT: count, COMMAND: START | direction}
        for where, value in registers.items():
            os.pwrite(self.device, value.to_bytes(8, "little"), self.bar0 + where)
        while os.pread(self.device, 8, self.bar0 + COMMAND)[0] & START:
            pass


def physical(address: int) -> int:
    """Where memory is, as /proc/self/pagemap tells."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        entry = int.from_bytes(pagemap.read(8), "little")
    if not entry & PRESENT or not entry & FRAME:
        raise SystemExit("noiommu: /proc/self/pagemap does not tell where memory is: that takes CAP_SYS_ADMIN")
    return (entry & FRAME) * PAGE + address % PAGE


def locked_memory() -> tuple[mmap.mmap, int]:
    """Memory that stays where it is, and its address: a huge page, or pages that are locked."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    try:
        memory = mmap.mmap(-1, HUGE_PAGE, kind | MAP_HUGETLB)
    except OSError:
        memory = mmap.mmap(-1, 2 * PAGE, kind)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if LIBC.mlock(address, len(memory)):
            raise SystemExit("noiommu: memory cannot be locked") from None
        print("memory: 2 ordinary pages, locked")
        return memory, address
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    follows = physical(address + HUGE_PAGE - PAGE) - physical(address) == HUGE_PAGE - PAGE
    print(f"memory: a huge page, physically contiguous: {'yes' if follows else 'no'}")
    return memory, address


def main(address: str, wild: bool) -> None:
    """Send a text through the device's buffer, from one page to the next."""
    edu = Edu(address)
    memory, at = locked_memory()
    memory[: len(TEXT)] = TEXT
    edu.dma(physical(at), DEVICE_BUFFER, len(TEXT))
    last = physical(at + PAGE)
    edu.dma(DEVICE_BUFFER, last, len(TEXT), TO_MEMORY)
    back = memory[PAGE : PAGE + len(TEXT)]
    print(f'to the device and back by DMA, from one page to the next: "{back.decode()}"')
    if back != TEXT:
        raise SystemExit(1)
    if wild:
        LIBC.munmap(at, len(memory))
        edu.dma(DEVICE_BUFFER, last, len(TEXT), TO_MEMORY)
        print("and once more, to memory that has been given back")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--wild"]):
        raise SystemExit("usage: noiommu.py 0000:01:00.0 [--wild]")
    try:
        main(sys.argv[1], sys.argv[2:] == ["--wild"])
    except OSError as error:
        raise SystemExit(f"noiommu: {error}") from None
