"""The states of a migration, asked of a real driver and of the software one: each way between them ends the same.

The driver is Linux's sample of a serial port that migrates (samples/vfio-mdev/mtty.c); the software device is testdev.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from ioas.errors import KernelError
from ioas.soft.vfio.migration_states import NAMES
from ioas.uapi import vfio
from tests.support import migration
from tests.support.migration import GET, RESUMING, RUNNING, SET, STOP_COPY
from tests.support.vfio_client import Client, bound

PARENT = Path("/sys/class/mdev_bus/mtty")
MIGRATION = vfio.VFIO_DEVICE_FEATURE_MIGRATION
MIG_STATE = vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
INFO_V2 = vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
STATES = sorted(NAMES)
UNKNOWN = 8


class Device(Protocol):
    """A device that migrates, by system calls."""

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Raises OSError."""
        ...

    def reset(self) -> None: ...

    def read_all(self, fd: int) -> bytes: ...

    def write(self, fd: int, data: bytes) -> None: ...


class KernelDevice:
    """A serial port of the sample driver."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ioctl(self, request: int, argument: bytearray) -> None:
        fcntl.ioctl(self.fd, request, argument)

    def reset(self) -> None:
        fcntl.ioctl(self.fd, vfio.VFIO_DEVICE_RESET)

    def read_all(self, fd: int) -> bytes:
        data = b""
        while piece := os.read(fd, 1 << 16):
            data += piece
        return data

    def write(self, fd: int, data: bytes) -> None:
        os.write(fd, data)


class SoftDevice:
    """A testdev."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def ioctl(self, request: int, argument: bytearray) -> None:
        self.client.device.ioctl(self.client.caller, request, argument)

    def reset(self) -> None:
        self.client.device.ioctl(self.client.caller, vfio.VFIO_DEVICE_RESET, 0)

    def read_all(self, fd: int) -> bytes:
        return migration.read_all(self.client, self.client.caller.file(fd))

    def write(self, fd: int, data: bytes) -> None:
        self.client.caller.file(fd).write(self.client.caller, data, None)


@pytest.fixture
def kernel() -> Iterator[Device]:
    name = str(uuid.uuid4())
    (PARENT / "mdev_supported_types/mtty-1/create").write_text(name)
    [node] = (PARENT / name / "vfio-dev").iterdir()
    device = os.open(f"/dev/vfio/devices/{node.name}", os.O_RDWR)
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    try:
        request = vfio.vfio_device_bind_iommufd(argsz=24, iommufd=iommufd)
        fcntl.ioctl(device, vfio.VFIO_DEVICE_BIND_IOMMUFD, bytearray(bytes(request)))
        yield KernelDevice(device)
    finally:
        os.close(device)
        os.close(iommufd)
        (PARENT / name / "remove").write_text("1")


@pytest.fixture
def soft() -> Iterator[Device]:
    with bound("testdev") as client:
        yield SoftDevice(client)


def change(device: Device, state: int) -> tuple[str, int]:
    """Ask for a state: what came of it, and the descriptor (-1: none)."""
    argument = bytearray(struct.pack("IIIi", 16, SET | MIG_STATE, state, 77))
    try:
        device.ioctl(vfio.VFIO_DEVICE_FEATURE, argument)
    except (OSError, KernelError) as error:
        return errno.errorcode[error.errno or 0], struct.unpack("IIIi", argument)[3]
    fd = struct.unpack("IIIi", argument)[3]
    return ("a transfer" if fd >= 0 else "ok"), fd


def state_of(device: Device) -> str:
    argument = bytearray(struct.pack("IIIi", 16, GET | MIG_STATE, 0, 77))
    device.ioctl(vfio.VFIO_DEVICE_FEATURE, argument)
    _, _, state, fd = struct.unpack("IIIi", argument)
    assert fd == -1
    return NAMES[state]


def saved(device: Device) -> bytes:
    """A state of the device."""
    _, fd = change(device, STOP_COPY)
    data = device.read_all(fd)
    os.close(fd)
    device.reset()
    return data


def walk(device: Device, start: int, targets: Sequence[int], data: bytes) -> list[tuple[str, str, int]]:
    """From RUNNING to `start` and on to each of `targets`: what was answered, and where the device then is."""
    device.reset()
    answers, open_fds = [], []
    for target in (start, *targets):
        said, fd = change(device, target)
        if fd >= 0:
            open_fds.append(fd)
            if target == RESUMING:
                device.write(fd, data)
        answers.append((said, state_of(device), min(fd, 0)))
    for fd in open_fds:
        os.close(fd)
    device.reset()
    return answers


@pytest.mark.parametrize("start", [state for state in STATES if state], ids=NAMES.__getitem__)
def test_each_way_between_two_states_ends_as_with_the_drivers_of_linux(
    kernel: Device, soft: Device, start: int
) -> None:
    here, there = saved(soft), saved(kernel)
    for target in (*STATES, UNKNOWN):
        for after in (RUNNING, STOP_COPY):
            asked = walk(kernel, start, (target, after), there)
            assert walk(soft, start, (target, after), here) == asked, (NAMES[start], target, after)


def test_a_state_that_is_not_whole_is_refused_on_the_way_out(kernel: Device, soft: Device) -> None:
    answers = [walk(device, RESUMING, (RUNNING, STOP_COPY), b"") for device in (kernel, soft)]
    assert answers[0] == answers[1]
    assert answers[0][1][:2] == ("EINVAL", "RESUMING")


@pytest.mark.parametrize("number", [MIGRATION, MIG_STATE, vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, INFO_V2])
@pytest.mark.parametrize("method", [0, GET, SET, GET | SET])
@pytest.mark.parametrize("probe", [0, vfio.VFIO_DEVICE_FEATURE_PROBE], ids=["", "probe"])
@pytest.mark.parametrize("size", [0, 7, 8, 16])
def test_features_are_refused_for_the_same_reasons(
    kernel: Device, soft: Device, number: int, method: int, probe: int, size: int
) -> None:
    answers = []
    for device in (kernel, soft):
        argument = bytearray(struct.pack("II", 8 + size, number | method | probe) + struct.pack("Ii", RUNNING, 0) * 2)
        try:
            device.ioctl(vfio.VFIO_DEVICE_FEATURE, argument)
            answers.append("ok")
        except (OSError, KernelError) as error:
            answers.append(errno.errorcode[error.errno or 0])
    assert answers[0] == answers[1]


def test_flags_and_the_first_state_are_the_same(kernel: Device, soft: Device) -> None:
    flags = []
    for device in (kernel, soft):
        argument = bytearray(struct.pack("IIQ", 16, GET | MIGRATION, 0))
        device.ioctl(vfio.VFIO_DEVICE_FEATURE, argument)
        flags.append((struct.unpack("IIQ", argument)[2], state_of(device)))
    assert flags == [(7, "RUNNING")] * 2
