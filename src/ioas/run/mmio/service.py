"""Mapped BARs for one supervisor: the files that programs map, and the trapping of their loads and stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import ENOMEM, EPERM
from functools import partial
from typing import Literal, TypeVar

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.run.buffers import Piece
from ioas.run.mmio.memory_files import Mappable, MemoryFiles
from ioas.run.mmio.poll import Poller
from ioas.run.mmio.traps import Traced, Traps
from ioas.run.tracer import Busy, Tracer
from ioas.soft.pci import RamPages
from ioas.soft.vfio.mapped_memory import MemoryPart

T = TypeVar("T")
Mode = Literal["trap", "poll", "rw"]
"""How BARs are offered: "trap": they can be mapped, and each load and store is carried out on the device; "poll": they
are memory that is looked at all the time; "rw": without the MMAP flag, by read(2) and write(2) alone."""
_FOR_BARS = (
    "loads and stores on mapped BARs are served by tracing; `ioas run --mmio rw` offers BARs without the MMAP flag"
)
_FOR_CALLS = "its calls can be made again after a signal only by tracing"
MODES: tuple[Mode, ...] = ("trap", "poll", "rw")


class Mmio:
    """See the module."""

    def __init__(
        self,
        tracer: Tracer,
        say: Callable[[str], None],
        stopped: Callable[[int, int], None],
        poller: Poller | None = None,
    ) -> None:
        """Takes the tracer's `on_stop`. `say` is told what is not served; `stopped`: see `Traps`.

        `poller`: serves the BARs that it can.
        """
        self._poller = poller
        self.files = MemoryFiles(poller.forget if poller else None)
        self._say = say
        self._tracer = tracer
        self._traps = Traps(tracer, self.files.by_inode, say, stopped)

    @contextmanager
    def mapping(self, file: Mappable, process: int, offset: int, length: int) -> Iterator[list[Piece]]:
        """What `process` maps in place of `length` bytes at `offset` of `file`: first all of it, then parts over it.

        Accesses to what is no memory are trapped from here on. Raises KernelError: EPERM when it cannot be traced,
        ENOMEM when there is no room for the files.
        """
        with ExitStack() as undo:

            def piece(start: int, size: int, place: int, pages: RamPages | None) -> Piece:
                fd = self._have_room(lambda: self.files.open(file, pages))
                undo.callback(os.close, fd)
                return Piece(fd, start, size, place)

            parts = self._have_room(lambda: file.memory(offset, -(-length // PAGE_SIZE) * PAGE_SIZE))
            pieces = [piece(part.start, part.length, part.offset, part.pages) for part in parts]
            if not _whole(parts, length):
                image = self._have_room(partial(self._poller.image, file, offset)) if self._poller else None
                if image is None:
                    self._trace(process, _FOR_BARS)
                pieces.insert(0, piece(0, length, offset, image))
            yield pieces

    def _have_room(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except OSError as error:
            reason = f"no file can be made to be mapped: {error.strerror}"
            raise refuse(ENOMEM, reason, "limit", "/dev/shm") from error

    def follow(self, process: int, thread: int) -> None:
        """Trace a process, one of whose threads this is, so that its calls can be made again after a signal.

        Where that is not possible it is said, and the process runs on without.
        """
        if not self._tracer.owns(thread):
            with suppress(KernelError):
                self._trace(process, _FOR_CALLS)

    def _trace(self, process: int, purpose: str) -> None:
        try:
            self._traps.trace(process)
        except Traced as error:
            reason = f"process {process} {error}, and {purpose}"
        except Busy:
            reason = "the tracer does not answer"
        else:
            return
        self._say(reason)
        raise refuse(EPERM, reason, "object", process)

    def let_spread(self) -> None:
        """Let threads run on all processors that are theirs, before the program asks or says which these are."""
        if self._tracer.is_quiet:  # it has tracees: one of them may be kept, or just be being woken
            with suppress(Busy):
                self._tracer.submit(self._traps.near.let_all_go)

    def ended(self, thread: int) -> None:
        """A traced thread is gone; for the tracer's thread."""
        self._traps.ended(thread)

    def close(self) -> None:
        """Close everything; nobody is traced any more."""
        self._traps.close()
        self.files.close()
        if self._poller:
            self._poller.close()


def _whole(parts: list[MemoryPart], length: int) -> bool:
    """Whether one of them is the whole mapping."""
    return len(parts) == 1 and parts[0].start == 0 and parts[0].length >= length
