"""How a descriptor that stands for a queue of events polls as readable just while there is something to read.

The descriptor is one end of a socket pair. A datagram waits in it while the queue is not empty.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.host.seam import Caller, File


class Readiness:
    """The readiness of one descriptor. `ready` may be called from any thread, with any lock of the machine's held."""

    __slots__ = ("_end", "_file", "_lock", "_readable")

    def __init__(self, file: File, end: int) -> None:
        """`end` is our end of the pair, which whoever made it closes, after `close`."""
        self._file = file
        self._end = end
        self._lock = threading.Lock()
        self._readable = False

    def ready(self) -> None:
        """There is something to read."""
        with self._lock, contextlib.suppress(OSError):  # nobody has the other end any more
            if not self._readable and self._end >= 0:
                os.write(self._end, b"\0")
                self._readable = True

    def settle(self, caller: Caller, take: Callable[[], int]) -> None:
        """The program has read: let the other end, of which `take` gives a copy, be readable only if there is more.

        What empties a queue without a read leaves the end readable until the next one, which then finds nothing; where
        descriptors cannot be copied it stays so for good.
        """
        if not self._readable or self._file.poll(caller) & select.POLLIN:
            return
        with self._lock, contextlib.suppress(OSError), socket.socket(fileno=take()) as other:
            self._readable = False
            other.recv(1, socket.MSG_DONTWAIT)
        if self._file.poll(caller) & select.POLLIN:  # it came between the look and now
            self.ready()

    def close(self) -> None:
        """The descriptor is going: nothing is written to it any more."""
        with self._lock:
            self._end = -1
