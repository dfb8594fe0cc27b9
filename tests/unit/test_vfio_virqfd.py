"""The thread that waits on programs' eventfds (`ioas.soft.vfio.virqfd`): what goes wrong stays where it is."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import resource
import threading
from collections.abc import Iterator

import pytest

from ioas.errors import TooManyFiles
from ioas.host.local_files import LocalEventFd
from ioas.soft.vfio import Watcher


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    gc.collect()  # what earlier tests left is not ours
    before = len(os.listdir("/proc/self/fd"))
    watcher = Watcher()
    yield watcher
    watcher.close()
    assert watcher.count == 0
    assert len(os.listdir("/proc/self/fd")) == before


def eventfd() -> LocalEventFd:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    event = LocalEventFd(fd)
    os.close(fd)
    return event


def test_an_action_that_fails_does_not_stop_the_others(watcher: Watcher, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    acted = threading.Event()
    broken, sound = eventfd(), eventfd()
    watcher.watch(broken, fail)
    watcher.watch(sound, acted.set)
    with caplog.at_level(logging.ERROR):
        broken.signal()
        while not caplog.records:
            os.sched_yield()
        sound.signal()
        assert acted.wait(10)
    assert "eventfd sets off has failed" in caplog.text


def test_an_eventfd_signalled_before_counts_whatever_its_number_and_its_model(
    watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("no descriptor above 1023 can be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    try:
        low = os.eventfd(1, os.EFD_NONBLOCK)
        high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
        event = LocalEventFd(low)
        os.dup2(high, 1600)
        event._fd, kept = 1600, event._fd
        watcher.watch(event, fail).close()
        for fd in (low, high, kept):
            os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("free", range(5))
def test_a_watch_for_which_no_descriptor_is_left_is_refused_and_drops_its_eventfd(watcher: Watcher, free: int) -> None:
    event, first = eventfd(), eventfd()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
    try:
        refused = None
        try:
            watcher.watch(event, lambda: None)
        except TooManyFiles as error:
            refused = error
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (event.fileno() < 0) == (refused is not None)
    assert watcher.count == (0 if refused else 1)
    acted = threading.Event()
    watcher.watch(first, acted.set)
    first.signal()
    assert acted.wait(10)
