"""The little driver that the other clients share: an edu device through iommufd and VFIO."""

import fcntl
import mmap
import os
import struct
import time

IOAS_ALLOC, IOAS_UNMAP, IOAS_MAP, IOAS_MAP_FILE = 0x3B81, 0x3B86, 0x3B85, 0x3B8F
CHECK_EXTENSION, BIND, ATTACH = 0x3B65, 0x3B76, 0x3B77
FIXED, WRITEABLE, READABLE = 1, 2, 4
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
BUFFER = 0x40000
CONFIG = 7 << 40
IOVA = 0x100000


def call(fd, request, layout, *fields):
    buffer = bytearray(struct.pack(layout, struct.calcsize(layout), *fields))
    fcntl.ioctl(fd, request, buffer)
    return struct.unpack(layout, buffer)


def address_of(memory):
    """Where an mmap object lies."""
    import ctypes

    view = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(view)
    del view
    return address


class Machine:
    """An iommufd with an address space, and the edu attached to it."""

    def __init__(self):
        self.device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR | os.O_CLOEXEC)
        self.iommufd = os.open("/dev/iommu", os.O_RDWR | os.O_CLOEXEC)
        self.ioas = call(self.iommufd, IOAS_ALLOC, "=3I", 0, 0)[2]
        try:
            call(self.device, BIND, "=2Ii1I", 0, self.iommufd, 0)
        except OSError:
            self.close()
            raise
        call(self.device, ATTACH, "=3I", 0, self.ioas)
        (command,) = struct.unpack("<H", os.pread(self.device, 2, CONFIG + 4))
        os.pwrite(self.device, struct.pack("<H", command | 6), CONFIG + 4)

    def close(self):
        os.close(self.device)
        os.close(self.iommufd)

    def map(self, address, length, iova=IOVA, access=READABLE | WRITEABLE):
        call(self.iommufd, IOAS_MAP, "=4I3Q", FIXED | access, self.ioas, 0, address, length, iova)

    def map_file(self, fd, start, length, iova=IOVA):
        flags = FIXED | READABLE | WRITEABLE
        call(self.iommufd, IOAS_MAP_FILE, "=3Ii3Q", flags, self.ioas, fd, start, length, iova)

    def unmap(self, length, iova=IOVA):
        call(self.iommufd, IOAS_UNMAP, "=2I2Q", self.ioas, iova, length)

    def register(self, offset, value=None):
        if value is None:
            return int.from_bytes(os.pread(self.device, 4, offset), "little")
        return os.pwrite(self.device, value.to_bytes(4, "little"), offset)

    def copy(self, source, destination, count, to_memory):
        """One transfer by the device's DMA engine; returns when it is over.

        A transfer of whoever had the device before comes first: edu has no reset.
        """
        while self.register(COMMAND) & 1:
            time.sleep(0.005)
        for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, count)):
            self.register(register, value)
        self.register(COMMAND, 1 | to_memory << 1)
        while self.register(COMMAND) & 1:
            time.sleep(0.005)

    def read(self, count, iova=IOVA):
        """What the device reads at `iova`: into its buffer by DMA, then out to a page of a memfd of its own."""
        window = os.memfd_create("window")
        os.truncate(window, 4096)
        self.map_file(window, 0, 4096, iova=0x8000000)
        self.copy(iova, BUFFER, count, to_memory=False)
        self.copy(BUFFER, 0x8000000, count, to_memory=True)
        data = os.pread(window, count, 0)
        self.unmap(4096, iova=0x8000000)
        os.close(window)
        return data

    def write(self, data, iova=IOVA):
        """Have the device write `data` at `iova`."""
        window = os.memfd_create("window")
        os.truncate(window, 4096)
        os.pwrite(window, data, 0)
        self.map_file(window, 0, 4096, iova=0x8000000)
        self.copy(0x8000000, BUFFER, len(data), to_memory=False)
        self.copy(BUFFER, iova, len(data), to_memory=True)
        self.unmap(4096, iova=0x8000000)
        os.close(window)


def shared(length=4096):
    return mmap.mmap(-1, length, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


def private(length=4096):
    return mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
