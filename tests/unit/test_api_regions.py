"""Registers in the program's memory (`ioas.api.mapped_region`), on a memory file that stands for a BAR."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ioas.api.mapped_region import MappedRegion
from ioas.api.region import ConfigRegion, Region
from ioas.errors import UsageError

SIZE = 4096
READ_WRITE = 3


class File:
    """A device's file: as `ioas.kernel.KernelFile`, which maps itself."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.maps = 0

    def mmap(self, caller: object, length: int, protection: int, flags: int, offset: int) -> int:
        self.maps += 1
        return self.fd


class Session:
    caller = None


class FakeDevice:
    """What a region asks of its device. Reads and writes by calls are counted."""

    bdf = "0000:01:00.0"
    session = Session()

    def __init__(self) -> None:
        self.fd = os.memfd_create("bar")
        os.truncate(self.fd, 2 * SIZE)
        self.file = File(self.fd)
        self.calls = 0
        self.answers = True
        self.bar = MappedRegion(self, 0, SIZE, SIZE, READ_WRITE)  # type: ignore[arg-type]

    def memory_answers(self) -> bool:
        return self.answers

    def unmap_regions(self) -> None:
        self.bar.unmap()

    def read(self, length: int, offset: int) -> bytes:
        self.calls += 1
        return os.pread(self.fd, length, offset)

    def write(self, data: bytes, offset: int) -> int:
        self.calls += 1
        return os.pwrite(self.fd, data, offset)


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    device = FakeDevice()
    yield device
    device.unmap_regions()
    os.close(device.fd)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_an_aligned_access_is_no_call(device: FakeDevice, width: int) -> None:
    read, write = getattr(device.bar, f"read{8 * width}"), getattr(device.bar, f"write{8 * width}")
    value = int.from_bytes(range(1, width + 1), "little")
    for offset in (0, 64, SIZE - width):
        write(offset, value)
        assert read(offset) == read(offset) == value
        assert os.pread(device.fd, width, SIZE + offset) == value.to_bytes(width, "little")
    assert (device.calls, device.file.maps) == (0, 1)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_an_access_across_is_left_to_the_kernel(device: FakeDevice, width: int) -> None:
    read, write = getattr(device.bar, f"read{8 * width}"), getattr(device.bar, f"write{8 * width}")
    write(1, 0x41)
    assert read(1) == 0x41
    assert device.calls == 2


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", [-8, -1, SIZE, 1 << 64])
def test_accesses_outside_and_numbers_that_do_not_fit_are_refused(device: FakeDevice, width: int, offset: int) -> None:
    read, write = getattr(device.bar, f"read{8 * width}"), getattr(device.bar, f"write{8 * width}")
    for _ in range(2):  # before and after it is mapped
        for access in (lambda: read(offset), lambda: write(offset, 1)):
            with pytest.raises(UsageError, match="outside"):
                access()
        for value in (-1, 1 << 8 * width):
            with pytest.raises(UsageError, match="value"):
                write(0, value)
        with pytest.raises(TypeError):
            write(0, 1.5)
        device.bar.read32(0)
    assert os.pread(device.fd, SIZE, SIZE) == bytes(SIZE)


def test_a_region_that_may_not_answer_is_left_alone_until_it_does(device: FakeDevice) -> None:
    config = ConfigRegion(device, 7, SIZE, 0, READ_WRITE)  # type: ignore[arg-type]
    assert device.bar.read32(0) == 0
    view = device.bar.view(4)
    device.answers = False
    config.write16(4, 0)
    assert not device.bar.mapped
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    device.calls = 0
    device.bar.write32(0, 5)
    assert device.bar.read32(0) == 5
    assert device.calls == 2
    with pytest.raises(UsageError, match="cannot be had"):
        device.bar.view(4)
    device.answers = True
    assert device.bar.read32(0) == 5
    assert device.bar.mapped
    assert device.calls == 2


def test_a_view_is_the_region_as_numbers(device: FakeDevice) -> None:
    view = device.bar.view(2)
    view[3] = 0x1234
    assert device.bar.read16(6) == 0x1234
    assert len(view) == SIZE // 2
    with pytest.raises(UsageError):
        device.bar.view(3)  # type: ignore[arg-type]
    plain = Region(device, 0, SIZE, SIZE, READ_WRITE)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be mapped"):
        plain.view(4)
    assert plain.read16(6) == 0x1234


@pytest.mark.parametrize("flags", [1, 2])
def test_a_region_of_one_direction_is_used_by_calls(device: FakeDevice, flags: int) -> None:
    region = MappedRegion(device, 0, SIZE, SIZE, flags)  # type: ignore[arg-type]
    assert region.read32(0) == 0
    assert not region.mapped


def test_a_region_of_which_parts_alone_can_be_mapped_is_used_by_calls(device: FakeDevice) -> None:
    device.file.fd = os.open("/dev/null", os.O_RDWR)
    assert device.bar.read32(0) == 0
    assert not device.bar.mapped
    os.close(device.file.fd)
