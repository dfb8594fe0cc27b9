"""The requests that every trapped access makes, with their arguments prepared once: they are most of its costs."""

from __future__ import annotations

import ctypes
import errno
import os

from ioas.run.mmio.registers import WORDS

_GETREGS, _SETREGS, _GETSIGINFO = 12, 13, 0x4202
_SIGINFO_WORDS = 16

_libc = ctypes.PyDLL(None)  # none of these waits, so the interpreter lock is kept
_ptrace = _libc["ptrace"]


class Quick:
    """Requests to the thread that stands. One object for the tracer's thread."""

    def __init__(self) -> None:
        self.words = (ctypes.c_uint64 * WORDS)()
        """The registers."""
        self.siginfo = (ctypes.c_uint64 * _SIGINFO_WORDS)()
        """Number and errno in the first word, the code in the second, the address in the third."""
        self._words_at = ctypes.byref(self.words)
        self._siginfo_at = ctypes.byref(self.siginfo)

    def get_siginfo(self, thread: int) -> None:
        """Fill `siginfo`. Raises ProcessLookupError."""
        if _ptrace(_GETSIGINFO, thread, None, self._siginfo_at) < 0:
            raise _gone(thread)

    def get_registers(self, thread: int) -> None:
        """Fill `words`. Raises ProcessLookupError."""
        if _ptrace(_GETREGS, thread, None, self._words_at) < 0:
            raise _gone(thread)

    def set_registers(self, thread: int) -> None:
        """Give it the registers in `words`. Raises ProcessLookupError."""
        if _ptrace(_SETREGS, thread, None, self._words_at) < 0:
            raise _gone(thread)


def _gone(thread: int) -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, f"{os.strerror(errno.ESRCH)}: thread {thread}")
