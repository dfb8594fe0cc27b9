"""DMA: what a device reaches, what it does not, and that nothing lands where something was unmapped."""

from __future__ import annotations

import mmap
import os
import random

import pytest

from ioas.api import Ioas, Iommufd
from ioas.api.host import BaseHost
from ioas.host import PAGE_SIZE
from ioas.testing.faults import expect_faults
from ioas.testing.suite.edu import BUFFER_SIZE, IOVA, Edu

KEPT = b"kept" * 4


@pytest.fixture
def loaded(edu: Edu, ioas_space: Ioas) -> bytes:
    """Fill the device's buffer; with what."""
    data = random.Random(7).randbytes(BUFFER_SIZE)
    with ioas_space.alloc(BUFFER_SIZE, iova=IOVA + 0x100000) as buffer:
        buffer.view[:] = data
        edu.load(buffer.iova, BUFFER_SIZE)
    return data


def test_data_go_to_the_device_and_come_back(edu: Edu, ioas_space: Ioas, loaded: bytes) -> None:
    with ioas_space.alloc(BUFFER_SIZE, writable=True, iova=IOVA) as buffer:
        edu.store(IOVA, BUFFER_SIZE)
        assert buffer.view == loaded


def test_every_byte_lands_where_it_was_sent(edu: Edu, ioas_space: Ioas, loaded: bytes) -> None:
    with ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as buffer:
        edu.store(IOVA + 123, 45, offset=67)
        assert buffer.view == bytes(123) + loaded[67 : 67 + 45] + bytes(PAGE_SIZE - 123 - 45)


def test_dma_crosses_from_one_mapping_into_the_next(edu: Edu, ioas_space: Ioas, loaded: bytes) -> None:
    with mmap.mmap(-1, PAGE_SIZE) as first, mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE) as second:
        with ioas_space.map(first, iova=IOVA), ioas_space.map(second, iova=IOVA + PAGE_SIZE):
            edu.store(IOVA + PAGE_SIZE - 1000, 2048)
        assert first[PAGE_SIZE - 1000 :] + second[:1048] == loaded[:2048]


def test_a_device_hears_nothing_of_what_is_not_mapped(
    edu: Edu, ioas_host: BaseHost, ioas_space: Ioas, loaded: bytes
) -> None:
    with expect_faults(ioas_host, iova=IOVA, write=False, reason="not mapped"):
        edu.load(IOVA, 16)
    with ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as buffer:
        edu.store(IOVA, 16, offset=16)
        assert buffer.view[:16] == loaded[16:32]


def test_nothing_lands_after_unmapping(edu: Edu, ioas_host: BaseHost, ioas_space: Ioas, loaded: bytes) -> None:
    with mmap.mmap(-1, PAGE_SIZE) as memory:
        mapping = ioas_space.map(memory, iova=IOVA)
        edu.store(IOVA, 16)
        assert memory[:16] == loaded[:16]
        mapping.close()
        memory[: len(KEPT)] = KEPT
        with expect_faults(ioas_host, iova=IOVA, write=True, reason="not mapped"):
            edu.store(IOVA, len(KEPT))
        assert memory[: len(KEPT)] == KEPT


def test_a_device_cannot_write_where_it_may_only_read(
    edu: Edu, ioas_host: BaseHost, ioas_space: Ioas, loaded: bytes
) -> None:
    with ioas_space.alloc(PAGE_SIZE, writable=False, iova=IOVA) as buffer:
        buffer.view[: len(KEPT)] = KEPT
        edu.load(IOVA, len(KEPT))
        with expect_faults(ioas_host, iova=IOVA, write=True, reason="permission"):
            edu.store(IOVA, len(KEPT), offset=16)
        assert buffer.view[: len(KEPT)] == KEPT


def test_without_bus_mastering_nothing_leaves_the_device(
    edu: Edu, ioas_host: BaseHost, ioas_space: Ioas, loaded: bytes
) -> None:
    with ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as buffer:
        buffer.view[: len(KEPT)] = KEPT
        edu.device.bus_master = False
        with expect_faults(ioas_host, reason="bus master off"):
            edu.store(IOVA, len(KEPT))
        assert buffer.view[: len(KEPT)] == KEPT
        edu.device.bus_master = True
        edu.store(IOVA, len(KEPT))
        assert buffer.view[: len(KEPT)] == loaded[: len(KEPT)]


