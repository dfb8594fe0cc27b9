"""A machine with an edu in a room of its own, for the tests of the API."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ioas.api import Device, Ioas, Iommufd, Region, SoftHost

BDF = "0000:01:00.0"
IOVA = 0x100000
DEVICE_BUFFER = 0x40000
DMA_START, DMA_TO_MEMORY, DMA_INTERRUPT = 1, 2, 4


class Room(NamedTuple):
    """A host with one edu, bound and attached to an empty IOAS, with DMA allowed."""

    host: SoftHost
    iommufd: Iommufd
    device: Device
    space: Ioas
    registers: Region


@contextmanager
def opened(*devices: str) -> Iterator[Room]:
    """A room; afterwards nothing of it may be left."""
    before = descriptors()
    with SoftHost(devices=list(devices) or None) as host:
        with host.iommufd() as iommufd, host.device(BDF) as device:
            device.bind(iommufd)
            space = iommufd.ioas()
            device.attach(space)
            device.bus_master = True
            yield Room(host, iommufd, device, space, device.bar(0))
        assert host.machine.leaks() == {}
        assert host.caller.held() == {}
    assert descriptors() == before


def descriptors() -> dict[str, str]:
    """The open descriptors of this process, without the one that lists them."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def start_dma(registers: Region, source: int, destination: int, count: int, flags: int) -> None:
    """Let edu copy."""
    registers.write64(0x80, source)
    registers.write64(0x88, destination)
    registers.write64(0x90, count)
    registers.write64(0x98, DMA_START | flags)


def dma(room: Room, source: int, destination: int, count: int, flags: int = 0) -> None:
    """Let edu copy, and wait until it has."""
    start_dma(room.registers, source, destination, count, flags)
    deadline = time.monotonic() + 10
    while room.registers.read64(0x98) & DMA_START:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def to_device(room: Room, iova: int, count: int) -> None:
    """Memory into the device's buffer."""
    dma(room, iova, DEVICE_BUFFER, count)


def to_memory(room: Room, iova: int, count: int) -> None:
    """The device's buffer into memory."""
    dma(room, DEVICE_BUFFER, iova, count, DMA_TO_MEMORY)


def raise_interrupt(room: Room, value: int = 1) -> None:
    """Let edu raise its interrupt."""
    room.registers.write32(0x60, value)


def acknowledge(room: Room) -> int:
    """Take the interrupt back; the status that it had."""
    status = room.registers.read32(0x24)
    room.registers.write32(0x64, status)
    return status
