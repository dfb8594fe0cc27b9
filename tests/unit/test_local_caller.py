"""The in-process caller: descriptors, eventfds, capabilities (`ioas.host.local`)."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import select
import threading
from collections.abc import Iterator
from errno import EBADF, EBADFD, EINVAL, EMFILE

import pytest

from ioas.errors import BadFile, EnvironmentRefusal, InvalidArgument, TooManyFiles, WrongFile
from ioas.host import Caller, Capability, File
from ioas.host.local import LocalCaller


class StubFile:
    """A file that only counts its closes (verified against the protocol by the type checker)."""

    device_number = (10, 125)

    def __init__(self, events: int = select.POLLIN | select.POLLOUT) -> None:
        self.events = events
        self.closed = 0

    def ioctl(self, caller: Caller, request: int, argument: object) -> int:
        return 0

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        return b""

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        return 0

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        return -1

    def poll(self, caller: Caller) -> int:
        return self.events

    def close(self) -> None:
        self.closed += 1


_: type[File] = StubFile


@pytest.fixture
def caller() -> Iterator[LocalCaller]:
    gc.collect()  # what earlier tests left is not ours
    before = len(os.listdir("/proc/self/fd"))
    caller = LocalCaller()
    yield caller
    caller.close()
    caller.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_installed_file_is_found_by_its_descriptor_and_by_duplicates(caller: LocalCaller) -> None:
    file = StubFile()
    fd = caller.install(file)
    other = os.dup(fd)
    assert caller.file(fd) is caller.file(other) is file
    os.close(other)
    caller.close_fd(fd)


def test_descriptors_of_other_kinds_are_refused(caller: LocalCaller) -> None:
    reader, writer = os.pipe()
    with pytest.raises(WrongFile) as wrong:
        caller.file(reader)
    assert wrong.value.errno == EBADFD
    os.close(reader)
    os.close(writer)
    for fd in (reader, -1, 1 << 40):
        with pytest.raises(BadFile) as bad:
            caller.file(fd)
        assert bad.value.errno == EBADF


def test_the_last_close_closes_the_file_and_not_an_earlier_one(caller: LocalCaller) -> None:
    file = StubFile()
    fd = caller.install(file)
    other = os.dup(fd)
    caller.close_fd(fd)
    assert file.closed == 0
    caller.close_fd(other)
    assert file.closed == 1
    assert caller.held() == {}


def test_a_close_behind_our_back_is_seen_before_the_next_call(caller: LocalCaller) -> None:
    file = StubFile()
    os.close(caller.install(file))
    caller.before_call()
    assert file.closed == 1


def test_a_duplicate_that_outlives_the_owner_keeps_the_file_open(caller: LocalCaller) -> None:
    file = StubFile()
    fd = caller.install(file)
    caller.adopt(fd)
    other = os.dup(fd)
    caller.close_fd(fd)
    caller.before_call()
    assert file.closed == 0
    os.close(other)
    caller.before_call()
    assert file.closed == 1


def test_closing_the_caller_closes_every_file_once() -> None:
    caller = LocalCaller()
    files = [StubFile() for _ in range(3)]
    fds = [caller.install(file) for file in files]
    caller.close()
    assert [file.closed for file in files] == [1, 1, 1]
    for fd in fds:
        os.close(fd)


def test_a_file_is_not_taken_for_the_closed_one_whose_descriptor_it_has_got(
    caller: LocalCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads find the same hang-up; before the second acts on it the first has, and opened something."""
    files = caller._files
    hangups = files._hangups
    opened: list[tuple[StubFile, int]] = []

    class Interrupted:
        """The epoll object, with another thread at work between its answer and what is made of that."""

        def __getattr__(self, name: str) -> object:
            return getattr(hangups, name)

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            monkeypatch.setattr(files, "_hangups", hangups)
            found = hangups.poll(timeout)
            other.start()
            other.join(0.2)  # with the hang-ups kept to one thread it waits here
            return found

    def open_another() -> None:
        file = StubFile()
        opened.append((file, caller.install(file)))

    other = threading.Thread(target=open_another)
    os.close(caller.install(StubFile()))
    monkeypatch.setattr(files, "_hangups", Interrupted())
    caller.before_call()
    other.join()
    ((file, fd),) = opened
    assert not file.closed
    assert caller.file(fd) is file
    caller.close_fd(fd)


def test_what_fails_on_the_way_to_a_descriptor_leaves_none_open(caller: LocalCaller) -> None:
    class Odd(StubFile):
        def poll(self, caller: Caller) -> int:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        caller.install(Odd())
    assert caller.held() == {}


def test_a_descriptor_polls_as_its_file_does(caller: LocalCaller) -> None:
    always = caller.install(StubFile())
    never = caller.install(StubFile(events=select.POLLOUT))
    readable, writable, _ = select.select([always, never], [always, never], [], 0)
    assert (readable, writable) == ([always], [always, never])
    poll = select.poll()
    poll.register(always, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(always, select.POLLIN | select.POLLOUT)]

    async def wait() -> None:
        ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(always, ready.set)
        await asyncio.wait_for(ready.wait(), 10)
        asyncio.get_running_loop().remove_reader(always)

    asyncio.run(wait())
    caller.close_fd(always)
    caller.close_fd(never)


def test_close_on_exec_is_as_asked(caller: LocalCaller) -> None:
    kept, closed = caller.install(StubFile(), cloexec=False), caller.install(StubFile())
    assert (os.get_inheritable(kept), os.get_inheritable(closed)) == (True, False)
    caller.close_fd(kept)
    caller.close_fd(closed)


def test_no_free_descriptor_is_emfile_and_leaves_nothing(caller: LocalCaller) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        with pytest.raises(TooManyFiles) as caught:
            caller.install(StubFile())
        assert caught.value.errno == EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caller.held() == {}


def test_a_reference_to_an_eventfd_outlives_the_programs_descriptor(caller: LocalCaller) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    other = os.dup(fd)
    event = caller.eventfd(fd)
    os.close(fd)
    event.signal()
    event.signal(2)
    assert os.eventfd_read(other) == 3
    assert os.fstat(event.fileno()).st_ino == os.fstat(other).st_ino
    event.close()
    event.close()
    event.signal()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(other)
    os.close(other)


def test_a_full_eventfd_does_not_block_its_signaller(caller: LocalCaller) -> None:
    fd = os.eventfd(0)  # blocking
    os.eventfd_write(fd, (1 << 64) - 2)
    event = caller.eventfd(fd)
    event.signal()
    event.close()
    os.close(fd)


def test_only_an_eventfd_is_an_eventfd(caller: LocalCaller) -> None:
    reader, writer = os.pipe()
    with pytest.raises(InvalidArgument) as caught:
        caller.eventfd(reader)
    assert caught.value.errno == EINVAL
    os.close(reader)
    os.close(writer)
    with pytest.raises(BadFile):
        caller.eventfd(reader)


def test_capabilities_are_those_of_the_process_and_those_granted(caller: LocalCaller) -> None:
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    for capability in Capability:
        assert caller.capable(capability) == bool(effective >> capability & 1)
    granted = LocalCaller([Capability.SYS_RAWIO])
    assert granted.capable(Capability.SYS_RAWIO)
    granted.close()


def test_the_caller_is_this_process(caller: LocalCaller) -> None:
    assert (caller.pid, caller.uid) == (os.getpid(), os.getuid())


def test_a_forked_child_cannot_call(caller: LocalCaller) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            caller.before_call()
        except EnvironmentRefusal:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
