"""DMA of a device against memory of this process: where it lands, where it may not, and how long it does."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ioas.errors import BadAddress
from ioas.host import PAGE_SIZE
from ioas.uapi.iommufd import (
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    iommu_ioas_map,
)
from tests.support.room import DEVICE_BUFFER, IOVA, Room, dma, opened, to_device, to_memory

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@pytest.fixture
def room() -> Iterator[Room]:
    with opened() as room:
        yield room


def map_memory(flags: int, *, at: int = 0, fd: int = -1) -> int:
    """A page of memory that no Python object owns, as a C program would map it."""
    address = _libc.mmap(at, PAGE_SIZE, 3, flags | (_MAP_FIXED if at else 0), fd, 0)
    assert address != ctypes.c_void_p(-1).value
    return int(address)


def map_for_dma(room: Room, address: int) -> None:
    """IOAS_MAP of a bare address, as a C program would do it."""
    flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE
    command = iommu_ioas_map(size=40, flags=flags, ioas_id=room.space.id, user_va=address, length=PAGE_SIZE, iova=IOVA)
    room.iommufd.ioctl(IOMMU_IOAS_MAP, command)


def fill_device(room: Room, data: bytes) -> None:
    """Put `data` into the device's buffer."""
    with room.space.alloc(len(data), iova=IOVA + 0x100000) as buffer:
        buffer.view[:] = data
        to_device(room, buffer.iova, len(data))


def test_an_address_beyond_the_device_s_mask_is_clamped(room: Room) -> None:
    fill_device(room, b"clamped!")
    with room.space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as buffer:
        dma(room, DEVICE_BUFFER, IOVA | 1 << 40, 8, 2)
        assert buffer.view[:8] == b"clamped!"


def test_anonymous_shared_memory_is_hit_after_munmap_as_well(room: Room) -> None:
    address = map_memory(SHARED)
    ctypes.memmove(address, b"still here", 10)
    map_for_dma(room, address)
    _libc.munmap(address, PAGE_SIZE)
    to_device(room, IOVA, 10)
    with room.space.alloc(PAGE_SIZE, writable=True, iova=0) as buffer:
        to_memory(room, 0, 10)
        assert buffer.view[:10] == b"still here"


def test_private_memory_that_went_away_is_a_fault_and_no_crash(room: Room) -> None:
    address = map_memory(PRIVATE)
    map_for_dma(room, address)
    _libc.munmap(address, PAGE_SIZE)
    to_memory(room, IOVA, 16)
    (fault,) = room.host.faults()
    assert (fault.iova, fault.reason) == (IOVA, "bus")


def test_strict_refuses_memory_that_only_has_an_address() -> None:
    from ioas.api import SoftHost

    with SoftHost(strict=True) as host, host.iommufd() as iommufd, host.device("0000:01:00.0") as device:
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        address = map_memory(PRIVATE)
        with pytest.raises(BadAddress, match="register it"):
            map_for_dma(Room(host, iommufd, device, space, device.bar(0)), address)
        _libc.munmap(address, PAGE_SIZE)
        space.alloc(PAGE_SIZE).close()


def test_shared_memory_is_hit_after_fork_writes_and_the_end_of_a_process_that_maps_it() -> None:
    """In a process of its own, because forking one that has threads is not for a test runner."""
    root = Path(__file__).parents[2]
    script = """
    import mmap, os
    from tests.support.room import IOVA, opened, to_device, to_memory
    with opened() as room:
        memory = mmap.mmap(-1, 4096)
        room.space.map(memory, iova=IOVA)
        memory[:6] = b"before"
        to_device(room, IOVA, 6)
        child = os.fork()
        if child == 0:
            memory[16:21] = b"child"
            os._exit(0)
        memory[:6] = b"parent"
        os.waitpid(child, 0)
        to_memory(room, IOVA + 32, 6)
        assert memory[:6] == b"parent" and memory[16:21] == b"child" and memory[32:38] == b"before", memory[:64]
        room.space.unmap_all()
    """
    quiet = "ignore:This process:DeprecationWarning"  # from 3.12 on: it has threads, and forks all the same
    command = [sys.executable, "-W", quiet, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
