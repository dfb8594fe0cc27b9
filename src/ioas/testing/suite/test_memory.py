"""Pinned memory: a device reaches the pages that were mapped, whatever the program does to their addresses."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from ioas.api import Ioas
from ioas.errors import UsageError
from ioas.host import PAGE_SIZE
from ioas.testing.suite.edu import IOVA, Edu

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10
_BOTH = mmap.PROT_READ | mmap.PROT_WRITE
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
TEXT = b"to the old page"


def map_memory(flags: int, *, at: int = 0, fd: int = -1) -> int:
    """A page of memory that no Python object owns, as a C program would map it."""
    address = _libc.mmap(at, PAGE_SIZE, _BOTH, flags | (_MAP_FIXED if at else 0), fd, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return int(address)


def load(edu: Edu, space: Ioas, data: bytes) -> None:
    """Put `data` into the device's buffer."""
    with space.alloc(len(data), iova=IOVA + 0x100000) as buffer:
        buffer.view[:] = data
        edu.load(buffer.iova, len(data))


def test_memory_of_a_file_is_hit_after_munmap_and_a_new_mapping(edu: Edu, ioas_space: Ioas) -> None:
    fd = os.memfd_create("old")
    os.truncate(fd, PAGE_SIZE)
    address = map_memory(mmap.MAP_SHARED, fd=fd)
    ioas_space.map_address(address, PAGE_SIZE, IOVA)
    map_memory(SHARED, at=address)
    load(edu, ioas_space, TEXT)
    edu.store(IOVA, len(TEXT))
    assert ctypes.string_at(address, len(TEXT)) == bytes(len(TEXT))
    assert os.pread(fd, len(TEXT), 0) == TEXT
    _libc.munmap(address, PAGE_SIZE)
    os.close(fd)
    assert ioas_space.unmap(IOVA, PAGE_SIZE) == PAGE_SIZE


def test_a_buffer_is_hit_after_its_owner_forgot_it(edu: Edu, ioas_space: Ioas) -> None:
    memory = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE)
    view = memoryview(memory)
    mapping = ioas_space.map(memory, iova=IOVA)
    with pytest.raises(BufferError):
        memory.close()
    del memory
    load(edu, ioas_space, TEXT)
    edu.store(IOVA, len(TEXT))
    assert view[: len(TEXT)] == TEXT
    view.release()
    mapping.close()


def test_two_mappings_of_one_file_lead_to_the_same_pages(edu: Edu, ioas_space: Ioas) -> None:
    fd = os.memfd_create("twice")
    os.truncate(fd, 2 * PAGE_SIZE)
    with mmap.mmap(fd, 2 * PAGE_SIZE) as memory:
        with ioas_space.map_file(fd, PAGE_SIZE, PAGE_SIZE, iova=IOVA), ioas_space.map(memory, iova=IOVA + 0x10000):
            memory[PAGE_SIZE : PAGE_SIZE + len(TEXT)] = TEXT
            edu.load(IOVA, len(TEXT))
            edu.store(IOVA + 0x10000, len(TEXT))
        assert memory[: len(TEXT)] == TEXT
    os.close(fd)


def test_a_buffer_says_by_page_where_the_device_finds_it(ioas_space: Ioas) -> None:
    with ioas_space.alloc(2 * PAGE_SIZE + 1, iova=IOVA) as buffer:
        assert list(buffer.pages) == [IOVA, IOVA + PAGE_SIZE, IOVA + 2 * PAGE_SIZE]
        assert list(buffer.mapping.pages) == list(buffer.pages)
    with pytest.raises(UsageError, match="closed"):
        _ = buffer.pages
