#!/usr/bin/env python3
"""A driver for QEMU's edu device in user space: Linux's iommufd and VFIO through os and fcntl, and nothing else.

    python3 edu.py 0000:01:00.0

Runs on a machine with an IOMMU and an edu device bound to vfio-pci, and without either:

    ioas run -- python3 edu.py 0000:01:00.0

The device (QEMU, docs/specs/edu.rst) computes factorials, has a buffer of 4 KiB and a DMA engine with 28 address bits
that copies between its buffer and memory, and interrupts when it is done.
"""

import fcntl
import mmap
import os
import select
import struct
import sys
import time

# Numbers and structures of linux/iommufd.h and linux/vfio.h; every structure begins with its own size.
IOMMU_IOAS_ALLOC, IOAS_ALLOC = 0x3B81, struct.Struct("=3I")  # size, flags, out_ioas_id
IOMMU_IOAS_UNMAP, IOAS_UNMAP = 0x3B86, struct.Struct("=2I2Q")  # size, ioas_id, iova, length
IOMMU_IOAS_MAP_FILE, IOAS_MAP_FILE = 0x3B8F, struct.Struct("=3Ii3Q")  # size, flags, ioas_id, fd, start, length, iova
IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_WRITEABLE, IOMMU_IOAS_MAP_READABLE = 1, 2, 4

VFIO_DEVICE_GET_REGION_INFO, REGION_INFO = 0x3B6C, struct.Struct("=4I2Q")  # argsz, flags, index, caps, size, offset
VFIO_DEVICE_SET_IRQS, IRQ_SET = 0x3B6E, struct.Struct("=5Ii")  # argsz, flags, index, start, count, eventfd
VFIO_DEVICE_BIND_IOMMUFD, BIND_IOMMUFD = 0x3B76, struct.Struct("=2Ii1I")  # argsz, flags, iommufd, out_devid
VFIO_DEVICE_ATTACH_IOMMUFD_PT, ATTACH_IOMMUFD_PT = 0x3B77, struct.Struct("=3I")  # argsz, flags, pt_id
VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 2, 1 << 5
VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX = 0, 7, 1

# Registers of edu, in BAR 0.
IDENTIFICATION, LIVENESS, FACTORIAL, STATUS = 0x00, 0x04, 0x08, 0x20
INTERRUPT_STATUS, INTERRUPT_ACKNOWLEDGE = 0x24, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
STATUS_COMPUTING = 1
DMA_START, DMA_TO_MEMORY, DMA_INTERRUPT = 1, 2, 4
DEVICE_BUFFER = 0x40000

PCI_COMMAND, PCI_COMMAND_MASTER = 4, 1 << 2
LENGTH = 4096
IOVA = 0x100000  # any address below 2**28 that the IOMMU can map


def call(fd, request, layout, *fields):
    """An ioctl with a structure; returns its fields as the kernel left them."""
    buffer = bytearray(layout.pack(layout.size, *fields))
    fcntl.ioctl(fd, request, buffer)
    return layout.unpack(buffer)


