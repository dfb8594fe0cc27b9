"""ptrace(2) of x86-64, raw: take hold of a thread, stop it, look at and change its registers, let it go.

Only PTRACE_SEIZE is used, which stops nobody and sends no signal. All of it must be called by the thread of ours that
seized the tracee: the kernel knows the tracer as a thread, and answers ESRCH to every other one - as it does while the
tracee is not in a stop. Waits look at the calling thread's own tracees alone (__WNOTHREAD), because a wait for
anything would take the stops that another thread of ours waits for.

Numbers are those of include/uapi/linux/ptrace.h, wait.h and arch/x86/include/asm/user_64.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import threading
from enum import IntEnum
from typing import NamedTuple

OPTION_SYSGOOD = 1
"""A stop at a system call shows as SIGTRAP | 0x80, not as a plain SIGTRAP."""
OPTION_TRACE_FORK = 1 << 1
OPTION_TRACE_VFORK = 1 << 2
OPTION_TRACE_CLONE = 1 << 3
OPTION_TRACE_EXEC = 1 << 4
OPTION_TRACE_VFORK_DONE = 1 << 5
OPTION_TRACE_EXIT = 1 << 6
OPTION_EXIT_KILL = 1 << 20

EVENT_EXEC = 4
EVENT_STOP = 128
"""`Stop.event` of a stop that PTRACE_INTERRUPT asked for, of a group stop, and of a new thread's first one."""

_PTRACE = 101
_CONT, _SINGLESTEP, _DETACH, _SYSCALL = 7, 9, 17, 24
_GETREGS, _SETREGS = 12, 13
_GETEVENTMSG, _GETSIGINFO, _SETSIGINFO = 0x4201, 0x4202, 0x4203
_SEIZE, _INTERRUPT, _LISTEN = 0x4206, 0x4207, 0x4208
_GETSIGMASK, _SETSIGMASK = 0x420A, 0x420B
_SIGINFO_SIZE = 128
_WALL, _WNOTHREAD = 0x40000000, 0x20000000
OWN = _WALL | _WNOTHREAD
"""For wait(2): threads as well as processes, but only tracees and children of the calling thread."""
_TRAP_OF_CALL = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_sigaction = _libc.sigaction
_sigaction.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SA_NOCLDSTOP = 1
_LOUD, _QUIET = (struct.pack("=Q128siiQ", 0, b"", flags, 0, 0) for flags in (0, _SA_NOCLDSTOP))
"""struct sigaction of the C library: the default action."""
_wait = _libc.waitpid
_wait.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


class R(IntEnum):
    """Where a register stands in struct user_regs_struct, in words."""

    R15 = 0
    R14 = 1
    R13 = 2
    R12 = 3
    RBP = 4
    RBX = 5
    R11 = 6
    R10 = 7
    R9 = 8
    R8 = 9
    RAX = 10
    RCX = 11
    RDX = 12
    RSI = 13
    RDI = 14
    ORIG_RAX = 15
    RIP = 16
    CS = 17
    EFLAGS = 18
    RSP = 19
    SS = 20
    FS_BASE = 21
    GS_BASE = 22
    DS = 23
    ES = 24
    FS = 25
    GS = 26


Registers = ctypes.c_uint64 * len(R)
"""General registers as words, indexed by `R`."""


class Stop(NamedTuple):
    """What a wait has found of a tracee: that it stands, or has ended."""

    thread: int
    status: int
    """As wait(2) gives it."""

    @property
    def stands(self) -> bool:
        """Whether it is stopped; otherwise it has ended."""
        return self.status & 0xFF == 0x7F

    @property
    def signal(self) -> int:
        """The signal of the stop; SIGTRAP for most events."""
        return self.status >> 8 & 0xFF

    @property
    def event(self) -> int:
        """PTRACE_EVENT_*, 0 for a signal that is about to be delivered."""
        return self.status >> 16

    @property
    def at_call(self) -> bool:
        """Whether it stands at the entry or exit of a system call (needs OPTION_SYSGOOD)."""
        return self.stands and not self.event and self.signal == _TRAP_OF_CALL


def _request(number: int, thread: int, address: object = None, data: object = None) -> int:
    result: int = _syscall(_PTRACE, number, thread, address, data)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def seize(thread: int, options: int) -> None:
    """Become the tracer of `thread`, which goes on running. Raises OSError: EPERM (traced already, or not allowed)."""
    _request(_SEIZE, thread, None, options)


def interrupt(thread: int) -> None:
    """Have `thread` stop before it returns to its program (EVENT_STOP); a system call that can be is broken off."""
    _request(_INTERRUPT, thread)


