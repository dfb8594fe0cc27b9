"""Reads and writes of BARs, the ROM, and the file position (vfio_pci_rdwr.c, 7.3)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from errno import EACCES, EBADF, EINVAL, EIO, ENOMEM

import pytest

from ioas.soft.pci import Rom
from ioas.soft.vfio.regions import rom_image_size
from tests.support.models import ROM_IMAGE, Rich
from tests.support.vfio_client import CONFIG, Client, bound, refused

TABLE = 4 << 40


@pytest.fixture
def rich() -> Rich:
    return Rich()


@pytest.fixture
def client(rich: Rich) -> Iterator[Client]:
    with bound(rich) as client:
        client.set_config(4, 2, 7)
        rich.accesses.clear()
        yield client


def test_an_access_is_cut_into_aligned_pieces(client: Client, rich: Rich) -> None:
    client.read(0x13, 0x15)
    assert [access[2:] for access in rich.accesses] == [(0x13, 1), (0x14, 4), (0x18, 8), (0x20, 8)]
    rich.accesses.clear()
    assert client.write(0x1, b"abcdefg") == 7
    assert [access[2:] for access in rich.accesses] == [(1, 1), (2, 2), (4, 4)]
    assert client.read(0x1, 7) == b"abcdefg"


def test_an_access_that_reaches_the_end_of_a_bar_is_short(client: Client) -> None:
    assert len(client.read(0x4000 - 8, 64)) == 8
    assert client.write(0x4000 - 4, bytes(64)) == 4


@pytest.mark.parametrize("offset", [0x4000, (1 << 40) - 4, 1 << 40, 3 << 40, 8 << 40, 9 << 40, 100 << 40])
def test_beyond_the_end_and_where_no_region_is_is_einval(client: Client, offset: int) -> None:
    with refused(EINVAL):
        client.read(offset, 4)
    with refused(EINVAL):
        client.write(offset, b"abcd")
    assert client.read(offset, 0) == b""
    assert client.write(offset, b"") == 0


def test_an_offset_below_0_is_no_region(client: Client) -> None:
    for offset in (-1, -(1 << 40)):
        with refused(EINVAL):
            client.read(offset, 1)
        with refused(EINVAL):
            client.write(offset, b"x")


def test_memory_bars_are_eio_while_decoding_is_off(client: Client) -> None:
    client.set_config(4, 2, 5)
    with refused(EIO):
        client.read(0, 4)
    with refused(EIO):
        client.write(0, b"abcd")
    with refused(EIO):
        client.read(6 << 40, 4)
    client.set_config(4, 2, 7)
    assert client.read(0, 4) == bytes(4)


def test_memory_bars_are_eio_while_the_function_sleeps(client: Client) -> None:
    power = client.config(0x34, 1)
    while client.config(power, 1) != 1:
        power = client.config(power + 1, 1)
    client.set_config(power + 4, 2, 3)
    with refused(EIO):
        client.read(0, 4)
    client.set_config(power + 4, 2, 0)
    assert client.read(0, 4) == bytes(4)


def test_io_ports_read_as_ones_while_decoding_is_off(client: Client) -> None:
    client.write((2 << 40) + 4, b"\x01\x02\x03\x04")
    assert client.read((2 << 40) + 4, 4) == b"\x01\x02\x03\x04"
    client.set_config(4, 2, 2)
    assert client.read((2 << 40) + 4, 4) == b"\xff" * 4


def test_the_msix_table_reads_as_ones_and_drops_writes(client: Client, rich: Rich) -> None:
    assert client.write(TABLE + 0xF8, b"\x55" * 0x90) == 0x90
    assert {(what, offset) for what, _, offset, _ in rich.accesses} == {("write", 0xF8)}
    rich.accesses.clear()
    data = client.read(TABLE + 0xF0, 0x88)
    assert data[0x10:] == b"\xff" * 0x78
    assert [access[2:] for access in rich.accesses] == [(0xF0, 8), (0xF8, 8)]


def test_reading_the_rom_gives_its_image_and_ones_behind_it(client: Client) -> None:
    data = client.read(6 << 40, 8192)
    assert data == bytes(ROM_IMAGE) + b"\xff" * (8192 - 1024)
    assert client.read((6 << 40) + 1022, 4) == b"\0\0\xff\xff"
    with refused(EINVAL):
        client.read((6 << 40) + 8192, 4)
    with refused(EINVAL):
        client.write(6 << 40, b"abcd")


def test_a_rom_without_a_valid_image_is_enomem(client: Client, rich: Rich, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rich, "rom", Rom(b"nothing"))
    with refused(ENOMEM):
        client.read(6 << 40, 4)


def test_the_size_of_a_rom_is_the_sum_of_its_images() -> None:
    more = bytearray(ROM_IMAGE)
    more[0x55] = 0
    assert rom_image_size(bytes(more + ROM_IMAGE)) == 2048
    assert rom_image_size(bytes(ROM_IMAGE)) == 1024
    assert rom_image_size(bytes(more)) == 1024
    assert rom_image_size(b"\x55\xaa" + bytes(100)) == 0
    assert rom_image_size(b"") == 0


def test_read_and_write_without_an_offset_move_the_position(client: Client) -> None:
    client.write(0, bytes(range(16)))
    assert client.device.read(client.caller, 4, None) == bytes(range(4))
    assert client.device.write(client.caller, b"abcd", None) == 4
    assert client.device.read(client.caller, 4, None) == bytes(range(8, 12))
    assert client.read(0, 8) == b"\0\1\2\3abcd"


def test_the_access_mode_of_open_decides_what_is_ebadf(client: Client) -> None:
    for flags, what in ((os.O_RDONLY, "write"), (os.O_WRONLY, "read")):
        file = client.open("/dev/vfio/devices/vfio0", flags)
        with refused(EBADF):
            _ = file.write(client.caller, b"a", CONFIG) if what == "write" else file.read(client.caller, 1, CONFIG)
        file.close()


@pytest.mark.parametrize("offset", [0, 1 << 40, CONFIG, 9 << 40])
def test_nothing_can_be_mapped_yet(client: Client, offset: int) -> None:
    with refused(EINVAL):
        client.device.mmap(client.caller, 4096, 3, mmap.MAP_SHARED, offset)


def test_the_access_mode_of_open_decides_what_mmap_answers_first(client: Client) -> None:
    for flags, protection, error in (
        (os.O_WRONLY, mmap.PROT_READ, EACCES),
        (os.O_WRONLY, 0, EACCES),
        (os.O_RDONLY, mmap.PROT_READ | mmap.PROT_WRITE, EACCES),
        (os.O_RDONLY, mmap.PROT_READ, EINVAL),
    ):
        file = client.open("/dev/vfio/devices/vfio0", flags)
        with refused(error):
            file.mmap(client.caller, 4096, protection, mmap.MAP_SHARED, CONFIG)
        file.close()


def test_a_device_file_is_always_ready(client: Client) -> None:
    import select

    assert client.device.poll(client.caller) & (select.POLLIN | select.POLLOUT) == select.POLLIN | select.POLLOUT
