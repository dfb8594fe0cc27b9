"""struct stat and struct statx of x86-64 (asm/stat.h, linux/stat.h), as bytes."""

from __future__ import annotations

import os
import stat
import struct
from typing import NamedTuple

_STAT = struct.Struct("QQQIIIIQqqqqqqqqq3q")
_STATX = struct.Struct("IIQIIIHHQQQQqIiqIiqIiqIiIIIIQ" + "104x")
_STATX_BASIC = 0x7FF
_BILLION = 10**9
_NODES_DEVICE = 5
"""st_dev of every node of ours: what a devtmpfs commonly has."""


class Shown(NamedTuple):
    """What stat(2) shows of one of our files."""

    mode: int
    """Type and permissions."""
    inode: int
    device: int
    """st_dev of the file system."""
    number: tuple[int, int]
    """Major and minor of a device node, (0, 0) otherwise."""
    size: int
    links: int
    time: int
    """Nanoseconds since the epoch, for all three times."""


def written_file(status: os.stat_result) -> Shown:
    """A directory, file or link of the stage."""
    mode, size, links = status.st_mode, status.st_size, status.st_nlink
    return Shown(mode, status.st_ino, status.st_dev, (0, 0), size, links, status.st_mtime_ns)


def device_node(number: tuple[int, int], permissions: int) -> Shown:
    """A character device: the same by its path and by a descriptor."""
    return Shown(stat.S_IFCHR | permissions, os.makedev(*number) + 2, _NODES_DEVICE, number, 0, 1, 0)


def anonymous_file() -> Shown:
    """A file that a call made: without a type, as the kernel's anonymous inodes are."""
    return Shown(0o600, 1, _NODES_DEVICE, (0, 0), 0, 1, 0)


def pack_stat(file: Shown) -> bytes:
    """Make struct stat, 144 bytes; owner and group are root, as everywhere in /sys and /dev."""
    seconds, rest = divmod(file.time, _BILLION)
    times = (seconds, rest) * 3
    blocks = -(-file.size // 512)
    rdev = os.makedev(*file.number)
    head = (file.device, file.inode, file.links, file.mode, 0, 0, 0, rdev, file.size, 4096, blocks)
    return _STAT.pack(*head, *times, 0, 0, 0)


def pack_statx(file: Shown) -> bytes:
    """Make struct statx, 256 bytes, with the basic fields."""
    seconds, rest = divmod(file.time, _BILLION)
    times = (seconds, rest, 0) * 4
    blocks = -(-file.size // 512)
    device = (os.major(file.device), os.minor(file.device))
    head = (_STATX_BASIC, 4096, 0, file.links, 0, 0, file.mode, 0, file.inode, file.size, blocks, 0)
    return _STATX.pack(*head, *times, *file.number, *device, 0)
