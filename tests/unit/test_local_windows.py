"""Several windows on the same memory: which one serves an access, and what holds it open meanwhile."""

from __future__ import annotations

import gc
import mmap
import os
import resource
import sys
import threading
from collections.abc import Iterator
from errno import EFAULT, EMFILE

import numpy
import pytest

from ioas.errors import BadAddress, InvalidArgument, TooManyFiles
from ioas.host import PAGE_SIZE
from ioas.host.local import LocalCaller
from ioas.host.local_kept import KeptFile
from ioas.host.local_memory import LocalMemory
from ioas.host.local_windows import FileAccess, Windows
from tests.unit.test_local_caller_memory import dma_read, dma_write

READ_ONLY, READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE


@pytest.fixture
def memory() -> Iterator[LocalMemory]:
    memory = LocalMemory()
    yield memory
    assert memory.windows() == memory.registered() == 0
    memory.close()


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("windows")
    os.ftruncate(fd, 4 * PAGE_SIZE)
    yield fd
    os.close(fd)
    gc.collect()  # a caught exception may hold a kept file, and the next test counts descriptors


def address_of(buffer: mmap.mmap) -> int:
    return int(numpy.frombuffer(buffer, numpy.uint8).__array_interface__["data"][0])


def test_a_device_writes_past_a_read_only_buffer_of_the_same_memory(memory: LocalMemory) -> None:
    buffer = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE)
    address = memory.register(memoryview(buffer).toreadonly())
    pin = memory.pin(address, 1, write=True)
    dma_write(pin, b"device")
    assert buffer[:6] == dma_read(pin, 6) == b"device"
    pin.release()
    memory.unregister(address)


def test_a_device_writes_past_a_read_only_mapping_of_the_same_file(memory: LocalMemory, memfd: int) -> None:
    readable, writable = (mmap.mmap(memfd, PAGE_SIZE, prot=prot) for prot in (READ_ONLY, READ_WRITE))
    reading = memory.pin(address_of(readable), 1, write=False)
    writing = memory.pin(address_of(writable), 1, write=True)
    dma_write(writing, b"device")
    assert readable[:6] == b"device"
    writing.release()
    with pytest.raises(BadAddress):
        dma_write(reading, b"x")
    reading.release()


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_how_a_memory_file_was_opened_does_not_matter_to_a_device(memory: LocalMemory, memfd: int, mode: int) -> None:
    """memfd_pin_folios does not look at the file's mode."""
    caller = LocalCaller()
    fd = os.open(f"/proc/self/fd/{memfd}", mode)
    pin = caller.memory_file(fd).pin(0, 1, True)
    os.close(fd)
    dma_write(pin, b"device")
    assert dma_read(pin, 6) == os.pread(memfd, 6, 0) == b"device"
    pin.release()
    caller.close()


def test_a_memory_file_that_cannot_be_held_for_want_of_descriptors_is_refused(memory: LocalMemory, memfd: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(TooManyFiles) as caught:
            memory.kept_files.keep(memfd)
        assert caught.value.errno == EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_cannot_be_read_is_efault(memfd: int) -> None:
    access = FileAccess(KeptFile(os.open(f"/proc/self/fd/{memfd}", os.O_WRONLY)), 0)
    with pytest.raises(BadAddress) as caught:
        access.read(0, 1)
    assert caught.value.errno == EFAULT
    access.close()


def test_many_mappings_of_a_memory_file_take_one_descriptor(memfd: int) -> None:
    caller = LocalCaller()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    files = [caller.memory_file(memfd) for _ in range(3)]
    pins = [file.pin(page * PAGE_SIZE, 1, True) for page, file in enumerate(files)]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    dma_write(pins[2], b"third")
    assert os.pread(memfd, 5, 2 * PAGE_SIZE) == b"third"
    del files
    assert dma_read(pins[2], 5) == b"third"
    for pin in pins:
        pin.release()
    del pin, pins
    assert len(os.listdir("/proc/self/fd")) == before
    caller.close()


def test_a_file_that_is_no_memory_file_is_not_kept_open() -> None:
    caller = LocalCaller()
    reader, writer = os.pipe()
    with pytest.raises(InvalidArgument, match="memfd"):
        caller.memory_file(writer)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    caller.close()


class Slow:
    """Bytes that take their time: whoever reads them is seen, and kept until told to go on."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.closed = False

    def read(self, offset: int, length: int) -> bytes:
        self.reading.set()
        self.go_on.wait(10)
        assert not self.closed
        return bytes(length)

    def write(self, offset: int, data: object) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


def test_a_window_that_another_pin_gives_up_stays_open_for_the_access_under_way() -> None:
    windows, slow, found = Windows("file"), Slow(), []
    window = windows.add(0, PAGE_SIZE, slow)
    reader = threading.Thread(target=lambda: found.append(windows.read(0, 1)))
    reader.start()
    assert slow.reading.wait(10)
    window.drop()
    assert not slow.closed
    slow.go_on.set()
    reader.join()
    assert (found, slow.closed, len(windows)) == ([b"\0"], True, 0)


class Zeros:
    """Bytes that are 0."""

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def write(self, offset: int, data: object) -> None:
        """Nowhere."""

    def close(self) -> None:
        """Nothing to close."""


def test_windows_come_and_go_while_others_are_read() -> None:
    windows, wrong, over = Windows("file"), [], threading.Event()
    held = windows.add(8 * PAGE_SIZE, 9 * PAGE_SIZE, Zeros())

    def read() -> None:
        try:
            while not over.is_set():
                windows.read(8 * PAGE_SIZE, 16)
        except BaseException as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        for reader in readers:
            reader.start()
        for _ in range(300):
            others = [windows.add(page * PAGE_SIZE, (page + 1) * PAGE_SIZE, Zeros()) for page in range(8)]
            for other in others:
                other.drop()
    finally:
        over.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    held.drop()
    assert not wrong


def test_an_access_over_thousands_of_windows_comes_whole() -> None:
    windows = Windows("file")
    added = [windows.add(page * 8, page * 8 + 8, Zeros()) for page in range(5000)]
    assert windows.read(0, 40000) == bytes(40000)
    windows.write(0, bytes(40000))
    for window in added:
        window.drop()
