"""Which processes have a device node open, as far as /proc lets this process see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def holders(path: str) -> list[str]:
    """The processes that have `path` open, like "process 123 (qemu)", this one last."""
    pids = [pid for pid in _pids() if any(target == path for target in _targets(pid))]
    return [_named(pid) for pid in sorted(pids, key=lambda pid: (pid == os.getpid(), pid))]


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name)


def _targets(pid: int) -> Iterator[str]:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:  # it has ended, or is another user's
        return
    for name in names:
        try:
            yield os.readlink(f"{directory}/{name}")
        except OSError:
            continue


def _named(pid: int) -> str:
    if pid == os.getpid():
        return "this process"
    try:
        name = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        name = "ended"
    return f"process {pid} ({name})"
