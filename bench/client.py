"""The client of bench/notify.py where there is no C compiler: the same measurements as client.c, in plain Python.

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
import termios
import time
from collections.abc import Callable

N = 2000
PAGE = 4096
BASE = ord(";") << 8
VFIO_CHECK_EXTENSION, VFIO_BIND, VFIO_ATTACH = BASE | 101, BASE | 118, BASE | 119
IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP = BASE | 0x81, BASE | 0x85, BASE | 0x86


def report(name: str, call: Callable[[], object], before: Callable[[], object] = lambda: None) -> None:
    """Print the median time of `call`, each time after `before`, which is not timed."""
    samples = []
    for _ in range(N):
        before()
        start = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - start)
    sys.stdout.write(f"{name} {int(statistics.median(samples))}\n")


def ioas_with_device(iommufd: int) -> int:
    """Make an IOAS and attach the first device to it; return its id."""
    alloc = bytearray(struct.pack("=III", 12, 0, 0))
    fcntl.ioctl(iommufd, IOAS_ALLOC, alloc)
    ioas = int(struct.unpack("=III", alloc)[2])
    device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
    fcntl.ioctl(device, VFIO_BIND, bytearray(struct.pack("=IIiI", 16, 0, iommufd, 0)))
    fcntl.ioctl(device, VFIO_ATTACH, bytearray(struct.pack("=III", 12, 0, ioas)))
    return ioas


def report_map(iommufd: int, ioas: int, sharing: int, kind: str) -> None:
    """Print the medians of IOAS_MAP and IOAS_UNMAP of one page that is mapped with `sharing`."""
    page = mmap.mmap(-1, PAGE, sharing)
    page[:] = b"\1" * PAGE
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    mapping = bytearray(struct.pack("=IIIIQQQ", 40, 7, ioas, 0, address, PAGE, 0x100000))
    unmapping = struct.pack("=IIQQ", 24, ioas, 0x100000, PAGE)

    def do_map() -> None:
        fcntl.ioctl(iommufd, IOAS_MAP, mapping)

    def do_unmap() -> None:
        fcntl.ioctl(iommufd, IOAS_UNMAP, bytearray(unmapping))

    do_map()
    report(f"map_{kind}", do_map, do_unmap)
    do_unmap()
    report(f"unmap_{kind}", do_unmap, do_map)


def main() -> None:
    """Time a native ioctl, or with the argument "ioas" those that ioas answers."""
    if sys.argv[1:] != ["ioas"]:
        reader, _ = os.pipe()
        count = bytearray(4)
        report("native", lambda: fcntl.ioctl(reader, termios.FIONREAD, count))
        return
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    report("check_extension", lambda: fcntl.ioctl(iommufd, VFIO_CHECK_EXTENSION, 3))
    ioas = ioas_with_device(iommufd)
    report_map(iommufd, ioas, mmap.MAP_SHARED, "shared")
    report_map(iommufd, ioas, mmap.MAP_PRIVATE, "private")


if __name__ == "__main__":
    main()
