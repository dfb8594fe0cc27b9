"""The same trap, compiled: `trap.c` makes the system calls of the accesses that are most frequent.

Optional. It is built when ioas is installed, where there is a C compiler (`hatch_build.py`); without it, or with
``IOAS_COMPILED=no``, everything goes by `ioas.run.mmio.faults`, which takes half as long again. What it does is
described there. One that was built from other sources than stand here - they have been updated, and ioas has not been
installed anew - does not fit this module, and counts as none.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import time
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path

from ioas.run.jobs import NUDGE
from ioas.run.mmio.bus import Inode, Windows
from ioas.run.mmio.near import Near

LIBRARY = Path(__file__).with_name("native.so")
SOURCES = tuple(LIBRARY.with_name(name) for name in ("trap.c", "poll.c"))
"""In the order in which the compiled part has their digest."""
SWITCH = "IOAS_COMPILED"
_DIGEST = 64
_WORDS = 8
_THREAD, _STATUS, _WINDOW, _OFFSET, _SIZE, _STORE, _VALUE, _NEAR = range(_WORDS)
_ACCESS = 0
_WINDOWS = 64
_LONGEST = 15
_WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Move:
    """A move between a general register, or to memory a constant, and memory; as `ioas.run.mmio.decode` finds it."""

    length: int
    """Bytes of the instruction."""
    size: int
    """Bytes of the access. A load clears the rest of the register."""
    store: bool
    register: int
    """Word of the registers; -1 for a constant."""
    constant: int
    base: int
    """Of the address, which is base + index * scale + displacement; -1: it is not of that form."""
    index: int
    scale: int
    displacement: int


class Missing(Exception):  # noqa: N818 - a state, not an error
    """There is no compiled part to use; the text says why."""


def library() -> ctypes.CDLL | None:
    """The compiled part; None where there is none that fits, or it is not wanted."""
    try:
        return load()
    except Missing:
        return None


def load() -> ctypes.CDLL:
    """The compiled part. Raises Missing."""
    if os.environ.get(SWITCH) == "no":
        raise Missing(f"{SWITCH} is no")
    if not LIBRARY.exists():
        raise Missing("no C compiler when ioas was installed")
    try:
        compiled = ctypes.CDLL(str(LIBRARY))
        built_from = (ctypes.c_char * _DIGEST).in_dll(compiled, "compiled_sources").raw
        here = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()
    except (OSError, ValueError) as error:
        raise Missing(f"{error}; install ioas anew") from error
    if built_from != here.encode():
        raise Missing("built from other sources than are here now; install ioas anew, or `make setup` in its tree")
    return compiled


class Accesses:
    """``wait()`` for tracees, as `ptrace.Waiter`, that serves what accesses it can on the way. For the tracer alone."""

    def __init__(self, compiled: ctypes.CDLL, jobs: Sized) -> None:
        """`jobs`: what the tracer has to do besides."""
        compiled.trap_size.restype = ctypes.c_uint64
        compiled.trap_set_near.restype = ctypes.c_uint64
        self._state = ctypes.create_string_buffer(compiled.trap_size())
        self._words = memoryview(self._state).cast("B")[: 8 * _WORDS].cast("q")
        self._values = memoryview(self._state).cast("B")[: 8 * _WORDS].cast("Q")
        self._at = ctypes.byref(self._state)
        compiled.trap_set_nudge(self._at, NUDGE)
        self._next, self._go_on = compiled.trap_next, compiled.trap_go_on
        self._compiled = compiled
        self._finish = compiled.trap_finish
        self._windows: dict[int, Windows] = {}
        self._indexes: dict[Inode, int] = {}
        self._made = 0
        self.near = Near(self._set_near)
        self._jobs = jobs

    def __call__(self) -> tuple[int, int]:
        """The next thread that has stopped or ended for another reason, and its status. Raises as `ptrace.wait`."""
        words, at, jobs = self._words, self._at, self._jobs
        found = self._next(at)
        while found == _ACCESS and self._carry_out():
            if jobs or not words[_NEAR]:
                self._release(words[_THREAD])
                raise InterruptedError
            found = self._go_on(at)
        if found < 0:
            raise OSError(-found, os.strerror(-found))
        return words[_THREAD], words[_STATUS]

    def _carry_out(self) -> bool:
        """Make the access; whether it has been made. Otherwise it is for `ioas.run.mmio.faults`, which knows why."""
        words, values = self._words, self._values
        window = self._windows[words[_WINDOW]]
        try:
            if words[_STORE]:
                data = values[_VALUE].to_bytes(_WORD_BYTES, "little")[: words[_SIZE]]
                return window.store(words[_OFFSET], data)
            loaded = window.load(words[_OFFSET], words[_SIZE])
        except Exception:  # a bug, which shows there again, and is reported
            return False
        if loaded is None:
            return False
        values[_VALUE] = int.from_bytes(loaded, "little")
        return True

    def _release(self, thread: int) -> None:
        arrived = time.monotonic_ns()
        with contextlib.suppress(ProcessLookupError):  # killed while it stood
            if self._finish(self._at) == 0:
                self.near.resume(thread, arrived)

    def know_window(self, inode: Inode, windows: Windows) -> None:
        """Serve what is mapped of that file."""
        index = self._indexes.get(inode)
        if index is None:
            index, self._made = self._made % _WINDOWS, self._made + 1
            self._indexes = {known: at for known, at in self._indexes.items() if at != index} | {inode: index}
            device, number = map(ctypes.c_uint64, inode)
            self._compiled.trap_learn_window(self._at, ctypes.c_uint64(index), device, number)
        self._windows[index] = windows

    def know_thread(self, thread: int, memory: int, maps: int) -> None:
        """Serve that thread; descriptors of its /proc/PID/mem and maps, which stay open until `forget_thread`."""
        self._compiled.trap_learn_thread(self._at, thread, memory, maps)

    def forget_thread(self, thread: int) -> None:
        """It is gone, or has other memory now."""
        self._compiled.trap_forget_thread(self._at, thread)

    def know_move(self, code: bytes, move: Move) -> None:
        """Serve the instruction that `code` begins with, 15 bytes."""
        if len(code) == _LONGEST:
            place = move.register, move.base, move.index, move.scale
            wide = ctypes.c_uint64(move.displacement), ctypes.c_uint64(move.constant)
            self._compiled.trap_learn_move(self._at, code, move.length, move.size, move.store, *place, *wide)

    def _set_near(self, thread: int, near: bool) -> int:
        count: int = self._compiled.trap_set_near(self._at, thread, near)
        return count
