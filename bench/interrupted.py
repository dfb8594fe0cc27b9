"""Signals without SA_RESTART: how often one fails a call that nobody has received yet; what `--uninterrupted` costs."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import commands
from bench.report import Line

ROUNDS = 5
OPTION = "--uninterrupted"
COSTS = """
import fcntl, mmap, os, struct, time
def call(fd, request, layout, *fields):
    buffer = bytearray(struct.pack(layout, struct.calcsize(layout), *fields))
    fcntl.ioctl(fd, request, buffer)
    return struct.unpack(layout, buffer)
def fastest(action, times, rounds):
    best = 1 << 62
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(times):
            action()
        best = min(best, time.perf_counter_ns() - start)
    return best / times
def map_and_unmap():
    call(iommufd, 0x3B85, "=4I3Q", 7, ioas, 0, address, 4096, 1 << 20)
    call(iommufd, 0x3B86, "=2I2Q", ioas, 1 << 20, 4096)
def fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
import ctypes
device, iommufd = os.open("/dev/vfio/devices/vfio0", os.O_RDWR), os.open("/dev/iommu", os.O_RDWR)
ioas = call(iommufd, 0x3B81, "=3I", 0, 0)[2]
call(device, 0x3B76, "=2Ii1I", 0, iommufd, 0)
call(device, 0x3B77, "=3I", 0, ioas)
memory = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[0] = 1
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(fastest(lambda: fcntl.ioctl(iommufd, 0x3B65, 1), 500, 5), fastest(map_and_unmap, 100, 5), fastest(fork, 30, 5))
"""


def measure() -> Iterator[Line]:
    """The share of signals that fail a call, in one thread and three; calls, mappings and forks with and without."""
    if commands.compiler():
        with tempfile.TemporaryDirectory() as directory:
            program = commands.compiled("interrupted", Path(directory))
            for threads in (1, 3):
                share = statistics.median(_share([*program, str(threads)], ()) for _ in range(ROUNDS))
                yield Line(f"signals without SA_RESTART that fail a call, {threads} thread(s)", share, "%")
                share = max(_share([*program, str(threads)], (OPTION,)) for _ in range(ROUNDS))
                yield Line(f"the same with {OPTION}, the most of {ROUNDS} runs", share, "%", 0)
    program = [sys.executable, "-S", "-c", COSTS]
    pairs = [(_costs(program, ()), _costs(program, (OPTION,))) for _ in range(ROUNDS)]
    for index, name in enumerate(("an ioctl", "IOAS_MAP and UNMAP of private memory", "fork, exit and wait")):
        for option in (0, 1):
            words = f"{name}{' with ' + OPTION if option else ''}"
            yield Line(words, statistics.median(pair[option][index] for pair in pairs) / 1000, "us")


def _under(program: Sequence[str], options: Sequence[str]) -> list[str]:
    return commands.output([*commands.IOAS_RUN[:-1], *options, "--", *program]).split()


def _share(program: Sequence[str], options: Sequence[str]) -> float:
    failed, signals = map(int, _under(program, options))
    return 100 * failed / signals


def _costs(program: Sequence[str], options: Sequence[str]) -> tuple[float, ...]:
    return tuple(map(float, _under(program, options)))
