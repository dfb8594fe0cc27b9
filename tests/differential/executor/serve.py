"""Carry out batches of scripts that appear in a directory, until told to stop; each script in a process of its own.

    python3 serve.py DIRECTORY [local MACHINE]

A batch is a file `N.ask` (N counts from 0) with a JSON list of scripts; the answer is `N.answer`, a list of lists of
lines. A directory is what a guest, a supervised program and this machine all can see. `local`: on software hosts in
this process, of the machine file MACHINE.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "oracle")]

from executor.system import System
from executor.world import World
from questions.calls import PAGE

_IDLE = 600
"""Seconds without a batch, after which nobody is there any more."""
_POLL = 0.003
_SCRIPT_TIME = 60
_IPC_LOCK = 14


def carry_out(script: dict, system: System) -> list[str]:
    """The answers to one script."""
    world = World(system)
    try:
        if script.get("limit") is not None:
            _limit(script["limit"])
        return world.run(script["steps"])
    finally:
        world.end()


def _limit(pages: int) -> None:
    """No more locked memory than this, and no privilege to lock more."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    libc.capget(header, sets)
    sets[0] &= ~(1 << _IPC_LOCK)
    libc.capset(header, sets)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (pages * PAGE, pages * PAGE))


def in_child(script: dict) -> list[str]:
    """As `carry_out`, in a child: whatever it leaves behind goes with it."""
    there, here = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(there)
        os.setsid()
        signal.alarm(_SCRIPT_TIME)
        try:
            lines = carry_out(script, System())
        except Exception:
            lines = ["executor failed", traceback.format_exc()]
        with open(here, "w") as pipe:
            json.dump(lines, pipe)
        os._exit(0)
    os.close(here)
    text = _read(there)
    if text is None:
        return ["hangs", *_stacks(pid)]
    status = os.waitpid(pid, 0)[1]
    return json.loads(text) if text else [f"ended with status {status}"]


def _read(pipe: int) -> str | None:
    """All that a child writes; None when it stays, although it has been told to end."""
    parts = []
    with open(pipe, "rb", buffering=0) as file:
        while select.select([file], [], [], 2 * _SCRIPT_TIME)[0]:
            part = file.read(1 << 16)
            if not part:
                return b"".join(parts).decode()
            parts.append(part)
    return None


def _stacks(pid: int) -> list[str]:
    """Where the kernel has a child and its children, as far as it says."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(directory.name)) == pid:
                found.append(f"{directory.name}: {(directory / 'stack').read_text()}")
        except OSError:
            continue
    return found


def serve(
    directory: Path, run: Callable[[dict], list[str]], after: Callable[[Path], None] = lambda directory: None
) -> None:
    """Answer batches until there is a file `stop`, or nothing to do for long."""
    number, idle = 0, time.monotonic()
    while time.monotonic() - idle < _IDLE:
        ask = directory / f"{number}.ask"
        if ask.exists():
            answers = [run(script) for script in json.loads(ask.read_text())]
            after(directory)
            unfinished = directory / f"{number}.unfinished"
            unfinished.write_text(json.dumps(answers))
            unfinished.rename(directory / f"{number}.answer")
            number, idle = number + 1, time.monotonic()
        elif (directory / "stop").exists():
            return
        else:
            time.sleep(_POLL)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if sys.argv[2:3] == ["local"]:
        from executor.local import run_locally, write_sites

        serve(place, lambda script: run_locally(script, sys.argv[3]), write_sites)
    else:
        serve(place, in_child)
