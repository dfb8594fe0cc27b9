"""The machine's files that programs have open, and what stands for each in a program.

What a program gets is one end of a SOCK_SEQPACKET socket pair; the other end is ours. So the descriptor is an
ordinary one: it can be duplicated, inherited, sent over a socket and polled, and the kernel tells us by a hang-up on
our end when the last of its references is gone, however that came about. It is shut down for reading, because a device
file without a poll operation polls as ready for everything - and because a read(2) that the filter does not hand over
then ends at once, where it would wait for ever. For a queue of events it is not, and a datagram waits in it while
there is something to read.

Mappings of device files are references too (`ioas.run.mmio.memory_files`).

A file is recognised by the inode of its socket ("socket:[N]" in /proc/PID/fd), never by a descriptor number.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterator

from ioas.host import Caller, EventSource, File
from ioas.host.readiness import Readiness
from ioas.run.mmio.memory_files import MemoryFiles

_AT_ONCE = 64


class Given:
    """A file that some program has open."""

    __slots__ = ("_readiness", "end", "file", "link", "path")

    def __init__(self, file: File, path: str, end: int, link: str) -> None:
        """`path`: the node that was opened, empty for files that a call made; `end`: our end of the pair."""
        self.file = file
        self.path = path
        self.end = end
        self.link = link
        self._readiness: Readiness | None = None
        if isinstance(file, EventSource):
            self._readiness = Readiness(file, end)
            file.watch(self._readiness.ready)

    def settle(self, caller: Caller, take: Callable[[], int]) -> None:
        """The program has read (`Readiness.settle`). `take` gives us a copy of its end."""
        if self._readiness:
            self._readiness.settle(caller, take)

    def close(self) -> None:
        """Close our end."""
        if self._readiness:
            self._readiness.close()
        os.close(self.end)


class Files:
    """All files that programs have open."""

    def __init__(self, failed: Callable[[Exception], None], mappings: MemoryFiles | None = None) -> None:
        """`failed` is told when a file's close raises, which is a bug of the host's.

        `mappings`: knows which device files are mapped, and thereby open.
        """
        self.by_link: dict[str, Given] = {}
        self.epoll = select.epoll()
        self._by_end: dict[int, Given] = {}
        self._failed = failed
        self._mappings = mappings
        self._mapped: list[File] = []
        """Files without a descriptor."""
        if mappings:
            self.epoll.register(mappings.fileno(), select.EPOLLIN | select.EPOLLET)

    def __len__(self) -> int:
        return len(self.by_link)

    def __iter__(self) -> Iterator[Given]:
        return iter(self.by_link.values())

    def create(self, file: File, path: str) -> int:
        """Make the pair for `file`; returns the program's end, which the caller hands over and closes.

        If it is closed without having been handed over, that was the last reference. Raises OSError when no descriptor
        is to be had; `file` has then been closed.
        """
        try:
            given, theirs = _pair(file, path)
            try:
                self.epoll.register(given.end, 0)  # EPOLLHUP comes unasked
            except BaseException:
                os.close(given.end)
                os.close(theirs)
                raise
        except BaseException:
            self._close_file(file)
            raise
        self.by_link[given.link] = given
        self._by_end[given.end] = given
        return theirs

    def drain(self) -> None:
        """Close every file whose last reference is gone."""
        while ready := self.epoll.poll(0, _AT_ONCE):
            for end, _ in ready:
                if end in self._by_end:
                    self._let_go(self._by_end[end])
        if self._mapped:
            self._close_unmapped()

    def _let_go(self, given: Given) -> None:
        """No descriptor is left; a mapping may be."""
        self.epoll.unregister(given.end)
        given.close()
        del self._by_end[given.end], self.by_link[given.link]
        self._mapped.append(given.file)

    def _close_unmapped(self) -> None:
        """Close the files that have no descriptor and no mapping left."""
        for file in tuple(self._mapped):
            if not (self._mappings and self._mappings.keeps(file)):
                self._mapped.remove(file)
                self._close_file(file)

    def close_all(self) -> None:
        """Close what is still open, and the epoll descriptor."""
        self.drain()
        for given in list(self):
            self._let_go(given)
        for file in self._mapped:
            self._close_file(file)
        self.epoll.close()

    def _close_file(self, file: File) -> None:
        if self._mappings:
            self._mappings.forget(file)
        try:
            file.close()
        except Exception as error:  # close cannot fail; if it does nevertheless, the others must still be closed
            self._failed(error)


def _pair(file: File, path: str) -> tuple[Given, int]:
    """What stands for `file`, and the program's end of its pair. Raises OSError with nothing left open."""
    with contextlib.ExitStack() as undo:
        ours, theirs = (undo.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        if not isinstance(file, EventSource):
            theirs.shutdown(socket.SHUT_RD)
        link = os.readlink(f"/proc/self/fd/{theirs.fileno()}")
        return Given(file, path, ours.detach(), link), theirs.detach()
