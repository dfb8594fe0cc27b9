"""Migrating a device in tests: states and streams by the VFIO client."""

from __future__ import annotations

import os
import struct
from ctypes import sizeof

from ioas.host import File
from ioas.uapi import vfio
from tests.support.vfio_client import Client

GET, SET = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET
ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = range(8)


def feature(client: Client, number: int, data: bytes = b"", *, cut: int = 0) -> bytes:
    """VFIO_DEVICE_FEATURE; its data as they came back. `cut` bytes less are promised by argsz."""
    argument = bytearray(struct.pack("II", 8 + len(data) - cut, number) + data)
    client.device.ioctl(client.caller, vfio.VFIO_DEVICE_FEATURE, argument)
    return bytes(argument[8:])


def state(client: Client) -> int:
    """The migration state."""
    data = feature(client, GET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, bytes(8))
    return struct.unpack("Ii", data)[0]


def change(client: Client, target: int) -> int:
    """Go to a state; the descriptor of the transfer that begins, or -1."""
    data = feature(client, SET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, struct.pack("Ii", target, 77))
    return struct.unpack("Ii", data)[1]


def transfer(client: Client, target: int) -> File:
    """As `change`; the file behind the descriptor, which is closed."""
    fd = change(client, target)
    file = client.caller.file(fd)
    os.close(fd)
    return file


def read_all(client: Client, file: File, portion: int = 1 << 20) -> bytes:
    """What a stream holds, up to its end."""
    data = b""
    while piece := file.read(client.caller, portion, None):
        data += piece
    return data


def precopy_info(client: Client, file: File, flags: int = 0) -> tuple[int, int, int]:
    """VFIO_MIG_GET_PRECOPY_INFO: flags, initial and dirty bytes."""
    info = vfio.vfio_precopy_info(argsz=sizeof(vfio.vfio_precopy_info), flags=flags)
    info = client.call(vfio.VFIO_MIG_GET_PRECOPY_INFO, info, file)
    return info.flags, info.initial_bytes, info.dirty_bytes


def save(client: Client) -> bytes:
    """The state of a device that is stopped for it."""
    file = transfer(client, STOP_COPY)
    return read_all(client, file)


def load(client: Client, data: bytes, portion: int = 1 << 20) -> None:
    """Put the device into a state, and stop it there."""
    file = transfer(client, RESUMING)
    for start in range(0, len(data), portion):
        file.write(client.caller, data[start : start + portion], None)
    change(client, STOP)
