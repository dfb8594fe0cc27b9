"""What a path in a call means: a node of the machine, or a descriptor of one of its files.

Nearly every path that comes here is about something else - a shared library, a source file - and has to be let go as
quickly as can be: it is read and searched for the few names that any path of the machine contains.
"""

from __future__ import annotations

import os
import re

from ioas.run.caller import ProcessCaller
from ioas.run.files import Given
from ioas.run.filter import AT_FDCWD
from ioas.run.listener import Call
from ioas.run.server import Server
from ioas.run.view import Located

_LONGEST = 4096
_USUAL = 256
_DESCRIPTOR = re.compile(rb"/(?:proc/(self|thread-self|\d+)(?:/task/\d+)?|dev)/fd/(\d+)")


def read_path(server: Server, thread: int, pointer: int) -> bytes:
    """The path at `pointer`; empty when there is none, and the kernel will say so."""
    for length in (_USUAL, _LONGEST):
        path, end, _ = server.copy_in(thread, pointer, length).partition(b"\0")
        if end:
            return path
    return b""


def locate(server: Server, call: Call, directory: int, raw: bytes, follow: bool) -> Located | None:
    """The node of the machine that a path means, seen from `directory`; None when it is not the machine's.

    Raises OSError: it would be the machine's, and is not there.
    """
    hints = server.view.hints
    hinted = hints.search(raw) is not None
    if not hinted and (raw[:1] == b"/" or server.stage.root is None):
        return None
    path = os.fsdecode(raw)
    if not path.startswith("/"):
        if not path:
            return None
        base = "cwd" if directory == AT_FDCWD else f"fd/{directory}"
        try:
            real = os.readlink(f"/proc/{call.thread}/{base}")
        except OSError:
            return None
        staged = server.stage.machine_path(real)
        if staged is None and not hinted and not hints.search(os.fsencode(real)):
            return None
        path = f"{staged or real}/{path}"
    return server.view.locate(path, follow)


def descriptor_named(server: Server, call: Call, raw: bytes) -> tuple[ProcessCaller, Given] | None:
    """The caller, and the machine's file that a path such as /proc/self/fd/900 stands for; None for other paths.

    Another process's descriptors are known as well as the caller's own.
    """
    match = _DESCRIPTOR.fullmatch(raw)
    if match is None or not server.files.by_link:
        return None
    whose = call.thread if match[1] in (None, b"self", b"thread-self") else int(match[1])
    try:
        given = server.files.by_link.get(os.readlink(f"/proc/{whose}/fd/{int(match[2])}"))
    except OSError:
        return None
    caller = server.caller(call) if given else None
    return (caller, given) if caller and given else None
