"""Address spaces through the API: what is mapped, refused, copied, and let go of (`ioas.api.ioas`)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy
import pytest

import ioas
from ioas.api import SoftHost
from ioas.errors import (
    AddressInUse,
    AlreadyExists,
    BadFile,
    Busy,
    InvalidArgument,
    KernelError,
    NotFound,
    NotPermitted,
    UsageError,
)
from ioas.host import PAGE_SIZE
from ioas.uapi.iommufd import IOMMU_HW_INFO_TYPE_INTEL_VTD, IOMMU_IOAS_ALLOC, iommu_ioas_alloc
from tests.support.room import BDF, IOVA, Room, opened, to_memory


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


def test_a_misaligned_buffer_is_refused_with_its_alignment(room: Room) -> None:
    memory = numpy.frombuffer(mmap.mmap(-1, 4 * PAGE_SIZE), numpy.uint8)
    with pytest.raises(InvalidArgument, match=r"begins at 0x[0-9a-f]+010, which is not a multiple of 4096"):
        room.space.map(memory[16 : 16 + PAGE_SIZE])
    with pytest.raises(InvalidArgument, match="has 5000 bytes, which is not a multiple of 4096"):
        room.space.map(memory[:5000])


def test_a_refused_mapping_holds_no_buffer(room: Room) -> None:
    memory = mmap.mmap(-1, PAGE_SIZE)
    with room.space.alloc(PAGE_SIZE, iova=IOVA):
        with pytest.raises(AlreadyExists):
            room.space.map(memory, iova=IOVA)
        with pytest.raises(InvalidArgument):
            room.space.map(memory, writable=False, readable=False)
    memory.close()


def test_refusals_carry_the_reason_and_the_culprit(room: Room) -> None:
    with pytest.raises(KernelError) as caught:
        room.space.alloc(PAGE_SIZE, iova=0xFEE00000)
    assert caught.value.errno == caught.value.refusal.errno
    assert caught.value.refusal.culprit is not None
    assert "fee00000" in str(caught.value)


def test_memory_of_a_file_is_mapped_from_the_file(room: Room) -> None:
    fd = os.memfd_create("dma")
    os.truncate(fd, 4 * PAGE_SIZE)
    with room.space.map_file(fd, PAGE_SIZE, 2 * PAGE_SIZE, iova=IOVA) as mapping:
        room.registers.write32(0x04, 0)
        to_memory(room, mapping.iova, 16)
    with pytest.raises(InvalidArgument):
        room.space.map_file(fd, 2 * PAGE_SIZE, 3 * PAGE_SIZE)
    os.close(fd)
    with pytest.raises(BadFile):
        room.space.map_file(fd, PAGE_SIZE)


def test_a_copy_shares_the_memory_and_outlives_its_source(room: Room) -> None:
    other = room.iommufd.ioas()
    memory = mmap.mmap(-1, 4 * PAGE_SIZE)
    source = other.map(memory)
    copy = room.space.copy(source, offset=PAGE_SIZE, length=2 * PAGE_SIZE, iova=IOVA)
    assert copy.length == 2 * PAGE_SIZE
    source.close()
    with pytest.raises(BufferError):
        memory.close()
    memory[PAGE_SIZE] = 1
    to_memory(room, IOVA, 16)
    assert memory[PAGE_SIZE] == 0
    copy.close()
    memory.close()
    with pytest.raises(NotFound):
        room.space.copy(source)


def test_unmapping_a_range_lets_go_of_every_buffer_in_it(room: Room) -> None:
    buffers = [mmap.mmap(-1, PAGE_SIZE) for _ in range(3)]
    mappings = [room.space.map(buffer, iova=IOVA + index * PAGE_SIZE) for index, buffer in enumerate(buffers)]
    assert room.space.unmap(IOVA, 2 * PAGE_SIZE) == 2 * PAGE_SIZE
    assert [mapping.mapped for mapping in mappings] == [False, False, True]
    mappings[0].close()
    assert room.space.unmap_all() == PAGE_SIZE
    for buffer in buffers:
        buffer.close()


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


def test_options_are_set_and_got(room: Room) -> None:
    assert room.space.huge_pages
    room.space.huge_pages = False
    assert not room.space.huge_pages
    assert room.iommufd.rlimit_mode == 0
    with pytest.raises((Busy, NotPermitted)):  # EBUSY for the privileged: there are objects already
        room.iommufd.rlimit_mode = 1


def test_change_process_wants_file_mappings_alone(room: Room) -> None:
    room.iommufd.change_process()
    with room.space.alloc(PAGE_SIZE), pytest.raises(InvalidArgument):
        room.iommufd.change_process()


def test_the_container_s_ioas_is_set_and_cleared(room: Room) -> None:
    room.iommufd.vfio_ioas = room.space.id
    assert room.iommufd.vfio_ioas == room.space.id
    room.iommufd.vfio_ioas = 0
    with pytest.raises(KernelError, match="ENODEV"):
        _ = room.iommufd.vfio_ioas


def test_hw_info_tells_the_unit(room: Room) -> None:
    info = room.device.hw_info()
    assert info.type == IOMMU_HW_INFO_TYPE_INTEL_VTD
    assert len(info.data) == 24


def test_a_page_table_of_one_s_own_can_be_attached(room: Room) -> None:
    with room.iommufd.hwpt(room.device, room.space) as table:
        assert room.device.attach(table) == table.id
        with pytest.raises(Busy):
            table.close()
        room.device.detach()


def test_closing_an_address_space_in_use_is_refused(room: Room) -> None:
    with pytest.raises(Busy):
        room.space.close()
    room.device.detach()
    memory = mmap.mmap(-1, PAGE_SIZE)
    mapping = room.space.map(memory)
    room.space.close()
    room.space.close()
    assert not mapping.mapped
    mapping.close()
    memory.close()
    with pytest.raises(UsageError, match=r"IOAS \d+ is closed"):
        room.space.map(mmap.mmap(-1, PAGE_SIZE))


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


def test_two_files_are_two_worlds(room: Room) -> None:
    with room.host.iommufd() as other:
        space = other.ioas()
        with space.alloc(PAGE_SIZE, iova=IOVA), room.space.alloc(PAGE_SIZE, iova=IOVA):
            pass


def test_a_length_of_nothing_is_a_usage_error(room: Room) -> None:
    with pytest.raises(UsageError, match="positive"):
        room.space.alloc(0)
