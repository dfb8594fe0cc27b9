"""Mapped BARs on the machine's side: what may be mapped, what loads and stores do, what keeps a device open."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from errno import EINVAL

import pytest

from ioas.devices.edu import Edu
from ioas.run.mmio.memory_files import Mappable, MemoryFiles
from ioas.soft.pci import Bar, Function
from ioas.soft.vfio import Cdev
from tests.support.models import Rich
from tests.support.vfio_client import Client, bound, refused

INDEX = 1 << 40
PAGE = 4096
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE


@pytest.fixture
def rich() -> Rich:
    return Rich()


@pytest.fixture
def client(rich: Rich) -> Iterator[Client]:
    with bound(rich) as client:
        client.set_config(4, 2, 7)
        client.host.devices["0000:01:00.0"].allow_mmap()
        rich.accesses.clear()
        yield client


def device(client: Client) -> Cdev:
    assert isinstance(client.device, Cdev)
    return client.device


class Small(Function):
    """Two small BARs, which may share a page."""

    vendor_id, device_id = 0x1234, 0x0003
    one = Bar(0, 64)
    other = Bar(1, 64)


def test_memory_bars_of_a_page_or_more_are_mappable_and_io_is_not(client: Client) -> None:
    assert client.host.devices["0000:01:00.0"].mappable_bars == {0, 4}


def test_small_bars_are_mappable_when_nothing_else_is_in_their_page() -> None:
    small = Small()
    with bound(small) as client:
        made = client.host.devices["0000:01:00.0"]
        together = small.bar_address(0) // PAGE == small.bar_address(1) // PAGE
        made.allow_mmap()
        assert made.mappable_bars == (frozenset() if together else {0, 1})
        small.one.assign(small.config, 0xE0000000)
        small.other.assign(small.config, 0xE0001000)
        made.allow_mmap()
        assert made.mappable_bars == {0, 1}
        assert device(client).mmap(client.caller, PAGE, 3, SHARED, 0) == -1
        client.set_config(4, 2, 2)
        assert device(client).load(64, 4) == b"\xff" * 4
        assert device(client).store(64, b"abcd")


@pytest.mark.parametrize(
    ("length", "flags", "offset"),
    [
        (PAGE, PRIVATE, 0),
        (0x4000 + 1, SHARED, 0),
        (2 * PAGE, SHARED, 0x3000),
        (PAGE, SHARED, 2 * INDEX),
        (PAGE, SHARED, 6 * INDEX),
        (PAGE, SHARED, 7 * INDEX),
        (PAGE, SHARED, 9 * INDEX),
    ],
)
def test_what_cannot_be_mapped_is_einval(client: Client, length: int, flags: int, offset: int) -> None:
    with refused(EINVAL):
        client.device.mmap(client.caller, length, 3, flags, offset)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 10, 16, 32, 64])
def test_a_load_and_a_store_reach_the_model_whole(client: Client, rich: Rich, width: int) -> None:
    data = bytes(range(1, width + 1))
    assert device(client).store(0x101, data)
    assert device(client).load(0x101, width) == data
    assert rich.accesses == [("write", 0, 0x101, width), ("read", 0, 0x101, width)]


def test_registers_see_vectors_as_words_of_8_bytes() -> None:
    edu = Edu()
    with bound(edu) as client:
        client.set_config(4, 2, 2)
        assert device(client).store(0x80, (0x1111).to_bytes(8, "little") + (0x2222).to_bytes(8, "little"))
        assert (edu.dma_source, edu.dma_destination) == (0x1111, 0x2222)
        assert device(client).load(0x80, 16) == (0x1111 | 0x2222 << 64).to_bytes(16, "little")


def test_nothing_answers_while_decoding_is_off_or_after_the_file_is_closed(client: Client) -> None:
    assert device(client).answers(0)
    client.set_config(4, 2, 0)
    assert not device(client).answers(0)
    assert device(client).load(0, 4) is None
    assert not device(client).store(0, b"abcd")
    client.set_config(4, 2, 2)
    client.device.close()
    assert device(client).load(0, 4) is None


def test_a_mapping_keeps_a_file_until_its_last_part_is_gone(client: Client) -> None:
    assert isinstance(client.device, Mappable)
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    files = MemoryFiles()
    try:
        assert not files.keeps(client.device)
        fd = files.open(client.device)
        address = libc.mmap(None, ctypes.c_size_t(2 * PAGE), 3, SHARED, fd, ctypes.c_long(INDEX))
        os.close(fd)
        assert files.keeps(client.device)
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(PAGE))
        assert files.keeps(client.device)
        libc.munmap(ctypes.c_void_p(address + PAGE), ctypes.c_size_t(PAGE))
        assert not files.keeps(client.device)
        files.forget(client.device)
        assert not files.by_inode
    finally:
        files.close()
