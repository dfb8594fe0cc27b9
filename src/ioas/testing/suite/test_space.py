"""I/O address spaces: what can be mapped where, what is refused, what a copy is, how room is found."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from errno import EFAULT
from itertools import pairwise

import pytest

from ioas.api import Device, Ioas, Iommufd
from ioas.errors import (
    AddressInUse,
    AlreadyExists,
    BadAddress,
    BadFile,
    InvalidArgument,
    KernelError,
    NoSpace,
    NotFound,
    Overflow,
    UsageError,
)
from ioas.host import PAGE_SIZE
from ioas.testing.suite.edu import IOVA
from ioas.uapi.iommufd import (
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    iommu_ioas_map,
)

FIXED = IOMMU_IOAS_MAP_FIXED_IOVA
READ, WRITE = IOMMU_IOAS_MAP_READABLE, IOMMU_IOAS_MAP_WRITEABLE
LAST = (1 << 64) - 1


@pytest.fixture
def space(ioas_iommufd: Iommufd) -> Iterator[Ioas]:
    """An address space without a device."""
    with ioas_iommufd.ioas() as space:
        yield space


def page(count: int = 1) -> mmap.mmap:
    return mmap.mmap(-1, count * PAGE_SIZE)


def map_raw(space: Ioas, address: int, length: int, iova: int, flags: int = FIXED | READ | WRITE) -> int:
    """IOAS_MAP of a bare address; the IOVA."""
    size = ctypes.sizeof(iommu_ioas_map)
    command = iommu_ioas_map(size=size, flags=flags, ioas_id=space.id, user_va=address, length=length, iova=iova)
    space.iommufd.ioctl(IOMMU_IOAS_MAP, command)
    return int(command.iova)


def test_memory_is_mapped_where_it_is_asked_for(space: Ioas) -> None:
    with page(2) as memory, space.map(memory, iova=IOVA) as mapping:
        assert (mapping.iova, mapping.last) == (IOVA, IOVA + 2 * PAGE_SIZE - 1)
    assert not mapping.mapped


def test_memory_that_comes_mapped_is_zero_and_of_whole_pages(space: Ioas) -> None:
    with space.alloc(5000, writable=True) as buffer:
        assert (len(buffer), buffer.mapping.length) == (5000, 2 * PAGE_SIZE)
        assert bytes(buffer.view) == bytes(5000)
    with pytest.raises(NotFound):
        space.unmap(buffer.mapping.iova, 2 * PAGE_SIZE)


def test_mappings_do_not_overlap(space: Ioas) -> None:
    with page(4) as memory, space.alloc(4 * PAGE_SIZE, iova=IOVA):
        for iova in (IOVA - 3 * PAGE_SIZE, IOVA, IOVA + 3 * PAGE_SIZE):
            with pytest.raises(AlreadyExists):
                space.map(memory, iova=iova)
        with space.map(memory, iova=IOVA + 4 * PAGE_SIZE):
            pass


def test_automatic_iovas_are_aligned_and_apart(space: Ioas) -> None:
    buffers = [space.alloc(length) for length in (PAGE_SIZE, 3 * PAGE_SIZE, 16 * PAGE_SIZE, PAGE_SIZE)]
    taken = sorted((buffer.iova, buffer.mapping.last) for buffer in buffers)
    assert all(iova % PAGE_SIZE == 0 for iova, _ in taken)
    assert all(last < following for (_, last), (following, _) in pairwise(taken))
    for buffer in buffers:
        buffer.close()


def test_a_mapping_has_to_let_the_device_do_something(space: Ioas) -> None:
    with page() as memory, pytest.raises(InvalidArgument):
        space.map(memory, writable=False, readable=False)


def test_ranges_that_wrap_around_are_an_overflow(space: Ioas) -> None:
    for length, iova in ((PAGE_SIZE, LAST - PAGE_SIZE + 2), (LAST - PAGE_SIZE + 1, 2 * PAGE_SIZE)):
        with pytest.raises(Overflow):
            map_raw(space, 0x10000, length, iova)
    with pytest.raises(Overflow):
        space.unmap(PAGE_SIZE, LAST)


def test_no_length_is_no_mapping(space: Ioas) -> None:
    with pytest.raises(InvalidArgument):
        map_raw(space, 0x10000, 0, IOVA)
    with pytest.raises(UsageError):
        space.alloc(0)


def test_a_misaligned_buffer_is_refused_with_its_alignment(space: Ioas) -> None:
    with page(4) as memory, memoryview(memory) as view, view[16 : 16 + PAGE_SIZE] as shifted, view[:5000] as odd:
        with pytest.raises(InvalidArgument, match=r"begins at 0x[0-9a-f]+010, which is not a multiple of 4096"):
            space.map(shifted)
        with pytest.raises(InvalidArgument, match="has 5000 bytes, which is not a multiple of 4096"):
            space.map(odd)


def test_without_a_device_memory_is_not_looked_at_before_it_is_needed(
    space: Ioas, ioas_device: Device, ioas_space: Ioas
) -> None:
    map_raw(space, 0x10000, PAGE_SIZE, IOVA)
    with pytest.raises(BadAddress):
        ioas_device.attach(space)
    assert space.unmap(IOVA, PAGE_SIZE) == PAGE_SIZE
    ioas_device.attach(space)
    with pytest.raises(BadAddress):
        map_raw(space, 0x10000, PAGE_SIZE, IOVA)
    ioas_device.attach(ioas_space)


@pytest.mark.usefixtures("ioas_device")
def test_a_device_does_not_get_to_write_memory_that_the_program_may_not(ioas_space: Ioas) -> None:
    with mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ) as memory:
        with memoryview(memory) as view, pytest.raises(BadAddress):
            ioas_space.map(view, iova=IOVA, writable=True)
        with ioas_space.map(memory, iova=IOVA):
            pass


def test_the_buffer_stays_in_place_while_it_is_mapped(space: Ioas) -> None:
    memory = page()
    with space.map(memory, iova=IOVA), pytest.raises(BufferError):
        memory.close()
    memory.close()


def test_a_refused_mapping_holds_no_buffer(space: Ioas) -> None:
    memory = page()
    with space.alloc(PAGE_SIZE, iova=IOVA), pytest.raises(AlreadyExists):
        space.map(memory, iova=IOVA)
    memory.close()


def test_what_is_not_mapped_cannot_be_unmapped(space: Ioas) -> None:
    with pytest.raises(NotFound):
        space.unmap(IOVA, PAGE_SIZE)
    assert space.unmap_all() == 0
    with pytest.raises(InvalidArgument):
        space.unmap(IOVA, 0)


def test_a_mapping_is_unmapped_whole(space: Ioas) -> None:
    with space.alloc(4 * PAGE_SIZE, iova=IOVA) as buffer:
        for iova, length in ((IOVA, PAGE_SIZE), (IOVA + PAGE_SIZE, 3 * PAGE_SIZE), (IOVA + PAGE_SIZE, PAGE_SIZE)):
            with pytest.raises(NotFound):
                space.unmap(iova, length)
        assert buffer.mapping.mapped


def test_a_range_takes_every_mapping_in_it(space: Ioas) -> None:
    buffers = [page() for _ in range(4)]
    mappings = [space.map(buffer, iova=IOVA + 2 * index * PAGE_SIZE) for index, buffer in enumerate(buffers)]
    assert space.unmap(IOVA, 4 * PAGE_SIZE) == 2 * PAGE_SIZE
    assert [mapping.mapped for mapping in mappings] == [False, False, True, True]
    assert space.unmap_all() == 2 * PAGE_SIZE
    for buffer in buffers:
        buffer.close()


def test_a_space_without_devices_has_all_iovas(space: Ioas) -> None:
    assert space.ranges() == ((0, LAST),)
    assert space.alignment == 1


@pytest.mark.usefixtures("ioas_device")
def test_a_device_narrows_the_ranges(ioas_space: Ioas) -> None:
    ranges = ioas_space.ranges()
    assert ranges
    assert all(one.last < other.start for one, other in pairwise(ranges))
    assert ranges[-1].last < LAST
    assert ioas_space.alignment == PAGE_SIZE
    beyond = ranges[0].last + 1
    with pytest.raises(InvalidArgument):
        ioas_space.alloc(PAGE_SIZE, iova=beyond)
    with ioas_space.alloc(PAGE_SIZE, iova=beyond - PAGE_SIZE):
        pass


def test_mappings_that_are_there_refuse_a_device_that_cannot_have_them(
    space: Ioas, ioas_device: Device, ioas_space: Ioas
) -> None:
    beyond = ioas_space.ranges()[0].last + 1
    with space.alloc(PAGE_SIZE, iova=beyond), pytest.raises(AddressInUse):
        ioas_device.attach(space)
    ioas_device.attach(space)
    ioas_device.attach(ioas_space)


def test_allowed_ranges_are_where_automatic_iovas_come_from(space: Ioas) -> None:
    space.allow([(0x10000, 0x1FFFF), (0x40000, 0x4FFFF)])
    with space.alloc(0x10000) as first, space.alloc(0x10000) as second:
        assert {first.iova, second.iova} == {0x10000, 0x40000}
        with pytest.raises(NoSpace):
            space.alloc(PAGE_SIZE)
        with space.alloc(PAGE_SIZE, iova=IOVA):  # a fixed one may be anywhere
            pass
    space.allow([])
    with space.alloc(0x40000):
        pass


def test_allowed_ranges_are_in_order_apart_and_possible(ioas_device: Device, ioas_space: Ioas) -> None:
    for wrong in ([(0, 0xFFF), (0x800, 0x1FFF)], [(0x2000, 0x1000)]):
        with pytest.raises(InvalidArgument):
            ioas_space.allow(wrong)
    beyond = ioas_space.ranges()[0].last + 1
    with pytest.raises(AddressInUse):
        ioas_space.allow([(beyond, beyond + PAGE_SIZE - 1)])


def test_what_is_allowed_refuses_a_device_that_cannot_have_it(
    space: Ioas, ioas_device: Device, ioas_space: Ioas
) -> None:
    beyond = ioas_space.ranges()[0].last + 1
    space.allow([(beyond, beyond + PAGE_SIZE - 1)])
    with pytest.raises(AddressInUse):
        ioas_device.attach(space)


def test_a_copy_is_of_the_same_memory_and_outlives_its_source(ioas_iommufd: Iommufd, space: Ioas) -> None:
    with ioas_iommufd.ioas() as other:
        memory = page(4)
        source = other.map(memory)
        copy = space.copy(source, offset=PAGE_SIZE, length=2 * PAGE_SIZE, iova=IOVA)
        assert (copy.iova, copy.length) == (IOVA, 2 * PAGE_SIZE)
        source.close()
        with pytest.raises(BufferError):
            memory.close()
        copy.close()
        memory.close()
        with pytest.raises(NotFound):
            space.copy(source)


def test_a_copy_is_of_what_is_mapped(space: Ioas) -> None:
    with space.alloc(2 * PAGE_SIZE, iova=IOVA) as buffer:
        with pytest.raises(NotFound):
            space.copy(buffer.mapping, offset=PAGE_SIZE, length=2 * PAGE_SIZE)
        with pytest.raises(AlreadyExists):
            space.copy(buffer.mapping, iova=IOVA + PAGE_SIZE)
        with space.copy(buffer.mapping) as copy:
            assert copy.iova != IOVA


def test_memory_of_a_file_is_mapped_by_the_file(space: Ioas) -> None:
    fd = os.memfd_create("dma")
    try:
        os.truncate(fd, 4 * PAGE_SIZE)
        with space.map_file(fd, PAGE_SIZE, 2 * PAGE_SIZE, iova=IOVA) as mapping:
            assert mapping.length == PAGE_SIZE
    finally:
        os.close(fd)
    with pytest.raises(BadFile):
        space.map_file(fd, PAGE_SIZE)


@pytest.mark.usefixtures("ioas_device")
def test_a_file_is_not_mapped_beyond_its_end(ioas_space: Ioas) -> None:
    fd = os.memfd_create("dma")
    try:
        os.truncate(fd, 4 * PAGE_SIZE)
        with pytest.raises(InvalidArgument):
            ioas_space.map_file(fd, 2 * PAGE_SIZE, 3 * PAGE_SIZE)
    finally:
        os.close(fd)


@pytest.mark.usefixtures("ioas_device")
def test_only_memory_files_can_be_mapped(ioas_space: Ioas) -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(InvalidArgument):
            ioas_space.map_file(read, PAGE_SIZE)
    finally:
        os.close(read)
        os.close(write)


def test_closing_a_space_lets_go_of_its_buffers(ioas_iommufd: Iommufd) -> None:
    space = ioas_iommufd.ioas()
    memory = page()
    mapping = space.map(memory)
    space.close()
    space.close()
    assert not mapping.mapped
    memory.close()
    with pytest.raises(UsageError, match="closed"):
        space.ranges()


def test_an_errno_is_the_kernel_s(space: Ioas, ioas_device: Device, ioas_space: Ioas) -> None:
    with pytest.raises(KernelError) as caught:
        map_raw(ioas_space, 0x10000, PAGE_SIZE, IOVA)
    assert (caught.value.errno, caught.value.refusal.name) == (EFAULT, "EFAULT")
