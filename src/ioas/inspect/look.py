"""Which machine is looked at: this one, a software one, or one that was captured."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ioas.errors import MachineError
from ioas.inspect.acl import acl_of
from ioas.inspect.capture import load
from ioas.inspect.machine import Machine, Node, User
from ioas.sysfs import DirectorySource


@contextmanager
def looked_at(file: str | os.PathLike[str] | None) -> Iterator[Machine]:
    """The machine of a file: a capture, or the description of a software machine in TOML; None: this machine.

    Raises MachineError.
    """
    if file is None:
        yield Machine(DirectorySource(), _node, _user(), _holders)
        return
    _check_regular(file)
    if _is_json(file):
        yield load(file)
    else:
        from ioas.soft.host import SoftHost

        with SoftHost(machine=file) as host:
            nodes = {path: Node(0o600, 0, 0) for path in host.nodes}
            by_name = {unit.name: unit for unit in host.system.units}

            def bypass(name: str) -> str | None:
                unit = by_name.get(name)
                return host.system.isolation if unit is not None and not unit.geometry.force_aperture else None

            yield Machine(host.tree, nodes.get, bypass=bypass)


def _check_regular(file: str | os.PathLike[str]) -> None:
    """Raises MachineError: reading it need not end, as of a pipe or /dev/zero."""
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError):  # the reader of descriptions says it
        return
    if not stat.S_ISREG(mode):
        raise MachineError(f"{os.fspath(file)} is not a regular file")


def _is_json(file: str | os.PathLike[str]) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(64).lstrip()[:1] == b"{"
    except (OSError, ValueError):  # the reader of descriptions says it
        return False


def _node(path: str) -> Node | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Node(found.st_mode & 0o777, found.st_uid, found.st_gid, acl_of(path))


def _user() -> User:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    effective = 0
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                effective = int(line.split()[1], 16)
    return User(
        os.geteuid(),
        frozenset({os.getegid(), *os.getgroups()}),
        None if limit == resource.RLIM_INFINITY else limit,
        frozenset(number for number in range(64) if effective >> number & 1),
    )


def _holders(path: str) -> Sequence[str]:
    """The programs that have `path` open, as far as this user may see: "qemu-system-x86 (pid 17)"."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if path not in _open_files(pid):
            continue
        with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            found.append(f"{comm.read().strip()} (pid {pid})")
    return found


def _open_files(pid: str) -> Iterator[str]:
    """The paths that a process has open; none for another user's, or when it has ended."""
    with suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                yield os.readlink(f"/proc/{pid}/fd/{fd}")
