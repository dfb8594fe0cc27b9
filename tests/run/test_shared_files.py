"""The supervisor's own descriptors of the program's files, and its ring, when something goes wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from errno import EFAULT

import pytest

from ioas.errors import KernelError
from ioas.run.shared import ClientFile, SharedFiles
from ioas.run.uring import Ring


def memfd(size: int = 8192) -> int:
    fd = os.memfd_create("test")
    os.truncate(fd, size)
    return fd


def test_a_file_that_the_garbage_collector_lets_go_of_is_closed_and_nobody_waits_for_a_lock() -> None:
    """It may come while this very thread has the lock."""
    later: list[Callable[[], None]] = []
    files = SharedFiles(later.append)
    client = ClientFile(files, files.take(memfd(), writable=True), "7")
    with files._lock:
        del client
    assert len(files) == 1
    while later:
        later.pop()()
    assert len(files) == 0


def test_a_file_that_cannot_be_read_is_efault_with_the_offset() -> None:
    files = SharedFiles(lambda action: None)
    file = files.take(memfd(), writable=True)
    nowhere = os.open("/proc/self/mem", os.O_RDWR)  # nothing is mapped at 16, and to read there is EIO
    os.dup2(nowhere, file._fd, inheritable=False)
    os.close(nowhere)
    with pytest.raises(KernelError) as info:
        file.read(16, 4)
    assert info.value.errno == EFAULT
    assert str(info.value.refusal.culprit) == "address 0x10"
    file.drop()
    files.close()


def test_many_threads_use_one_file_and_it_is_closed_once() -> None:
    files = SharedFiles(lambda action: None)
    fd = memfd()
    inode, device = os.fstat(fd).st_ino, os.fstat(fd).st_dev
    first = files.take(fd, writable=True)

    def work() -> None:
        for _ in range(500):
            found = files.known(device, inode, True)
            assert found is first
            found.write(0, b"data")
            assert found.read(0, 4) == b"data"
            found.drop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first.users == 1
    first.drop()
    files.close()
    assert len(files) == 0


def test_a_ring_that_has_been_closed_answers_efault_and_takes_buffers_back() -> None:
    try:
        ring = Ring()
    except OSError as error:
        pytest.skip(f"io_uring is not available: {error.strerror}")
    slot = ring.take()
    assert slot is not None
    for attempt in (lambda: ring.read(slot, 4096, 4), lambda: ring.write(slot, 4096, b"data")):
        with pytest.raises(KernelError) as info:
            attempt()
        assert info.value.errno == EFAULT
    ring.close()
    ring.close()
    with pytest.raises(KernelError) as info:
        ring.read(slot, 4096, 4)
    assert info.value.errno == EFAULT
    ring.give_back(slot)
    assert len(ring) == 0