def resume(thread: int, number: int = 0) -> None:
    """Let it run on, delivering signal `number` (0: none)."""
    _request(_CONT, thread, None, number)


def resume_to_call(thread: int, number: int = 0) -> None:
    """Let it run to the next entry or exit of a system call."""
    _request(_SYSCALL, thread, None, number)


def step(thread: int, number: int = 0) -> None:
    """Let it run one instruction. Ends in a forced SIGTRAP, which resets a handler that is blocked or ignored."""
    _request(_SINGLESTEP, thread, None, number)


def listen(thread: int) -> None:
    """Leave it in its group stop, able to tell when that ends."""
    _request(_LISTEN, thread)


def detach(thread: int, number: int = 0) -> None:
    """Let go of a tracee that stands; it runs on, with signal `number` delivered."""
    _request(_DETACH, thread, None, number)


def get_registers(thread: int, registers: ctypes.Array[ctypes.c_uint64]) -> None:
    """Read the general registers into `registers`, a `Registers`."""
    _request(_GETREGS, thread, None, ctypes.addressof(registers))


def set_registers(thread: int, registers: ctypes.Array[ctypes.c_uint64]) -> None:
    """Set the general registers."""
    _request(_SETREGS, thread, None, ctypes.addressof(registers))


def event_message(thread: int) -> int:
    """What belongs to the event that it stands at, such as the id of the new thread."""
    word = ctypes.c_uint64()
    _request(_GETEVENTMSG, thread, None, ctypes.addressof(word))
    return word.value


def get_siginfo(thread: int) -> bytearray:
    """The siginfo_t, 128 bytes, of the signal that is about to be delivered. Raises OSError(EINVAL) at other stops."""
    raw = bytearray(_SIGINFO_SIZE)
    _request(_GETSIGINFO, thread, None, ctypes.addressof(ctypes.c_char.from_buffer(raw)))
    return raw


def set_siginfo(thread: int, raw: bytearray) -> None:
    """Change it; 128 bytes."""
    _request(_SETSIGINFO, thread, None, ctypes.addressof(ctypes.c_char.from_buffer(raw)))


def get_signal_mask(thread: int) -> int:
    """The signals that it has blocked: bit N - 1 for signal N."""
    word = ctypes.c_uint64()
    _request(_GETSIGMASK, thread, 8, ctypes.addressof(word))
    return word.value


def set_signal_mask(thread: int, mask: int) -> None:
    """Set the signals that it has blocked."""
    word = ctypes.c_uint64(mask)
    _request(_SETSIGMASK, thread, 8, ctypes.addressof(word))


class Waiter:
    """``wait()`` for any tracee, with what it needs prepared, for who waits often."""

    def __init__(self) -> None:
        self._status = ctypes.c_int()
        self._wait = _libc["waitpid"]
        self._arguments = (ctypes.c_int(-1), ctypes.byref(self._status), ctypes.c_int(_WALL | _WNOTHREAD))

    def __call__(self) -> tuple[int, int]:
        """The thread and its status, as `Stop` has them. Raises as `wait`."""
        found: int = self._wait(*self._arguments)
        if found < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return found, self._status.value


def wait(thread: int = -1, *, block: bool = True) -> Stop | None:
    """Wait for a tracee of the calling thread (-1: any) to stop or end; None when not `block` and nothing has.

    The end of a tracee is collected thereby. Raises ChildProcessError when there is none to wait for, and
    InterruptedError for a signal to the calling thread.
    """
    status = ctypes.c_int()
    found: int = _wait(thread, ctypes.addressof(status), _WALL | _WNOTHREAD | (0 if block else os.WNOHANG))
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return Stop(found, status.value) if found else None


def tracees_left() -> bool:
    """Whether the calling thread has tracees, whatever they do."""
    try:
        os.waitid(os.P_ALL, 0, OWN | os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class QuietStops:
    """No SIGCHLD for children and tracees that merely stop (SA_NOCLDSTOP), while anyone wants that.

    The stops of tracees are awaited; a signal for each would wake a thread that has nothing to do with them. What
    stops in earnest meanwhile is signalled afterwards.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def begin(self) -> None:
        """Be quiet until `end`."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                _sigaction(signal.SIGCHLD, _QUIET, None)

    def end(self) -> None:
        """Undo one `begin`. Called by the thread that the children are of."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            _sigaction(signal.SIGCHLD, _LOUD, None)
        with contextlib.suppress(ChildProcessError):
            if os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG | os.WNOWAIT | _WNOTHREAD):
                os.kill(os.getpid(), signal.SIGCHLD)
