"""The client of bench/doorbell_host.py where there is no C compiler: the same as doorbell_client.c."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time

N = 3000
BIND = 0x3B76


def main() -> None:
    """Ring with the time, and wait until the device has counted it."""
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
    fcntl.ioctl(device, BIND, bytearray(struct.pack("=IIiI", 16, 0, iommufd, 0)))
    bar = memoryview(mmap.mmap(device, 1 << 20)).cast("Q")
    for count in range(1, N + 1):
        bar[0] = time.monotonic_ns()
        while bar[1] != count:
            pass


if __name__ == "__main__":
    main()