class Edu:
    """The device: registers, interrupt and DMA engine."""

    def __init__(self, bdf):
        """Open the VFIO device of a PCI address."""
        name = next(name for name in os.listdir(f"/sys/bus/pci/devices/{bdf}/vfio-dev") if name.startswith("vfio"))
        self.path = f"/dev/vfio/devices/{name}"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def start(self, iommufd, ioas):
        """Let all its DMA go through an address space, and find registers and interrupt."""
        call(self.fd, VFIO_DEVICE_BIND_IOMMUFD, BIND_IOMMUFD, 0, iommufd, 0)
        call(self.fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, ATTACH_IOMMUFD_PT, 0, ioas)
        self.bar0 = self.find_region(VFIO_PCI_BAR0_REGION_INDEX)
        self.enable_bus_master()
        self.event = os.eventfd(0)
        flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER
        call(self.fd, VFIO_DEVICE_SET_IRQS, IRQ_SET, flags, VFIO_PCI_MSI_IRQ_INDEX, 0, 1, self.event)

    def find_region(self, index):
        """Where a region begins in the device's file."""
        return call(self.fd, VFIO_DEVICE_GET_REGION_INFO, REGION_INFO, 0, index, 0, 0, 0)[-1]

    def enable_bus_master(self):
        """A device that has just been opened may not send anything: neither DMA nor message signalled interrupts."""
        where = self.find_region(VFIO_PCI_CONFIG_REGION_INDEX) + PCI_COMMAND
        (command,) = struct.unpack("<H", os.pread(self.fd, 2, where))
        os.pwrite(self.fd, struct.pack("<H", command | PCI_COMMAND_MASTER), where)

    def read(self, register):
        """Read a register."""
        return int.from_bytes(os.pread(self.fd, 4, self.bar0 + register), "little")

    def write(self, register, value):
        """Write a register."""
        os.pwrite(self.fd, value.to_bytes(4, "little"), self.bar0 + register)

    def factorial(self, number):
        """Let the device compute."""
        self.write(FACTORIAL, number)
        while self.read(STATUS) & STATUS_COMPUTING:
            time.sleep(0.001)
        return self.read(FACTORIAL)

    def dma(self, source, destination, count, direction):
        """Let the device copy, and wait for its interrupt."""
        self.write(DMA_SOURCE, source)
        self.write(DMA_DESTINATION, destination)
        self.write(DMA_COUNT, count)
        self.write(DMA_COMMAND, DMA_START | direction | DMA_INTERRUPT)
        if not select.select([self.event], [], [], 5)[0]:
            sys.exit("edu: no interrupt within 5 seconds")
        os.eventfd_read(self.event)
        self.write(INTERRUPT_ACKNOWLEDGE, self.read(INTERRUPT_STATUS))


def main():
    """Show what the device can do, and what the IOMMU does not let it do."""
    if len(sys.argv) != 2:
        sys.exit("usage: edu.py BDF, for example edu.py 0000:01:00.0")
    edu = Edu(sys.argv[1])
    print(f"edu {sys.argv[1]} is {edu.path}")
    iommufd = os.open("/dev/iommu", os.O_RDWR | os.O_CLOEXEC)
    *_, ioas = call(iommufd, IOMMU_IOAS_ALLOC, IOAS_ALLOC, 0, 0)
    edu.start(iommufd, ioas)

    # A page that the device may read and write, where it finds it at IOVA.
    file = os.memfd_create("dma", os.MFD_CLOEXEC)
    os.truncate(file, LENGTH)
    memory = mmap.mmap(file, LENGTH)
    flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE
    call(iommufd, IOMMU_IOAS_MAP_FILE, IOAS_MAP_FILE, flags, ioas, file, 0, LENGTH, IOVA)

    edu.write(LIVENESS, 0x12345678)
    if edu.read(LIVENESS) != 0x12345678 ^ 0xFFFFFFFF:
        sys.exit("edu: the device does not invert: is this an edu?")
    print(f"identification {edu.read(IDENTIFICATION):#010x}, alive")
    print(f"10! = {edu.factorial(10)}")

    message = b"Hello from user space"
    memory[: len(message)] = message
    edu.dma(IOVA, DEVICE_BUFFER, LENGTH, 0)
    print(f'memory to device by DMA: "{message.decode()}", interrupt received')
    memory[:] = bytes(LENGTH)
    edu.dma(DEVICE_BUFFER, IOVA, LENGTH, DMA_TO_MEMORY)
    if memory[: len(message)] != message:
        sys.exit("edu: the data came back changed")
    print(f'device to memory by DMA: "{memory[: len(message)].decode()}", interrupt received')

    # Take the page away from the device, and let the device write to it all the same.
    call(iommufd, IOMMU_IOAS_UNMAP, IOAS_UNMAP, ioas, IOVA, LENGTH)
    memory[:] = b"-" * LENGTH
    edu.dma(DEVICE_BUFFER, IOVA, LENGTH, DMA_TO_MEMORY)
    if memory[:] != b"-" * LENGTH:
        sys.exit("edu: the device wrote where it may not")
    print("device to memory after unmapping: stopped by the IOMMU, memory unchanged")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"edu: {error}")
