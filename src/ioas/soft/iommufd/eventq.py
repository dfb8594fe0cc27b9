"""Queues that tell a program of events through a file descriptor (struct iommufd_eventq, eventq.c, 7.3)."""

from __future__ import annotations

import select
from collections.abc import Callable
from errno import EINVAL, ENODEV, ENOTTY, ESPIPE
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import Culprit, refuse
from ioas.host import Caller
from ioas.soft.iommufd.objects import Object

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommufd.context import Context

READABLE = select.POLLIN | select.POLLRDNORM


class Queue(Object):
    """An object whose events are read through a file; it cannot be destroyed while that is open."""

    __slots__ = ("changed",)

    creator = Culprit("file", "its open file")
    name: ClassVar[str]
    """Of the anonymous file, as the kernel calls it."""
    writable: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.changed: list[Callable[[], None]] = []
        """Called when an event arrives, with the machine's lock held."""

    @property
    def waiting(self) -> bool:
        """Whether there is something to read."""
        raise NotImplementedError

    def take(self, length: int) -> bytes:
        """Take events out, as many as fit whole into `length` bytes. Raises KernelError."""
        raise NotImplementedError

    def restore(self) -> None:
        """Undo the last `take`."""
        raise NotImplementedError

    def answer(self, data: bytes) -> int:
        """Take what the program says about events; how many bytes were taken. Raises KernelError."""
        raise refuse(EINVAL, f"{self} takes no answers", "object", self)

    def tell(self) -> None:
        """Something arrived."""
        for callback in self.changed:
            callback()


class EventFile:
    """The file of a queue (implements `ioas.host.File`). It keeps its context alive."""

    device_number = (0, 0)

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._system = queue.context.system
        self._open = True
        queue.users += 1
        queue.context.get()

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """ENOTTY: there are none."""
        raise refuse(ENOTTY, f"{self.queue.name} has no requests", "request", f"{request:#x}")

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """Take events out; none when there are none: it never waits. Raises KernelError: EINVAL, ESPIPE."""
        self._no_position(offset)
        with self._system.lock:
            return self.queue.take(length)

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """Answer events, where the queue takes answers. Raises KernelError: EINVAL, ESPIPE."""
        self._no_position(offset)
        with self._system.lock:
            return self.queue.answer(data)

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV."""
        raise refuse(ENODEV, f"{self.queue.name} cannot be mapped", "file", self.queue.name)

    def poll(self, caller: Caller) -> int:
        """POLLIN while there is something to read; POLLOUT always where answers are taken."""
        with self._system.lock:
            return (READABLE if self.queue.waiting else 0) | (select.POLLOUT if self.queue.writable else 0)

    def watch(self, ready: Callable[[], None]) -> None:
        """Let `ready` be called whenever something arrives to be read."""
        with self._system.lock:
            self.queue.changed.append(ready)

    def restore(self) -> None:
        """Put back what the last read took."""
        with self._system.lock:
            self.queue.restore()

    def close(self) -> None:
        """Let the queue go (iommufd_eventq_fops_release). Idempotent."""
        with self._system.lock:
            if self._open:
                self._open = False
                self.queue.changed.clear()
                self.queue.users -= 1
                self.queue.context.put()

    def _no_position(self, offset: int | None) -> None:
        if offset is not None:
            raise refuse(ESPIPE, f"{self.queue.name} has no positions", "file", self.queue.name)
