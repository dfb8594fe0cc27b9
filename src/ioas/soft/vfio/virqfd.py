"""Waiting on eventfds of programs: what the kernel calls virqfd (drivers/vfio/virqfd.c, 7.3).

A program that unmasks INTx by an eventfd, or writes registers by one, signals it and expects the host to act. One
thread of the machine waits on all of them. The counter is read without blocking whatever the flags of the
program's descriptor are, for they are shared with it.

One difference is known: the kernel notices when the program closes its last descriptor of the eventfd; a host
that holds its own does not, so a watch lasts until it is taken back or the device is closed.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from errno import EMFILE
from pathlib import Path

from ioas.errors import refuse
from ioas.host import EventFd

_log = logging.getLogger(__name__)


class Watch:
    """An eventfd being waited on, until `close`."""

    def __init__(self, watcher: Watcher, eventfd: EventFd, action: Callable[[], None]) -> None:
        self._watcher = watcher
        self.eventfd = eventfd
        self.action = action

    def close(self) -> None:
        """Stop waiting and drop the eventfd; when this returns the action is not running. Idempotent."""
        self._watcher.remove(self)


@dataclass(slots=True)
class _Signal:
    """One eventfd, whoever watches it: each of them hears of each signal, and the counter is read once."""

    fd: int
    """A descriptor of our own."""
    stood: int
    """What the counter said when the first watch began, which is no signal; 0 once a signal may have come."""
    watches: list[Watch]


class Watcher:
    """The thread that waits, started by the first `watch`."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._signals: dict[Hashable, _Signal] = {}
        """By the eventfd's identity."""
        self._by_fd: dict[int, _Signal] = {}
        self._running: Watch | None = None
        self._thread: threading.Thread | None = None
        self._epoll: select.epoll | None = None
        self._stop_fd = -1

    def watch(self, eventfd: EventFd, action: Callable[[], None]) -> Watch:
        """Call `action` on the watcher's thread after each signal; takes over `eventfd`, whatever comes of it.

        An eventfd that was signalled before counts: `action` is called once before this returns, on this thread, and
        the counter stays as it is (vfio_virqfd_enable).

        Raises KernelError(EMFILE) when this process has no descriptor left for it.
        """
        watch = Watch(self, eventfd, action)
        try:
            with self._lock:
                self._signal_of(eventfd).watches.append(watch)
        except OSError as error:
            eventfd.close()
            raise refuse(
                EMFILE, "no descriptor is left to wait on the eventfd with", "limit", "RLIMIT_NOFILE"
            ) from error
        if _readable(eventfd.fileno()):
            _carry_out(watch)
        return watch

    def _signal_of(self, eventfd: EventFd) -> _Signal:
        """What is known of this eventfd, which is waited on from now on. The lock is held. Raises OSError."""
        epoll = self._start()
        identity = _identity(eventfd.fileno())
        signal = self._signals.get(identity)
        if signal is None:
            fd = os.dup(eventfd.fileno())
            signal = _Signal(fd, _counter(fd), [])
            try:
                epoll.register(signal.fd, select.EPOLLIN | select.EPOLLET)
            except OSError:
                os.close(signal.fd)
                raise
            self._signals[identity] = self._by_fd[signal.fd] = signal
        return signal

    def remove(self, watch: Watch) -> None:
        """See `Watch.close`."""
        with self._lock:
            found = next((item for item in self._signals.items() if watch in item[1].watches), None)
            if found is None:
                return
            identity, signal = found
            signal.watches.remove(watch)
            if not signal.watches:
                self._forget(identity, signal)
            if threading.current_thread() is not self._thread:
                self._lock.wait_for(lambda: self._running is not watch)
        watch.eventfd.close()

    def _forget(self, identity: Hashable, signal: _Signal) -> None:
        del self._signals[identity]
        del self._by_fd[signal.fd]
        if self._epoll:
            self._epoll.unregister(signal.fd)
        os.close(signal.fd)

    def close(self) -> None:
        """Drop every watch and join the thread. Idempotent."""
        for watch in [watch for signal in self._signals.values() for watch in signal.watches]:
            watch.close()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread and self._epoll:
            os.eventfd_write(self._stop_fd, 1)
            thread.join()
            self._epoll.close()
            os.close(self._stop_fd)
            self._epoll = None

    @property
    def count(self) -> int:
        """How many watches there are."""
        return sum(len(signal.watches) for signal in self._signals.values())

    def _start(self) -> select.epoll:
        """Start the thread, if it does not run. The lock is held. Raises OSError."""
        if self._epoll is None:
            epoll = select.epoll()
            try:
                self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            except OSError:
                epoll.close()
                raise
            epoll.register(self._stop_fd, select.EPOLLIN)
            self._epoll = epoll
            self._thread = threading.Thread(target=self._run, args=(epoll,), name="ioas-virqfd", daemon=True)
            self._thread.start()
        return self._epoll

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for fd, _ in epoll.poll():
                if fd == self._stop_fd:
                    return
                self._serve(fd)

    def _serve(self, fd: int) -> None:
        with self._lock:
            signal = self._by_fd.get(fd)
            if signal is None:
                return
            stood, signal.stood = signal.stood, 0
            if (stood and stood == _counter(fd)) or not _taken(fd):
                return
            watches = signal.watches[::-1]  # the newest first, as a wait queue is walked
        for watch in watches:
            self._act(signal, watch)

    def _act(self, signal: _Signal, watch: Watch) -> None:
        with self._lock:
            if watch not in signal.watches:
                return
            self._running = watch
        try:
            _carry_out(watch)
        finally:
            with self._lock:
                self._running = None
                self._lock.notify_all()


def _carry_out(watch: Watch) -> None:
    try:
        watch.action()
    except Exception:
        # The thread serves all devices: one mistake must not stop the others.
        _log.exception("what a signalled eventfd sets off has failed")


def _readable(fd: int) -> bool:
    """Whether something can be read now. By poll(2), which takes any descriptor; select(2) ends at 1023."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _identity(fd: int) -> Hashable:
    """What two descriptors of the same eventfd have in common."""
    return _information(fd).get("eventfd-id", fd)


def _counter(fd: int) -> int:
    """What the eventfd counts, without reading it."""
    return int(_information(fd).get("eventfd-count", "0"), 16)


def _information(fd: int) -> dict[str, str]:
    """What the kernel tells of a descriptor of ours; nothing where there is no /proc."""
    try:
        text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _taken(fd: int) -> bool:
    """Read the counter, if it is not zero: the program may have read it first."""
    try:
        os.preadv(fd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True
