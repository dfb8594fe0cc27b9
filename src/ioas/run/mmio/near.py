"""Letting a thread go on where we are, which ptrace(2) lacks.

A kernel that wakes a thread whose processor is busy - with us, who are about to sleep - puts it on an idle one. A
wake-up across processors takes longer than all the rest of an access, in a virtual machine several times as long. So
this thread stays on one processor, and the other one may run nowhere else while it is being woken. Where a program has
bound its threads, we go there.

A thread that does nothing but access the device, again and again, is *kept* there until it stops doing so: confining
it and letting it go for each access costs a fifth of it. Before the program asks for its affinity or sets it, all are
let go (`Mmio.let_spread`), and a child does not inherit ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable

from ioas.run.jobs import NUDGE

_MASK_WORDS = 128
_MASK_SIZE = 8 * _MASK_WORDS
_SOON = 60_000
"""Nanoseconds: who comes back within them does little else."""
_OFTEN = 8
"""Times that it must have done so in a row to be kept."""
_TICK = 0.004
_FEW = 80
"""Accesses in a tick: who makes fewer is let go."""
_PAUSE = 0.1
"""Seconds for which nobody is kept when the program has looked at its affinity."""
_FREE = 20_000_000
"""Nanoseconds for which a thread is not kept again."""
_CONT = 7

_libc = ctypes.PyDLL(None)  # none of these waits, so the interpreter lock is kept
_ptrace = _libc["ptrace"]
_get_affinity = _libc["sched_getaffinity"]
_set_affinity = _libc["sched_setaffinity"]

Count = Callable[[int, bool], int]
"""Told that a thread is kept, or not any more; how many accesses it has made since it was called last for it."""


class Near:
    """Where threads go on. One object for the tracer's thread, and for its alone."""

    def __init__(self, count: Count | None = None) -> None:
        """`count`: who serves the accesses of kept threads, if that is not `resume`."""
        self._home = (ctypes.c_uint64 * _MASK_WORDS)()
        self._home_at = ctypes.byref(self._home)
        self._theirs = (ctypes.c_uint64 * _MASK_WORDS)()
        self._theirs_at = ctypes.byref(self._theirs)
        self._size = ctypes.c_size_t(_MASK_SIZE)
        self._home_word = self._home_bit = 0
        self._kept: dict[int, bytes] = {}
        """The affinity that each has by right."""
        self._given: dict[int, bytes] = {}
        """The affinity that children got whose makers are not known yet."""
        self._own_counts: dict[int, int] = {}
        self._count = count or self._count_own
        self._recent: dict[int, tuple[int, int]] = {}
        """When each went on last (or may be kept again), and how often in a row it has come back soon."""
        self._next_tick = self._not_before = 0.0
        self._timer: _Ticks | None = None

    def resume(self, thread: int, arrived: int) -> None:
        """Let it go on, near us; it has stopped at `arrived` (time.monotonic_ns). Raises ProcessLookupError."""
        if thread in self._kept:
            self._own_counts[thread] = self._own_counts.get(thread, 0) + 1
            _ptrace(_CONT, thread, None, None)
            return
        _get_affinity(thread, self._size, self._theirs_at)
        if not self._theirs[self._home_word] & self._home_bit:
            self._move(thread)
        _set_affinity(thread, self._size, self._home_at)
        if self._comes_often(thread, arrived):
            self._keep(thread)
            _ptrace(_CONT, thread, None, None)
        else:
            _ptrace(_CONT, thread, None, None)
            _set_affinity(thread, self._size, self._theirs_at)

    def tick(self) -> None:
        """Let go of kept threads that have other things to do now. To be called when a wait was interrupted."""
        if not self._kept or time.monotonic() < self._next_tick:
            return
        for thread in tuple(self._kept):
            if self._count(thread, True) < _FEW:
                self._let_go(thread)
                self._recent[thread] = (time.monotonic_ns() + _FREE, 0)
        self._next_tick = time.monotonic() + _TICK

    def let_all_go(self) -> None:
        """Give all of them their affinity back, and keep nobody for the next moment."""
        self._not_before = time.monotonic() + _PAUSE
        for thread in tuple(self._kept):
            self._let_go(thread)

    def born(self, child: int, makers: Iterable[int]) -> None:
        """`child` stands before its first instruction, and which of `makers` has made it will be told (`forked`)."""
        if self._affinity(child) != bytes(self._home):
            return
        masks = [mask for maker in makers if (mask := self._kept.get(maker) or self._affinity(maker))]
        if masks:
            self._given[child] = masks[0]
            _set_affinity(child, self._size, masks[0])

    def forked(self, parent: int, child: int) -> None:
        """`parent` has made `child`, which has inherited its affinity: ours, if it was kept or just being woken.

        What the child has set meanwhile it keeps; it may be running (`born`).
        """
        ours = self._given.pop(child, None) or bytes(self._home)
        if parent in self._kept:
            self._let_go(parent)
        mask = self._affinity(parent)
        if mask and self._affinity(child) == ours:
            _set_affinity(child, self._size, mask)

    def executes(self, former: int, thread: int) -> None:
        """A thread executes another program, and has the number `thread` now; it is about to be let go of."""
        if former in self._kept:
            self._kept[thread] = self._kept.pop(former)
            self._let_go(thread)

    def ended(self, thread: int) -> None:
        """A thread is gone; its number may be another's."""
        self._recent.pop(thread, None)
        self._given.pop(thread, None)
        if self._kept.pop(thread, None) and self._timer and not self._kept:
            self._timer.every(0)

    def close(self) -> None:
        """Let everybody go, and stop."""
        self.let_all_go()
        if self._timer:
            self._timer.close()
            self._timer = None

    def _affinity(self, thread: int) -> bytes:
        """As it is now; empty when the thread is gone."""
        return bytes(self._theirs) if _get_affinity(thread, self._size, self._theirs_at) == 0 else b""

    def _comes_often(self, thread: int, arrived: int) -> bool:
        last, times = self._recent.get(thread, (0, 0))
        if arrived < last:
            return False
        times = times + 1 if arrived - last < _SOON else 0
        self._recent[thread] = (time.monotonic_ns(), times)
        return times >= _OFTEN

    def _keep(self, thread: int) -> None:
        if time.monotonic() < self._not_before:
            _set_affinity(thread, self._size, self._theirs_at)
            return
        self._kept[thread] = bytes(self._theirs)
        self._count(thread, True)
        if len(self._kept) == 1:
            self._next_tick = time.monotonic() + _TICK
            self._timer = self._timer or _Ticks()
            self._timer.every(_TICK)

    def _let_go(self, thread: int) -> None:
        """Give it its affinity back, unless somebody else has given it another one meanwhile."""
        mask = self._kept.pop(thread)
        self._count(thread, False)
        if self._timer and not self._kept:
            self._timer.every(0)
        _get_affinity(thread, self._size, self._theirs_at)
        if bytes(self._theirs) == bytes(self._home):
            _set_affinity(thread, self._size, mask)

    def _count_own(self, thread: int, kept: bool) -> int:
        return self._own_counts.pop(thread, 0)

    def _move(self, thread: int) -> None:
        """Go to a processor that `thread` may use: the one that it has used last."""
        for kept in tuple(self._kept):
            self._let_go(kept)
        processor = _last_processor(thread)
        self._home[self._home_word] = 0
        self._home_word, self._home_bit = processor // 64, 1 << processor % 64
        self._home[self._home_word] = self._home_bit
        _set_affinity(0, self._size, self._home_at)
        _get_affinity(thread, self._size, self._theirs_at)


class _Ticks:
    """A timer (timer_create(2)) that interrupts the waits of the thread that makes it."""

    _THREAD_ID = 4  # SIGEV_THREAD_ID: the signal is for one thread

    def __init__(self) -> None:
        event = (ctypes.c_int32 * 16)(0, 0, NUDGE, self._THREAD_ID, threading.get_native_id())
        self._id = ctypes.c_void_p()
        if _libc.timer_create(1, event, ctypes.byref(self._id)) < 0:  # CLOCK_MONOTONIC
            raise OSError(errno.EAGAIN, "no timer is to be had")

    def every(self, seconds: float) -> None:
        """Interrupt it that often, if it waits then; 0: not any more."""
        nanoseconds = int(seconds * 1e9)
        times = (ctypes.c_int64 * 4)(0, nanoseconds, 0, nanoseconds)
        _libc.timer_settime(self._id, 0, times, None)

    def close(self) -> None:
        """Stop."""
        _libc.timer_delete(self._id)


def _last_processor(thread: int) -> int:
    """The processor that a thread ran on last (proc_pid_stat(5), field 39). Raises ProcessLookupError."""
    try:
        with open(f"/proc/{thread}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[36])
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, f"{os.strerror(errno.ESRCH)}: thread {thread}") from None
