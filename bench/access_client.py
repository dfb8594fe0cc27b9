"""The client of bench/bulk.py where there is no C compiler: the same measurements as access_client.c, in plain Python.

Knows nothing of ioas, like any program. Prints "name nanoseconds" lines, medians over N calls each.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import statistics
import struct
import sys
import time

N = 2000
PAGE = 4096
BASE = ord(";") << 8
IOAS_ALLOC, IOAS_MAP, TEST = BASE | 0x81, BASE | 0x85, BASE | 0xA0
MOCK_DOMAIN, CREATE_ACCESS, ACCESS_RW = 2, 5, 8
WRITE, PINS = 1, 4
IOVA = 1 << 24
WAYS = ((0, "read"), (WRITE, "write"), (PINS, "pins_read"), (WRITE | PINS, "pins_write"))


def address_of(memory: mmap.mmap) -> int:
    """Where it is mapped."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test(iommufd: int, op: int, number: int, operation: bytes) -> bytearray:
    """Carry out a test operation; the structure that came back."""
    command = bytearray(struct.pack("=IIII", 72, op, number, 0) + operation.ljust(56, b"\0"))
    fcntl.ioctl(iommufd, TEST, command)
    return command


def time_all(iommufd: int, ioas: int, state: str) -> None:
    """Print the medians of ACCESS_RW of several lengths, in every way."""
    made = test(iommufd, CREATE_ACCESS, ioas, b"")
    access = int.from_bytes(made[16:20], "little")
    memory = mmap.mmap(-1, 4 * PAGE)
    place = address_of(memory)
    for length in (16, 4 * PAGE):
        for flags, way in WAYS:
            operation = struct.pack("=QQQI", IOVA + 8, length, place, flags).ljust(56, b"\0")
            command = bytearray(struct.pack("=IIII", 72, ACCESS_RW, access, 0) + operation)
            samples = []
            for _ in range(N):
                start = time.perf_counter_ns()
                fcntl.ioctl(iommufd, TEST, command)
                samples.append(time.perf_counter_ns() - start)
            sys.stdout.write(f"{state}{way}_{length} {int(statistics.median(samples))}\n")


def main() -> None:
    """Map memory, and time copies before and after a mock device has it pinned."""
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    alloc = bytearray(struct.pack("=III", 12, 0, 0))
    fcntl.ioctl(iommufd, IOAS_ALLOC, alloc)
    ioas = int(struct.unpack("=III", alloc)[2])
    memory = mmap.mmap(-1, 16 * PAGE)
    memory[:] = b"\1" * (16 * PAGE)
    mapping = struct.pack("=IIIIQQQ", 40, 7, ioas, 0, address_of(memory), 16 * PAGE, IOVA)
    fcntl.ioctl(iommufd, IOAS_MAP, bytearray(mapping))
    time_all(iommufd, ioas, "")
    test(iommufd, MOCK_DOMAIN, ioas, b"")
    time_all(iommufd, ioas, "pinned_")


if __name__ == "__main__":
    main()
