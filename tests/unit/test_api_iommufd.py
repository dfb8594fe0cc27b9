"""Address spaces through the API: what is mapped, refused, copied, and let go of (`ioas.api.ioas`)."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy
import pytest

import ioas
from ioas.api import SoftHost
from ioas.errors import (
    AddressInUse,
    InvalidArgument,
    KernelError,
    NotFound,
    UsageError,
)
from ioas.host import PAGE_SIZE
from ioas.uapi.iommufd import IOMMU_HW_INFO_TYPE_INTEL_VTD, IOMMU_IOAS_ALLOC, iommu_ioas_alloc
from tests.support.room import BDF, IOVA, Room, opened


@pytest.fixture
def room() -> Iterator[Room]:
    with opened() as room:
        yield room


def test_the_package_offers_the_host() -> None:
    assert ioas.SoftHost is SoftHost


def test_allocated_memory_is_zeroed_mapped_and_gone_when_closed(room: Room) -> None:
    with room.space.alloc(5000, writable=True) as dma:
        assert (len(dma), dma.mapping.length, dma.view.nbytes) == (5000, 2 * PAGE_SIZE, 5000)
        assert bytes(dma.view) == bytes(5000)
        assert dma.iova % PAGE_SIZE == 0
        assert numpy.frombuffer(dma.view[:4096], "<u4").sum() == 0
    assert not dma.mapping.mapped
    for use in (lambda: dma.iova, lambda: dma.view, lambda: len(dma)):
        with pytest.raises(UsageError, match="closed"):
            use()
    with pytest.raises(NotFound):
        room.space.unmap(dma.mapping.iova, PAGE_SIZE)


def test_an_array_outlives_the_buffer_that_it_looks_at(room: Room) -> None:
    with room.space.alloc(PAGE_SIZE) as dma:
        array = numpy.frombuffer(dma.view, numpy.uint8)
        array[0] = 7
    assert array[0] == 7


@pytest.mark.parametrize("kind", ["mmap", "memoryview", "array"])
def test_any_aligned_buffer_can_be_mapped(room: Room, kind: str) -> None:
    memory = mmap.mmap(-1, 2 * PAGE_SIZE)
    buffer = {"mmap": memory, "memoryview": memoryview(memory), "array": numpy.frombuffer(memory, "<u8")}[kind]
    with room.space.map(buffer, iova=IOVA) as mapping:
        assert (mapping.iova, mapping.last) == (IOVA, IOVA + 2 * PAGE_SIZE - 1)


def test_refusals_carry_the_reason_and_the_culprit(room: Room) -> None:
    with pytest.raises(KernelError) as caught:
        room.space.alloc(PAGE_SIZE, iova=0xFEE00000)
    assert caught.value.errno == caught.value.refusal.errno
    assert caught.value.refusal.culprit is not None
    assert "fee00000" in str(caught.value)


def test_ranges_leave_out_what_the_device_cannot_use(room: Room) -> None:
    empty = room.iommufd.ioas()
    assert empty.ranges() == ((0, (1 << 64) - 1),)
    assert empty.alignment == 1
    ranges = room.space.ranges()
    assert ranges[0] == (0, 0xFEDFFFFF)  # up to the MSI window
    assert ranges[-1].last == (1 << 48) - 1
    assert room.space.alignment == PAGE_SIZE


def test_allowed_ranges_confine_automatic_placement_and_cannot_be_taken(room: Room) -> None:
    room.space.allow([(0x10000, 0x1FFFF), (0x40000, 0x4FFFF)])
    with room.space.alloc(0x10000) as first, room.space.alloc(0x10000) as second:
        assert {first.iova, second.iova} == {0x10000, 0x40000}
    with pytest.raises(InvalidArgument):
        room.space.allow([(0, 0xFFF), (0x800, 0x1FFF)])
    with pytest.raises(AddressInUse):
        room.space.allow([(0xFEE00000, 0xFEE00FFF)])
    room.space.allow([])


def test_hw_info_tells_the_unit(room: Room) -> None:
    info = room.device.hw_info()
    assert info.type == IOMMU_HW_INFO_TYPE_INTEL_VTD
    assert len(info.data) == 24


def test_everything_is_told_when_it_is_used_after_close() -> None:
    with SoftHost() as host:
        iommufd, device = host.iommufd(), host.device(BDF)
        space = iommufd.ioas()
        memory = mmap.mmap(-1, PAGE_SIZE)
        mapping = space.map(memory)
        device.bind(iommufd)
        device.close()
        iommufd.close()
        for file in (device, iommufd):
            file.close()
            assert file.closed
            for use in (file.fileno, lambda file=file: file.ioctl(0), lambda file=file: file.read(1)):
                with pytest.raises(UsageError, match="is closed"):
                    use()
        for use in (space.ranges, space.unmap_all, lambda: space.map(memory), lambda: space.alloc(1)):
            with pytest.raises(UsageError, match="is closed"):
                use()
        space.close()
        mapping.close()
        memory.close()


def test_a_raw_ioctl_takes_structures_and_addresses(room: Room) -> None:
    command = iommu_ioas_alloc(size=12)
    assert room.iommufd.ioctl(IOMMU_IOAS_ALLOC, command) == 0
    assert command.out_ioas_id > room.space.id
    with pytest.raises(KernelError, match="EFAULT"):
        room.iommufd.ioctl(IOMMU_IOAS_ALLOC, 8)
    room.iommufd.destroy(command.out_ioas_id)
    with pytest.raises(NotFound):
        room.iommufd.destroy(command.out_ioas_id)
