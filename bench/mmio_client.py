"""The client of bench/mmio.py where there is no C compiler: the same measurements as mmio_client.c, in plain Python."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import statistics
import struct
import sys
import threading
import time

N = 3000
BIND = 0x3B76


def map_bar() -> mmap.mmap:
    """Map BAR 0 of the first device."""
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
    fcntl.ioctl(device, BIND, bytearray(struct.pack("=IIiI", 16, 0, iommufd, 0)))
    return mmap.mmap(device, 1 << 20)


def measure(bar: mmap.mmap, results: list[tuple[float, float, float]]) -> None:
    """Median nanoseconds of a load and of a store, and the mean of loads."""
    first, second = ctypes.c_uint32.from_buffer(bar, 0), ctypes.c_uint32.from_buffer(bar, 4)
    loads, stores = [], []
    for turn in range(N):
        start = time.perf_counter_ns()
        _ = first.value
        loads.append(time.perf_counter_ns() - start)
        start = time.perf_counter_ns()
        second.value = turn
        stores.append(time.perf_counter_ns() - start)
    results.append((statistics.median(loads), statistics.median(stores), statistics.mean(loads)))


def compute() -> None:
    """Time something that does not touch the BAR."""
    start = time.perf_counter_ns()
    sum(turn * turn & 0xFF for turn in range(4_000_000))
    sys.stdout.write(f"compute {time.perf_counter_ns() - start}\n")


def main() -> None:
    """Time accesses; or with "other" a computation, and with another argument the same with the BAR mapped."""
    if sys.argv[1:] == ["other"]:
        compute()
        return
    bar = map_bar()
    if sys.argv[1:]:
        compute()
        return
    results: list[tuple[float, float, float]] = []
    measure(bar, results)
    threads = [threading.Thread(target=measure, args=(bar, results)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, values in (("", results[:1]), ("_two", results[1:])):
        load, store = (statistics.mean(each[index] for each in values) for index in (0, 1))
        sys.stdout.write(f"load{name} {int(load)}\nstore{name} {int(store)}\n")
    mean = statistics.mean(each[2] for each in results[1:])
    sys.stdout.write(f"load_two_mean {int(mean)}\n")


if __name__ == "__main__":
    main()
