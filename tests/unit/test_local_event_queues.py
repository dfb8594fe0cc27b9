"""In one process the descriptor of a queue polls as readable while there is something to read, and only then."""

from __future__ import annotations

import os
import select

from ioas.host import File
from ioas.host.local import LocalCaller
from ioas.host.local_files import LocalFiles


class Events:
    """A file with a number of events, of one byte each."""

    device_number = (0, 0)

    def __init__(self) -> None:
        self.count = 0

    def watch(self, ready: object) -> None:
        self.ready = ready

    def add(self) -> None:
        self.count += 1
        self.ready()  # type: ignore[operator]

    def poll(self, caller: object) -> int:
        return select.POLLIN if self.count else 0

    def restore(self) -> None:
        """Nothing is read here."""

    def close(self) -> None:
        """Nothing."""


class Late(Events):
    """An event arrives just after a look has found none."""

    def poll(self, caller: object) -> int:
        ready = super().poll(caller)
        if not ready:
            self.add()
        return ready


def test_readiness_follows_the_queue() -> None:
    events = Events()
    file: File = events  # type: ignore[assignment]
    with_descriptor = LocalCaller()
    fd = with_descriptor.install(file)
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    try:
        for _ in range(3):
            assert waiting.poll(0) == []
            events.add()
            events.add()
            assert waiting.poll(0)
            events.count = 1
            with_descriptor.settle(fd)
            assert waiting.poll(0), "there is one more"
            events.count = 0
            with_descriptor.settle(fd)
    finally:
        with_descriptor.close_fd(fd)
        with_descriptor.close()


def test_an_event_that_comes_while_readiness_is_settled_is_not_lost() -> None:
    events = Late()
    file: File = events  # type: ignore[assignment]
    with_descriptor = LocalCaller()
    fd = with_descriptor.install(file)
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    try:
        events.add()
        events.count = 0
        with_descriptor.settle(fd)
        assert events.count, "one has come meanwhile"
        assert waiting.poll(0)
    finally:
        with_descriptor.close_fd(fd)
        with_descriptor.close()


def test_an_event_after_the_program_has_closed_its_end_harms_nobody() -> None:
    events = Events()
    file: File = events  # type: ignore[assignment]
    with_descriptor = LocalCaller()
    os.close(with_descriptor.install(file))
    events.add()
    with_descriptor.before_call()
    events.add()
    with_descriptor.close()


def test_files_without_events_are_left_alone() -> None:
    read, write = os.pipe()
    LocalFiles().settle(LocalCaller(), read)
    os.close(read)
    os.close(write)
