"""Epochs: how an unmapping waits for the transfers that may still use what it took away.

A transfer enters the present epoch and leaves it when its bytes have moved. `drain` begins a new
epoch and waits until everybody has left the old one. Transfers that begin meanwhile are in the new epoch:
they see the page table and the IOTLB as the unmapping left them, and are not waited for, so that a device
that never rests cannot hold up an unmap.

A lock held during the transfer would be simpler, but locks are not fair: a busy device gets its own back
again and again while the unmapping waits.
"""

from __future__ import annotations

import threading


class Epoch:
    """The transfers under way in one domain. Right without a GIL as well: all state changes under `_lock`."""

    __slots__ = ("_busy", "_drained", "_lock", "_now", "_turn")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = [0, 0]
        self._now = 0
        self._turn = threading.Lock()
        self._drained: threading.Event | None = None

    def enter(self) -> int:
        """Begin a transfer; the epoch, to `leave`."""
        with self._lock:
            now = self._now
            self._busy[now] += 1
        return now

    def leave(self, epoch: int) -> None:
        """End a transfer that began in `epoch`."""
        with self._lock:
            self._busy[epoch] -= 1
            if self._drained is not None and epoch != self._now and not self._busy[epoch]:
                self._drained.set()

    def drain(self) -> None:
        """Wait until all transfers that have entered before this call have left."""
        with self._lock:
            if not (self._busy[0] or self._busy[1]):
                return
        with self._turn:
            self._wait_for(self._now ^ 1)  # empty, unless a drain was interrupted by a signal
            with self._lock:
                self._now ^= 1
            self._wait_for(self._now ^ 1)

    def _wait_for(self, epoch: int) -> None:
        """Wait until `epoch`, which nobody enters any more, is empty."""
        with self._lock:
            if not self._busy[epoch]:
                return
            drained = self._drained = threading.Event()
        drained.wait()
