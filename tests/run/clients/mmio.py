"""A driver program that maps BAR 0 of the first device. Knows nothing of ioas, like any program."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

BIND = 0x3B76
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
MAP_FIXED = 0x10


class Device:
    """An open and bound device."""

    def __init__(self, path: str = "/dev/vfio/devices/vfio0", flags: int = os.O_RDWR) -> None:
        self.iommufd = os.open("/dev/iommu", os.O_RDWR)
        self.fd = os.open(path, flags)
        fcntl.ioctl(self.fd, BIND, bytearray(struct.pack("=IIiI", 16, 0, self.iommufd, 0)))

    def map(
        self,
        length: int,
        offset: int = 0,
        *,
        address: int | None = None,
        protection: int = READ_WRITE,
        flags: int = mmap.MAP_SHARED,
    ) -> int:
        """mmap(2) of the device file; the address. Raises OSError."""
        found = _libc.mmap(address, length, protection, flags, self.fd, offset)
        if found == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(found)


def unmap(address: int, length: int) -> None:
    """munmap(2)."""
    if _libc.munmap(address, length):
        raise OSError(ctypes.get_errno(), "munmap")


def word(address: int) -> ctypes.c_uint32:
    """The 32-bit word at `address`: reading and assigning `.value` are a load and a store."""
    return ctypes.c_uint32.from_address(address)
