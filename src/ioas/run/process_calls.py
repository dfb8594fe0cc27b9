"""Calls that change what we know about a process: execve, credentials, namespaces. The kernel carries them all out."""

from __future__ import annotations

import os
from errno import ENOEXEC

from ioas.run.filter import AT_FDCWD
from ioas.run.kernel import Nr
from ioas.run.listener import Call
from ioas.run.outcome import Handler, Outcome
from ioas.run.program import is_foreign
from ioas.run.report import who
from ioas.run.server import Server

_LONGEST = 4096


def on_execute(server: Server, call: Call) -> int | Outcome:
    """execve(2) and execveat(2): forget the memory that is about to go; refuse programs that the filter would break."""
    server.processes.executes()
    path = _program(server, call)
    foreign = is_foreign(path) if path else None
    if foreign is None:
        return Outcome.PROCEED
    server.reporter.warn_once(f"{who(call.thread, call.thread)}: {path} {foreign}; ioas run serves x86-64 programs")
    return -ENOEXEC


def _program(server: Server, call: Call) -> str | None:
    """The file that is on_executed, as we can open it; None when that is not clear."""
    at = call.number == Nr.EXECVEAT
    directory, pointer = (call.arguments[0] & 0xFFFFFFFF, call.arguments[1]) if at else (AT_FDCWD, call.arguments[0])
    name, end, _ = server.copy_in(call.thread, pointer, _LONGEST).partition(b"\0")
    base = f"/proc/{call.thread}/cwd" if directory == AT_FDCWD else f"/proc/{call.thread}/fd/{directory}"
    if not end:
        return None
    if not name:
        return base if at else None
    return os.path.join(base, os.fsdecode(name))


def on_credentials(server: Server, call: Call) -> int | Outcome:
    """setuid(2) and its kin, capset(2), unshare(2), setns(2): read the credentials again before the next use."""
    server.processes.forget_thread(call.thread)
    return Outcome.PROCEED


def on_filter(server: Server, call: Call) -> int | Outcome:
    """seccomp(2) and prctl(PR_SET_SECCOMP): from here on a thread may not be made to call whatever we like."""
    server.buffers.filters_added = True
    return Outcome.PROCEED


def on_affinity(server: Server, call: Call) -> int | Outcome:
    """sched_setaffinity(2) and sched_getaffinity(2): what they are about is the program's, not ours."""
    if server.mmio:
        server.mmio.let_spread()
    return Outcome.PROCEED


PROCESS_CALLS: dict[int, Handler] = {
    Nr.EXECVE: on_execute,
    Nr.EXECVEAT: on_execute,
    Nr.SCHED_SETAFFINITY: on_affinity,
    Nr.SCHED_GETAFFINITY: on_affinity,
    Nr.SETUID: on_credentials,
    Nr.SETREUID: on_credentials,
    Nr.SETRESUID: on_credentials,
    Nr.SETFSUID: on_credentials,
    Nr.CAPSET: on_credentials,
    Nr.UNSHARE: on_credentials,
    Nr.SETNS: on_credentials,
    Nr.SECCOMP: on_filter,
    Nr.PRCTL: on_filter,
}
