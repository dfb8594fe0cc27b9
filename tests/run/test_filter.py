"""The seccomp filter hands over exactly what the rules say. The program is interpreted here as the kernel does it."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import pytest

from ioas.run.filter import AT_FDCWD, build, rules
from ioas.run.handlers import HANDLERS
from ioas.run.kernel import AUDIT_ARCH_X86_64, Nr
from ioas.run.numbers import FdRange

OURS = [FdRange(900, 1023), FdRange(3072, 4095)]
PROGRAM = build(rules(OURS, eventfds=False))
NOTIFY, ALLOW, ENOSYS = 0x7FC00000, 0x7FFF0000, 0x00050026


def verdict(number: int, *arguments: int, arch: int = AUDIT_ARCH_X86_64, program: bytes = PROGRAM) -> int:
    """Run the filter over a call (seccomp's subset of classic BPF)."""
    padded = [argument & (1 << 64) - 1 for argument in (*arguments, *[0] * 6)[:6]]
    data = struct.pack("=iIQ6Q", number - (number >> 31 << 32), arch, 0, *padded)
    accumulator = at = 0
    while True:
        code, then, otherwise, value = struct.unpack_from("HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = int.from_bytes(data[value : value + 4], "little")
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return int(value)
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[code]
            at += then if holds else otherwise


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (Nr.IOCTL, [3, 0x3B85]),
        (Nr.IOCTL, [-1, 0xC0003B64]),
        (Nr.IOCTL, [900, 0x5401]),  # whatever is asked of our files
        (Nr.OPEN, [0, os.O_DIRECTORY]),
        (Nr.OPENAT, [AT_FDCWD, 0, os.O_DIRECTORY]),
        (Nr.OPENAT, [-100, 0, 0]),
        (Nr.OPENAT, [5, 0, os.O_RDWR]),
        (Nr.NEWFSTATAT, [AT_FDCWD]),
        (Nr.NEWFSTATAT, [900, 0, 0, 0x1000]),
        (Nr.STATX, [3072, 0, 0x1900]),
        (Nr.FSTAT, [1023]),
        (Nr.READ, [900]),
        (Nr.READ, [1023]),
        (Nr.READ, [3072]),
        (Nr.PWRITE64, [1000]),
        (Nr.MMAP, [0, 4096, 3, 2, 950, 0]),
        (Nr.MMAP, [0, 4096, 3, 1, 5, 0]),  # shared, of whatever file
        (Nr.PREAD64, [5, 0, 4, 0]),  # as only a register is read
        (Nr.PWRITE64, [5, 0, 64, 7 << 40]),  # where only devices have something
        (Nr.PWRITEV, [5, 0, 1, 1 << 40]),
        (Nr.LSEEK, [950]),
        (Nr.EPOLL_CTL, [3, 1, 950]),
        (Nr.FCNTL, [901, 0]),
        (Nr.FCNTL, [901, 1030]),
        (Nr.EXECVE, []),
        (Nr.CAPSET, []),
    ],
)
def test_what_may_concern_the_machine_is_handed_over(number: Nr, arguments: Sequence[int]) -> None:
    assert verdict(number, *arguments) == NOTIFY


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (Nr.IOCTL, [3, 0x5401]),
        (Nr.IOCTL, [5, 0xAE01]),
        (Nr.OPENAT, [5, 0, os.O_DIRECTORY]),
        (Nr.NEWFSTATAT, [5]),
        (Nr.NEWFSTATAT, [5, 0, 0, 0x1000]),
        (Nr.STATX, [5, 0, 0x1900]),
        (Nr.FSTAT, [5]),
        (Nr.READ, [899]),
        (Nr.READ, [1024]),
        (Nr.READ, [3071]),
        (Nr.READ, [-1]),
        (Nr.READ, [0]),
        (Nr.MMAP, [900, 900, 900, 900, -1, 900]),
        (Nr.MMAP, [0, 4096, 3, 0x22, -1, 0]),  # anonymous
        (Nr.MMAP, [0, 4096, 3, 0x21, -1, 0]),
        (Nr.MMAP, [0, 4096, 5, 2, 5, 0]),  # how a library is mapped
        (Nr.PREAD64, [5, 0, 784, 64]),
        (Nr.PREADV, [5, 0, 1, 0]),
        (Nr.PREADV2, [5, 0, 1, -1]),
        (Nr.LSEEK, [5]),
        (Nr.EPOLL_CTL, [950, 1, 5]),
        (Nr.EPOLL_CTL, [3, 2, 950]),
        (Nr.DUP2, [950, 5]),
        (Nr.FCNTL, [901, 3]),
        (Nr.FCNTL, [3, 0]),
        (Nr.READLINKAT, [5]),
        (3, [900]),  # close
        (39, []),  # getpid
        (7, [900]),  # poll
    ],
)
def test_everything_else_is_left_to_the_kernel(number: int, arguments: Sequence[int]) -> None:
    assert verdict(number, *arguments) == ALLOW


def test_other_ways_into_the_kernel_are_closed() -> None:
    assert verdict(Nr.IO_URING_SETUP) == ENOSYS
    assert verdict(39, arch=0x40000003) == ENOSYS  # i386
    assert verdict(0x40000000 | 39) == ENOSYS  # x32


def test_eventfds_are_handed_over_only_where_they_cannot_be_fetched() -> None:
    assert verdict(Nr.EVENTFD2) == ALLOW
    assert verdict(Nr.EVENTFD2, program=build(rules(OURS, eventfds=True))) == NOTIFY


def test_every_call_that_is_handed_over_has_a_handler() -> None:
    assert {rule.number for rule in rules(OURS, eventfds=True)} == set(HANDLERS)


def test_the_filter_fits_into_what_the_kernel_takes() -> None:
    assert len(PROGRAM) // 8 <= 4096
