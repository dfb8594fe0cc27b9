"""Waiting on eventfds of programs: what the kernel calls virqfd (drivers/vfio/virqfd.c, 7.3).

A program that unmasks INTx by an eventfd, or writes registers by one, signals it and expects the host to act. One
thread of the machine waits on all of them. The counter is read without blocking whatever the flags of the
program's descriptor are, for they are shared with it.

One difference is known: the kernel notices when the program closes its last descriptor of the eventfd; a host
that holds its own does not, so a watch lasts until it is taken back or the device is closed.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from ioas.host import EventFd


class Watch:
    """An eventfd being waited on, until `close`."""

    def __init__(self, watcher: Watcher, eventfd: EventFd, action: Callable[[], None]) -> None:
        self._watcher = watcher
        self.eventfd = eventfd
        self.action = action

    def close(self) -> None:
        """Stop waiting and drop the eventfd; when this returns the action is not running. Idempotent."""
        self._watcher.remove(self)


class Watcher:
    """The thread that waits, started by the first `watch`."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._watches: dict[int, Watch] = {}
        self._running: Watch | None = None
        self._thread: threading.Thread | None = None
        self._epoll: select.epoll | None = None
        self._stop_fd = -1

    def watch(self, eventfd: EventFd, action: Callable[[], None]) -> Watch:
        """Call `action` on the watcher's thread after each signal; takes over `eventfd`."""
        watch = Watch(self, eventfd, action)
        with self._lock:
            epoll = self._start()
            self._watches[eventfd.fileno()] = watch
            epoll.register(eventfd.fileno(), select.EPOLLIN)
        return watch

    def remove(self, watch: Watch) -> None:
        """See `Watch.close`."""
        with self._lock:
            fd = watch.eventfd.fileno()
            if self._watches.get(fd) is not watch:
                return
            del self._watches[fd]
            if self._epoll:
                self._epoll.unregister(fd)
            if threading.current_thread() is not self._thread:
                self._lock.wait_for(lambda: self._running is not watch)
        watch.eventfd.close()

    def close(self) -> None:
        """Drop every watch and join the thread. Idempotent."""
        for watch in list(self._watches.values()):
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
        """How many eventfds are being waited on."""
        return len(self._watches)

    def _start(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._stop_fd, select.EPOLLIN)
            self._thread = threading.Thread(target=self._run, args=(self._epoll,), name="ioas-virqfd", daemon=True)
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
            watch = self._watches.get(fd)
            if watch is None or not _taken(fd):
                return
            self._running = watch
        try:
            watch.action()
        finally:
            with self._lock:
                self._running = None
                self._lock.notify_all()


def _taken(fd: int) -> bool:
    """Read the counter, if it is not zero: the program may have read it first."""
    try:
        os.preadv(fd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True
