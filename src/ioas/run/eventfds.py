"""The program's eventfds, where they cannot be fetched from it.

Normally `pidfd_getfd` duplicates an eventfd out of the program when a call names it. Some container profiles forbid
that call; then the making of eventfds is handed over as well, we make them, keep a descriptor, and put another into
the program. They are told apart by the eventfd-id in /proc/PID/fdinfo.
"""

from __future__ import annotations

import os
import re
from errno import EMFILE
from typing import TYPE_CHECKING

from ioas.run.listener import Gone
from ioas.run.outcome import Outcome

if TYPE_CHECKING:
    from ioas.run.caller import ProcessCaller
    from ioas.run.listener import Call
    from ioas.run.server import Server

_ID = re.compile(r"^eventfd-id:\s*(\d+)$", re.MULTILINE)
_KEPT = 4096
_FLAGS = os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE


class EventFds:
    """The eventfds that we made for programs, by their id."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._own: dict[str, int] = {}

    def make(self, call: Call, initial: int, flags: int) -> int | Outcome:
        """Answer eventfd2(2)."""
        if flags & ~_FLAGS:
            return Outcome.PROCEED  # the kernel refuses it
        if len(self._own) >= _KEPT:
            os.close(self._own.pop(next(iter(self._own))))
        fd = os.eventfd(initial, flags | os.EFD_CLOEXEC)
        try:
            self._server.listener.give(call.ident, fd, None, bool(flags & os.EFD_CLOEXEC), answer=True)
        except (OSError, Gone) as error:
            os.close(fd)
            if isinstance(error, Gone):
                raise
            return -(error.errno or EMFILE)
        self._own[_identity(f"/proc/self/fdinfo/{fd}")] = fd
        return Outcome.ANSWERED

    def own(self, caller: ProcessCaller, fd: int) -> int | None:
        """A duplicate of our descriptor of the eventfd that the caller has as `fd`; None when we did not make it."""
        if not self._own:
            return None
        own = self._own.get(_identity(f"/proc/{caller.thread}/fdinfo/{fd}"))
        return None if own is None else os.dup(own)

    def close(self) -> None:
        """Close our descriptors."""
        for fd in self._own.values():
            os.close(fd)
        self._own.clear()


def _identity(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            match = _ID.search(file.read())
    except OSError:
        return ""
    return match[1] if match else ""
