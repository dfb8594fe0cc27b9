"""Which handler answers which system call."""

from __future__ import annotations

from ioas.run.fd_calls import FD_CALLS, on_fstatat, on_fstatx
from ioas.run.filter import AT_FDCWD
from ioas.run.kernel import Nr
from ioas.run.listener import Call
from ioas.run.open_calls import OPEN_CALLS
from ioas.run.outcome import Handler, Outcome
from ioas.run.path_calls import PATH_CALLS, on_stat
from ioas.run.process_calls import PROCESS_CALLS
from ioas.run.server import Server


def _by_path_or_descriptor(by_descriptor: Handler) -> Handler:
    def handler(server: Server, call: Call) -> int | Outcome:
        return (on_stat if call.arguments[0] & 0xFFFFFFFF == AT_FDCWD else by_descriptor)(server, call)

    return handler


HANDLERS: dict[int, Handler] = {
    **FD_CALLS,
    **OPEN_CALLS,
    **PATH_CALLS,
    **PROCESS_CALLS,
    Nr.NEWFSTATAT: _by_path_or_descriptor(on_fstatat),
    Nr.STATX: _by_path_or_descriptor(on_fstatx),
}
"""One for each call that `ioas.run.filter.rules` hands over."""