def test_a_detached_device_reaches_nothing(edu: Edu, ioas_host: BaseHost, ioas_space: Ioas, loaded: bytes) -> None:
    with ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as buffer:
        buffer.view[: len(KEPT)] = KEPT
        edu.device.detach()
        with expect_faults(ioas_host, reason="blocked"):
            edu.store(IOVA, len(KEPT))
        assert buffer.view[: len(KEPT)] == KEPT
        edu.device.attach(ioas_space)
        edu.store(IOVA, len(KEPT))
        assert buffer.view[: len(KEPT)] == loaded[: len(KEPT)]


def test_a_device_moves_from_one_space_to_another(
    edu: Edu, ioas_iommufd: Iommufd, ioas_space: Ioas, loaded: bytes
) -> None:
    with (
        ioas_iommufd.ioas() as other,
        ioas_space.alloc(16, writable=True, iova=IOVA) as here,
        other.alloc(16, writable=True, iova=IOVA) as there,
    ):
        edu.device.attach(other)
        edu.store(IOVA, 16)
        assert (bytes(here.view), bytes(there.view)) == (bytes(16), loaded[:16])
        edu.device.attach(ioas_space)
        edu.store(IOVA, 16, offset=16)
        assert (bytes(here.view), bytes(there.view)) == (loaded[16:32], loaded[:16])


def test_a_table_made_by_hand_translates(edu: Edu, ioas_iommufd: Iommufd, ioas_space: Ioas, loaded: bytes) -> None:
    with ioas_iommufd.hwpt(edu.device, ioas_space) as table:
        edu.device.attach(table)
        with ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as buffer:
            edu.store(IOVA, 16)
            assert buffer.view[:16] == loaded[:16]
        edu.device.attach(ioas_space)


def test_a_copy_leads_to_the_same_memory(edu: Edu, ioas_iommufd: Iommufd, ioas_space: Ioas, loaded: bytes) -> None:
    with ioas_iommufd.ioas() as other, mmap.mmap(-1, 4 * PAGE_SIZE) as memory:
        source = other.map(memory)
        copy = ioas_space.copy(source, offset=PAGE_SIZE, length=2 * PAGE_SIZE, iova=IOVA)
        source.close()
        edu.store(IOVA, 16)
        assert memory[PAGE_SIZE : PAGE_SIZE + 16] == loaded[:16]
        copy.close()


def test_memory_of_a_file_is_reached(edu: Edu, ioas_space: Ioas, loaded: bytes) -> None:
    fd = os.memfd_create("dma")
    os.truncate(fd, 4 * PAGE_SIZE)
    mapping = ioas_space.map_file(fd, PAGE_SIZE, 2 * PAGE_SIZE, iova=IOVA)
    edu.store(IOVA, 16)
    assert os.pread(fd, 16, 2 * PAGE_SIZE) == loaded[:16]
    os.close(fd)
    edu.load(IOVA, 16)  # the mapping holds the file
    mapping.close()


def test_memory_is_reached_at_all_its_iovas(edu: Edu, ioas_space: Ioas, loaded: bytes) -> None:
    memory = mmap.mmap(-1, PAGE_SIZE)
    with ioas_space.map(memory, iova=IOVA), ioas_space.map(memory, iova=IOVA + 0x10000):
        edu.store(IOVA, 16)
        edu.store(IOVA + 0x10000 + 16, 16, offset=16)
        assert memory[:32] == loaded[:32]
    memory.close()


def test_the_rest_of_a_space_stays_when_a_part_is_unmapped(edu: Edu, ioas_space: Ioas, loaded: bytes) -> None:
    gone = ioas_space.alloc(PAGE_SIZE, iova=IOVA + PAGE_SIZE)
    with ioas_space.alloc(PAGE_SIZE, writable=True, iova=IOVA) as kept:
        gone.close()
        edu.store(IOVA, 16)
        assert kept.view[:16] == loaded[:16]
