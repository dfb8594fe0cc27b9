"""The requests that every trapped access makes, with their arguments prepared once: they are most of its costs.

And one thing that ptrace(2) lacks: that the program goes on where we are. A kernel that wakes a thread whose
processor is busy - with us, who are about to sleep - puts it on an idle one. A wake-up across processors takes longer
than all the rest of an access, in a virtual machine several times as long. So this thread stays on one processor, and
the other one may run nowhere else while it is being woken. It does not stay so: what the program sees of its
affinity, and what the scheduler makes of it a moment later, are as before. Where a program has bound its threads, we
go there.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ioas.run.mmio.registers import WORDS

_CONT, _GETREGS, _SETREGS, _GETSIGINFO = 7, 12, 13, 0x4202
_SIGINFO_WORDS = 16
_MASK_WORDS = 128
_MASK_SIZE = 8 * _MASK_WORDS

_libc = ctypes.PyDLL(None)  # none of these waits, so the interpreter lock is kept
_ptrace = _libc["ptrace"]
_get_affinity = _libc["sched_getaffinity"]
_set_affinity = _libc["sched_setaffinity"]


class Quick:
    """Requests to the thread that stands. One object for the tracer's thread."""

    def __init__(self) -> None:
        self.words = (ctypes.c_uint64 * WORDS)()
        """The registers."""
        self.siginfo = (ctypes.c_uint64 * _SIGINFO_WORDS)()
        """Number and errno in the first word, the code in the second, the address in the third."""
        self._words_at = ctypes.byref(self.words)
        self._siginfo_at = ctypes.byref(self.siginfo)
        self._home = (ctypes.c_uint64 * _MASK_WORDS)()
        self._home_at = ctypes.byref(self._home)
        self._theirs = (ctypes.c_uint64 * _MASK_WORDS)()
        self._theirs_at = ctypes.byref(self._theirs)
        self._size = ctypes.c_size_t(_MASK_SIZE)
        self._home_word = self._home_bit = 0

    def get_siginfo(self, thread: int) -> None:
        """Fill `siginfo`. Raises ProcessLookupError."""
        if _ptrace(_GETSIGINFO, thread, None, self._siginfo_at) < 0:
            raise _gone(thread)

    def get_registers(self, thread: int) -> None:
        """Fill `words`. Raises ProcessLookupError."""
        if _ptrace(_GETREGS, thread, None, self._words_at) < 0:
            raise _gone(thread)

    def resume(self, thread: int) -> None:
        """Let it go on with the registers in `words`, near us. Raises ProcessLookupError."""
        if _ptrace(_SETREGS, thread, None, self._words_at) < 0:
            raise _gone(thread)
        _get_affinity(thread, self._size, self._theirs_at)
        if not self._theirs[self._home_word] & self._home_bit:
            self._move(thread)
        _set_affinity(thread, self._size, self._home_at)
        _ptrace(_CONT, thread, None, None)
        _set_affinity(thread, self._size, self._theirs_at)

    def _move(self, thread: int) -> None:
        """Go to a processor that `thread` may use: the one that it has used last."""
        processor = _last_processor(thread)
        self._home[self._home_word] = 0
        self._home_word, self._home_bit = processor // 64, 1 << processor % 64
        self._home[self._home_word] = self._home_bit
        _set_affinity(0, self._size, self._home_at)


def _last_processor(thread: int) -> int:
    """The processor that a thread ran on last (proc_pid_stat(5), field 39). Raises ProcessLookupError."""
    try:
        with open(f"/proc/{thread}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[36])
    except FileNotFoundError:
        raise _gone(thread) from None


def _gone(thread: int) -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, f"{os.strerror(errno.ESRCH)}: thread {thread}")
