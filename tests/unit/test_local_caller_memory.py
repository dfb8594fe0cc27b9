"""The in-process caller's memory: what can be pinned, and that it stays within reach (`ioas.host.local_memory`)."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from collections.abc import Iterator
from errno import EBADF, EFAULT, EINVAL

import numpy
import pytest

from ioas.errors import BadAddress, EnvironmentRefusal, InvalidArgument, KernelError, UsageError
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Extent, Pin
from ioas.host.local import LocalCaller
from ioas.host.local_memory import LocalMemory

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FIXED = 0x10


def map_memory(length: int, flags: int, *, at: int = 0, fd: int = -1, protection: int = 3) -> int:
    """mmap(2) without a Python object that owns the mapping."""
    address = _libc.mmap(at, length, protection, flags | (_MAP_FIXED if at else 0), fd, 0)
    assert address != ctypes.c_void_p(-1).value
    return int(address)


def peek(address: int, length: int) -> bytes:
    return ctypes.string_at(address, length)


def poke(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def dma_read(pin: Pin, length: int, skip: int = 0) -> bytes:
    extent = pin.extents[0]
    return extent.backing.read((extent.page << PAGE_SHIFT) + skip, length)


def dma_write(pin: Pin, data: bytes, skip: int = 0) -> None:
    extent = pin.extents[0]
    extent.backing.write((extent.page << PAGE_SHIFT) + skip, data)


@pytest.fixture
def memory() -> Iterator[LocalMemory]:
    memory = LocalMemory()
    yield memory
    assert memory.windows() == memory.registered() == 0
    memory.close()


@pytest.fixture
def shared() -> Iterator[int]:
    address = map_memory(4 * PAGE_SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    yield address
    _libc.munmap(address, 4 * PAGE_SIZE)


@pytest.fixture
def private() -> Iterator[int]:
    """Four pages, and a hole after them."""
    address = map_memory(5 * PAGE_SIZE, PRIVATE)
    _libc.mprotect(address + 4 * PAGE_SIZE, PAGE_SIZE, 0)
    yield address
    _libc.munmap(address + 4 * PAGE_SIZE, PAGE_SIZE)
    _libc.munmap(address, 4 * PAGE_SIZE)


def test_a_registered_buffer_is_pinned_as_a_buffer_and_its_bytes_are_reached(memory: LocalMemory) -> None:
    buffer = mmap.mmap(-1, 4 * PAGE_SIZE)
    address = memory.register(buffer)
    pin = memory.pin(address + PAGE_SIZE, 2, True)
    assert pin.how == "buffer"
    assert [extent.count for extent in pin.extents] == [2]
    dma_write(pin, b"from the device", skip=PAGE_SIZE)
    assert buffer[2 * PAGE_SIZE : 2 * PAGE_SIZE + 15] == b"from the device"
    buffer[PAGE_SIZE : PAGE_SIZE + 5] = b"hello"
    assert dma_read(pin, 5) == b"hello"
    pin.release()
    pin.release()
    memory.unregister(address)
    buffer.close()


def test_a_pin_keeps_a_registered_buffer_alive_beyond_unregister_and_del(memory: LocalMemory) -> None:
    buffer = mmap.mmap(-1, PAGE_SIZE, flags=PRIVATE)
    address = memory.register(buffer)
    pin = memory.pin(address, 1, True)
    memory.unregister(address)
    with pytest.raises(BufferError):
        buffer.close()
    del buffer
    dma_write(pin, b"still there")
    assert peek(address, 11) == b"still there"
    pin.release()


def test_registering_the_same_memory_again_counts(memory: LocalMemory) -> None:
    array = numpy.zeros(2 * PAGE_SIZE, numpy.uint8)
    address = memory.register(array)
    assert memory.register(array) == address
    assert memory.register(memoryview(array)[: PAGE_SIZE // 2]) == address
    assert memory.registered() == 1
    for _ in range(3):
        memory.unregister(address)
    assert memory.registered() == 0
    with pytest.raises(UsageError, match="no buffer is registered"):
        memory.unregister(address)


def test_buffers_that_overlap_or_are_scattered_or_empty_are_refused(memory: LocalMemory) -> None:
    array = numpy.zeros(4 * PAGE_SIZE, numpy.uint8)
    address = memory.register(array[: 2 * PAGE_SIZE])
    with pytest.raises(UsageError, match="overlaps"):
        memory.register(array[PAGE_SIZE:])
    with pytest.raises(UsageError, match="contiguous"):
        memory.register(array[2 * PAGE_SIZE :: 2])
    with pytest.raises(UsageError, match="not empty"):
        memory.register(b"")
    memory.unregister(address)


def test_a_read_only_buffer_cannot_be_pinned_for_writing(memory: LocalMemory) -> None:
    address = map_memory(PAGE_SIZE, PRIVATE, protection=mmap.PROT_READ)
    view = memoryview((ctypes.c_char * PAGE_SIZE).from_address(address)).toreadonly()
    assert memory.register(view) == address
    memory.pin(address, 1, False).release()
    with pytest.raises(BadAddress, match="cannot be written"):
        memory.pin(address, 1, True)
    memory.unregister(address)
    _libc.munmap(address, PAGE_SIZE)


def test_shared_memory_is_held_through_munmap_and_a_new_mapping(memory: LocalMemory, shared: int) -> None:
    poke(shared, b"old page")
    pin = memory.pin(shared, 1, True)
    assert pin.how == "shared file"
    map_memory(PAGE_SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, at=shared)
    assert dma_read(pin, 8) == b"old page"
    dma_write(pin, b"OLD PAGE")
    assert peek(shared, 8) == bytes(8)
    assert dma_read(pin, 8) == b"OLD PAGE"
    pin.release()


def test_shared_memory_is_held_through_fork_and_a_write_by_the_parent(memory: LocalMemory, shared: int) -> None:
    pin = memory.pin(shared, 1, True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(peek(shared, 6) != b"device")
    poke(shared, b"parent")
    dma_write(pin, b"device")
    assert peek(shared, 6) == b"device"
    os.write(writer, b"\0")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pin.release()
    os.close(reader)
    os.close(writer)


def test_private_memory_by_address_says_so_and_strict_refuses_it(memory: LocalMemory, private: int) -> None:
    pin = memory.pin(private, 2, True)
    assert pin.how == "address"
    dma_write(pin, b"data")
    assert peek(private, 4) == b"data"
    pin.release()
    strict = LocalMemory(strict=True)
    with pytest.raises(BadAddress, match="register it"):
        strict.pin(private, 1, True)
    strict.close()


def test_private_memory_that_is_gone_is_efault_and_not_a_crash(memory: LocalMemory) -> None:
    address = map_memory(PAGE_SIZE, PRIVATE)
    pin = memory.pin(address, 1, True)
    _libc.munmap(address, PAGE_SIZE)
    with pytest.raises(BadAddress):
        dma_read(pin, 8)
    with pytest.raises(BadAddress):
        dma_write(pin, b"x")
    pin.release()


def test_a_page_has_one_identity_however_it_is_pinned(memory: LocalMemory) -> None:
    fd = os.memfd_create("test")
    os.truncate(fd, 4 * PAGE_SIZE)
    first = mmap.mmap(fd, 4 * PAGE_SIZE)
    second = map_memory(2 * PAGE_SIZE, mmap.MAP_SHARED, fd=fd)
    caller = LocalCaller()
    address = caller.register(first)
    file = caller.memory_file(fd)
    pins = [
        caller.memory.pin(address + PAGE_SIZE, 1, True),
        caller.memory.pin(second + PAGE_SIZE, 1, True),
        file.pin(PAGE_SIZE, 1, True),
    ]
    assert len({(pin.extents[0].backing.key, pin.extents[0].page) for pin in pins}) == 1
    for number, pin in enumerate(pins):
        dma_write(pin, bytes([number + 1]) * 4)
        assert {dma_read(other, 4) for other in pins} == {bytes([number + 1]) * 4}
    for pin in pins:
        pin.release()
    caller.unregister(address)
    assert caller.held() == {}
    _libc.munmap(second, 2 * PAGE_SIZE)
    first.close()
    os.close(fd)
    del file
    caller.close()


def test_private_pages_keep_their_identity_when_they_are_registered_later(memory: LocalMemory, private: int) -> None:
    def identity() -> tuple[object, int]:
        pin = memory.pin(private, 1, True)
        extent: Extent = pin.extents[0]
        pin.release()
        return extent.backing.key, extent.page

    before = identity()
    address = memory.register((ctypes.c_char * (2 * PAGE_SIZE)).from_address(private))
    assert address == private
    assert identity() == before
    memory.unregister(address)


def test_a_range_over_several_mappings_is_pinned_in_parts(memory: LocalMemory) -> None:
    base = map_memory(4 * PAGE_SIZE, PRIVATE)
    map_memory(2 * PAGE_SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, at=base + PAGE_SIZE)
    pin = memory.pin(base, 4, True)
    assert [extent.count for extent in pin.extents] == [1, 2, 1]
    assert pin.how == "address"
    pin.release()
    _libc.munmap(base, 4 * PAGE_SIZE)


def test_a_hole_and_missing_permissions_are_efault_and_hold_nothing(memory: LocalMemory) -> None:
    base = map_memory(4 * PAGE_SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    _libc.munmap(base + 2 * PAGE_SIZE, PAGE_SIZE)
    for start, count in [(base, 4), (base + 2 * PAGE_SIZE, 1), (0, 1), ((1 << 64) - PAGE_SIZE, 1)]:
        with pytest.raises(BadAddress, match="no memory is mapped"):
            memory.pin(start, count, True)
    _libc.mprotect(base, PAGE_SIZE, mmap.PROT_READ)
    memory.pin(base, 1, False).release()
    with pytest.raises(BadAddress, match="cannot be written"):
        memory.pin(base, 1, True)
    _libc.mprotect(base, PAGE_SIZE, 0)
    with pytest.raises(BadAddress, match="cannot be read"):
        memory.pin(base, 1, False)
    assert memory.windows() == 0
    _libc.munmap(base, 4 * PAGE_SIZE)


def test_a_mapping_beyond_the_end_of_its_file_is_efault(memory: LocalMemory) -> None:
    fd = os.memfd_create("short")
    os.truncate(fd, PAGE_SIZE)
    address = map_memory(2 * PAGE_SIZE, mmap.MAP_SHARED, fd=fd)
    with pytest.raises(BadAddress):
        memory.pin(address, 2, True)
    pin = memory.pin(address, 1, True)
    os.truncate(fd, 0)
    with pytest.raises(BadAddress):  # and not SIGBUS
        dma_read(pin, 1)
    pin.release()
    _libc.munmap(address, 2 * PAGE_SIZE)
    os.close(fd)


@pytest.mark.parametrize("registered", [True, False])
def test_copies_go_both_ways_and_a_bad_pointer_is_efault(memory: LocalMemory, private: int, registered: bool) -> None:
    if registered:
        memory.register((ctypes.c_char * (4 * PAGE_SIZE)).from_address(private))
    data = bytes(range(256)) * 40
    memory.write(private + 100, data)
    assert memory.read(private + 100, len(data)) == data
    assert memory.read(private, 0) == b""
    for address in (0, 8, -8, (1 << 64) - 4, 1 << 64, private + 4 * PAGE_SIZE - 4):
        with pytest.raises(BadAddress) as caught:
            memory.read(address, 1 << 16)
        assert caught.value.errno == EFAULT
        with pytest.raises(BadAddress):
            memory.write(address, bytes(1 << 16))
    if registered:
        memory.unregister(private)


def test_read_only_memory_cannot_be_copied_to(memory: LocalMemory, private: int) -> None:
    _libc.mprotect(private, PAGE_SIZE, mmap.PROT_READ)
    with pytest.raises(BadAddress):
        memory.write(private, b"x")
    assert memory.read(private, 1) == b"\0"


def test_a_long_copy_comes_whole(memory: LocalMemory) -> None:
    length = (5 << 20) + 123
    address = map_memory(length, PRIVATE)
    data = numpy.random.default_rng(1).bytes(length)
    memory.write(address, data)
    assert memory.read(address, length) == data
    _libc.munmap(address, length)


def test_dma_crosses_from_one_buffer_to_memory_that_is_none(memory: LocalMemory, private: int) -> None:
    memory.register((ctypes.c_char * PAGE_SIZE).from_address(private + PAGE_SIZE))
    pin = memory.pin(private, 3, True)
    data = bytes(range(256)) * (3 * PAGE_SIZE // 256)
    dma_write(pin, data)
    assert peek(private, 3 * PAGE_SIZE) == data
    assert dma_read(pin, 3 * PAGE_SIZE) == data
    pin.release()
    memory.unregister(private + PAGE_SIZE)


def test_the_limit_is_that_of_the_process(memory: LocalMemory) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, hard))
    try:
        assert memory.memlock_limit() == 65536
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        assert memory.memlock_limit() is None


def test_a_forked_child_is_told_that_the_machine_is_elsewhere(memory: LocalMemory, private: int) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            memory.pin(private, 1, True)
        except EnvironmentRefusal as error:
            code = "forked child" not in str(error)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_only_memory_files_can_be_pinned_from_and_only_up_to_their_end(memory: LocalMemory) -> None:
    caller = LocalCaller()
    fd = os.memfd_create("test")
    os.truncate(fd, 2 * PAGE_SIZE + 1)
    file = caller.memory_file(fd)
    assert file.size == 2 * PAGE_SIZE + 1
    os.close(fd)
    pin = file.pin(PAGE_SIZE, 1, True)
    assert pin.how == "shared file"
    with pytest.raises(InvalidArgument, match="the file has 8193 bytes"):
        file.pin(PAGE_SIZE, 2, True)  # the last page is not whole
    reader, writer = os.pipe()
    with pytest.raises(InvalidArgument, match="memfd"):
        caller.memory_file(reader).pin(0, 1, False)
    with pytest.raises(KernelError) as caught:
        caller.memory_file(99999)
    assert caught.value.errno == EBADF
    pin.release()
    os.close(reader)
    os.close(writer)
    assert caller.held() == {}
    caller.close()
    assert InvalidArgument.number == EINVAL


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_a_registered_buffer_of_a_truncated_file_is_efault_and_not_sigbus(memory: LocalMemory, flags: int) -> None:
    fd = os.memfd_create("shrinks")
    os.truncate(fd, PAGE_SIZE)
    buffer = mmap.mmap(fd, PAGE_SIZE, flags=flags)
    address = memory.register(buffer)
    pin = memory.pin(address, 1, True)
    dma_write(pin, b"data")
    assert buffer[:4] == b"data"
    pin.release()
    pin = memory.pin(address, 1, True)
    os.truncate(fd, 0)
    if flags == mmap.MAP_SHARED:
        with pytest.raises(BadAddress):
            dma_write(pin, b"data")
    with pytest.raises(BadAddress):
        dma_read(pin, PAGE_SIZE)
    pin.release()
    memory.unregister(address)
    buffer.close()
    os.close(fd)
