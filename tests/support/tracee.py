"""A stopped process whose memory and registers tests set up: to carry out instructions, by the processor or by us.

The process is a fork of this one that does nothing. Three places are mapped in it: ordinary memory, a window (a file
without contents, so that every access is SIGBUS), and code.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
from collections.abc import Iterator

from ioas.run import ptrace
from ioas.run.mmio.bus import Inode
from ioas.run.mmio.stopped import Space, Stopped
from ioas.run.ptrace import R, Stop

PAGE = 4096
MEMORY, WINDOW, CODE, STACK = 0x7000_0000, 0x7400_0000, 0x7800_0000, 0x7C00_0000
"""In reach of 32 bits, and above the heap that a Python at a fixed address has grown."""
ROOM = 4 * PAGE
_NT_X86_XSTATE = 0x202
_GETREGSET, _SETREGSET = 0x4204, 0x4205
_FIXED, _SHARED, _PRIVATE, _ANONYMOUS = 0x100000, 0x01, 0x02, 0x20
_ALL = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Device:
    """A window onto bytes, that keeps a log of the accesses to it (implements `ioas.run.mmio.bus.Windows`)."""

    def __init__(self) -> None:
        self.contents = bytearray(ROOM)
        self.log: list[tuple[str, int, int]] = []
        self.on = True

    def load(self, offset: int, length: int) -> bytes | None:
        self.log.append(("read", offset, length))
        return bytes(self.contents[offset : offset + length]) if self.on else None

    def store(self, offset: int, data: bytes) -> bool:
        self.log.append(("write", offset, len(data)))
        self.contents[offset : offset + len(data)] = data
        return self.on

    def answers(self, offset: int) -> bool:
        return self.on


class Tracee:
    """See the module. `device` stands behind WINDOW."""

    def __init__(self, pid: int, device: Device, inode: Inode) -> None:
        self.pid = pid
        self.device = device
        self.space = Space(pid, pid, {inode: device})
        self.cpu = Stopped(self.wait)
        self.clean = self.extended()
        self.cpu.begin(pid, self.space)
        self.start = bytes(self.cpu.words)

    def wait(self, thread: int) -> Stop:
        stop = ptrace.wait(thread)
        if stop is None or not stop.stands:
            raise ProcessLookupError
        return stop

    def set_up(self, code: bytes, registers: dict[R, int], flags: int = 0x202) -> None:
        """Put `code` at CODE and the thread before it, with these registers, others zero, vectors as at the start."""
        words = self.cpu.words
        ctypes.memmove(words, self.start, len(self.start))
        for register in R:
            if register <= R.RDI:
                words[register] = 0
        words[R.RIP], words[R.RSP], words[R.EFLAGS] = CODE, STACK + ROOM // 2, flags
        words[R.ORIG_RAX] = (1 << 64) - 1
        for register, value in registers.items():
            words[register] = value & (1 << 64) - 1
        os.pwrite(self.space.memory, code + b"\xcc" * 16, CODE)
        os.pwrite(self.space.memory, bytes(ROOM), STACK)
        self.cpu.commit()
        self.set_extended(self.clean)

    def fill(self, address: int, data: bytes) -> None:
        os.pwrite(self.space.memory, data, address)

    def peek(self, address: int, length: int) -> bytes:
        return os.pread(self.space.memory, length, address)

    def step(self) -> int:
        """Let the processor carry out one instruction; the signal that it ended with."""
        ptrace.step(self.pid)
        stop = self.wait(self.pid)
        self.cpu.begin(self.pid, self.space)
        return stop.signal

    def extended(self) -> bytes:
        """x87, vector and mask registers."""
        return self._regset(_GETREGSET, ctypes.create_string_buffer(16384))

    def set_extended(self, state: bytes) -> None:
        self._regset(_SETREGSET, ctypes.create_string_buffer(state, len(state)))

    def _regset(self, request: int, buffer: ctypes.Array[ctypes.c_char]) -> bytes:
        vector = Iovec(ctypes.addressof(buffer), len(buffer))
        ptrace._request(request, self.pid, _NT_X86_XSTATE, ctypes.addressof(vector))
        return buffer.raw[: vector.length]


def _map(address: int, length: int, sharing: int, fd: int) -> None:
    if _libc.mmap(address, length, _ALL, _FIXED | sharing, fd, 0) != address:
        raise OSError(ctypes.get_errno(), "mmap")


@contextlib.contextmanager
def tracee() -> Iterator[Tracee]:
    window = os.memfd_create("window")
    status = os.fstat(window)
    pid = os.fork()
    if pid == 0:
        try:
            for address in (MEMORY, CODE, STACK):
                _map(address, ROOM, _PRIVATE | _ANONYMOUS, -1)
            _map(WINDOW, ROOM, _SHARED, window)
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    try:
        os.waitpid(pid, os.WUNTRACED)
        ptrace.seize(pid, ptrace.OPTION_EXIT_KILL)
        ptrace.wait(pid)  # of its group stop
        os.kill(pid, signal.SIGCONT)
        ptrace.resume(pid)
        stop = ptrace.wait(pid)
        while stop is not None and stop.stands and stop.signal != signal.SIGCONT:
            ptrace.resume(pid)
            stop = ptrace.wait(pid)
        made = Tracee(pid, Device(), (status.st_dev, status.st_ino))
        try:
            yield made
        finally:
            made.space.close()
    finally:
        os.close(window)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
