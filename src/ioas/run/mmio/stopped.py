"""A stopped thread, as emulation sees it (implements `ioas.run.mmio.machine.Cpu`), and what its address space has.

All of it is for the tracer's thread: the kernel answers nobody else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Mapping

from ioas.run import ptrace
from ioas.run.kernel import Nr, Transfer
from ioas.run.mmio.bus import Areas, Inode, ProgramBus, Windows
from ioas.run.mmio.machine import (
    SCRATCH_CODE,
    SCRATCH_DATA,
    SCRATCH_ROOM,
    MemoryFault,
    NotEmulated,
    StepFault,
)
from ioas.run.mmio.quick import Quick
from ioas.run.mmio.registers import RAX, RIP
from ioas.run.ptrace import R, Stop

_PAGE = 4096
_BEHIND = SCRATCH_DATA - SCRATCH_CODE
_ALL_BUT_TRAP = (1 << 64) - 1 & ~(1 << signal.SIGTRAP - 1)
_MPROTECT = 10
_SYSCALL = b"\x0f\x05"
_AT_SYSINFO_EHDR = 33
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_PRIVATE_ANONYMOUS = 0x22


class Space:
    """The address space of a traced process: its memory, its areas, and scratch memory of ours in it."""

    def __init__(self, process: int, thread: int, files: Mapping[Inode, Windows]) -> None:
        """`thread`: one of `process` that lives. Raises OSError when it may not be looked into, or is gone."""
        self.process = process
        self.memory = os.open(f"/proc/{thread}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._areas = Areas(thread, files)
        except OSError:
            os.close(self.memory)
            raise
        self.bus = ProgramBus(self._areas)
        self.scratch = 0
        """Where code for `Stopped.step` is put, one page, with a page of data behind it; 0 before it is needed."""

    @property
    def maps(self) -> int:
        """The descriptor of its maps."""
        return self._areas.maps

    def close(self) -> None:
        """Close its descriptors."""
        os.close(self.memory)
        self._areas.close()


class Stopped:
    """The thread that stands now. One object serves them all, one after the other."""

    def __init__(self, wait: Callable[[int], Stop]) -> None:
        """`wait`: waits for the next stop of a thread (`Tracer.wait_for`)."""
        self.quick = Quick()
        self.words = self.quick.words
        self.thread = 0
        self.postponed = 0
        """A stop signal that came meanwhile and has to be sent again."""
        self._space: Space | None = None
        self._wait = wait
        self._transfer = Transfer()

    def begin(self, thread: int, space: Space) -> None:
        """`thread` stands: take its registers. Raises OSError(ESRCH)."""
        self.thread, self._space = thread, space
        space.bus.memory = self
        self.postponed = 0
        self.quick.get_registers(thread)

    def commit(self) -> None:
        """Give the thread the registers in `words`. Raises OSError(ESRCH)."""
        ptrace.set_registers(self.thread, self.words)

    def code(self, length: int) -> bytes:
        """Up to `length` bytes from the instruction pointer on."""
        return os.pread(self._memory, length, self.words[RIP])

    def read(self, address: int, length: int) -> bytes:
        """See `Cpu.read`."""
        try:
            data = self._transfer.read(self.thread, address, length)
        except OSError as error:
            raise _gone(error) from error
        if len(data) < length:
            raise MemoryFault(address + len(data))
        return data

    def write(self, address: int, data: bytes) -> None:
        """See `Cpu.write`."""
        try:
            count = self._transfer.write(self.thread, address, data)
        except OSError as error:
            raise _gone(error) from error
        if count < len(data):
            raise MemoryFault(address + count)

    def step(self, code: bytes, data: bytes) -> bytes:
        """See `Cpu.step`."""
        space = self._space
        if space is None:
            raise ProcessLookupError(errno.ESRCH, "no thread stands")
        scratch = space.scratch = space.scratch or self._map_scratch()
        os.pwrite(space.memory, code, scratch)
        if data:
            os.pwrite(space.memory, data, scratch + _BEHIND)
        before = bytes(self.words)
        self.words[RIP] = scratch
        self._run_one(before)
        if self.words[RIP] == scratch + len(code):
            self.words[RIP] = int.from_bytes(before[8 * RIP : 8 * RIP + 8], "little")
        return os.pread(space.memory, SCRATCH_ROOM, scratch + _BEHIND)

    @property
    def scratch(self) -> int:
        """The page of `Space.scratch`."""
        return self._space.scratch if self._space else 0

    @property
    def _memory(self) -> int:
        if self._space is None:
            raise ProcessLookupError(errno.ESRCH, "no thread stands")
        return self._space.memory

    def _run_one(self, before: bytes) -> None:
        """Let the thread carry out the instruction at `words`; on a fault it has the registers `before` again."""
        thread = self.thread
        mask = ptrace.get_signal_mask(thread)
        ptrace.set_signal_mask(thread, _ALL_BUT_TRAP)
        self.commit()
        ptrace.step(thread)
        while (number := self._arrived(self._wait(thread))) is None:
            ptrace.step(thread)
        ptrace.set_signal_mask(thread, mask)
        if number != signal.SIGTRAP:
            ctypes.memmove(self.words, before, len(before))
            self.commit()
            raise StepFault(number)
        ptrace.get_registers(thread, self.words)

    def _arrived(self, stop: Stop) -> int | None:
        """The signal that the instruction has ended with; None when something else has stopped the thread."""
        if not stop.stands:
            raise ProcessLookupError(errno.ESRCH, "the thread has been killed")
        if stop.event:
            return None  # a group stop, which goes on when the thread is left to itself
        if stop.signal == signal.SIGSTOP:
            self.postponed = stop.signal
            return None
        return stop.signal

    def _map_scratch(self) -> int:
        """Have the thread map two pages: one to execute, one for data. Raises NotEmulated where it may not."""
        before = bytes(self.words)
        at = self._find_syscall()
        code = self._call(at, Nr.MMAP, 0, 2 * _PAGE, _PROT_READ | _PROT_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        executable = _PROT_READ | _PROT_EXEC
        if code >= 0 and self._call(at, _MPROTECT, code, _PAGE, executable, 0, 0, 0) < 0:
            code = -1
        ctypes.memmove(self.words, before, len(before))
        self.commit()
        if code < 0:
            raise NotEmulated("the program may not have a page to execute instructions in")
        return code

    def _call(self, at: int, number: int, *arguments: int) -> int:
        """Have the thread make a system call by the instruction at `at`; its signed result."""
        before = bytes(self.words)
        self.words[RIP], self.words[RAX] = at, number
        for register, value in zip((R.RDI, R.RSI, R.RDX, R.R10, R.R8, R.R9), arguments, strict=True):
            self.words[register] = value & (1 << 64) - 1
        self._run_one(before)
        result: int = self.words[RAX]
        return result - (1 << 64) if result >> 63 else result

    def _find_syscall(self) -> int:
        """The address of a syscall instruction in the process: the vDSO has one."""
        words = memoryview(_auxiliary(self.thread)).cast("Q")
        start = next((words[i + 1] for i in range(0, len(words) - 1, 2) if words[i] == _AT_SYSINFO_EHDR), 0)
        found = os.pread(self._memory, 2 * _PAGE, start).find(_SYSCALL) if start else -1
        if found < 0:
            raise NotEmulated("the program has no vDSO")
        return start + found


def _auxiliary(thread: int) -> bytes:
    with open(f"/proc/{thread}/auxv", "rb") as file:
        return file.read()


def _gone(error: OSError) -> OSError:
    return ProcessLookupError(errno.ESRCH, error.strerror)
