"""A thread has raised SIGBUS, SIGILL or SIGSEGV: if a mapped BAR is behind it, carry the access out."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Callable

from ioas.run import ptrace
from ioas.run.mmio.decode import LONGEST, Actions, decode
from ioas.run.mmio.machine import MemoryFault, NotEmulated, Silent, StepFault
from ioas.run.mmio.registers import RIP
from ioas.run.mmio.special import portal
from ioas.run.mmio.stopped import Space, Stopped
from ioas.run.ptrace import Stop

FAULTS = (signal.SIGBUS, signal.SIGILL, signal.SIGSEGV)
_SIGINFO = struct.Struct("iii4xQ")
_BUS_ADRERR, _SEGV_MAPERR, _SI_KERNEL = 2, 1, 0x80
_WORD = 0xFFFFFFFF
_NEGATIVE = 0x80000000
_PAGE = 4096


class Faults:
    """Serves faults, one after the other, in the tracer's thread."""

    def __init__(self, wait: Callable[[int], Stop], say: Callable[[str], None]) -> None:
        """`wait`: `Tracer.wait_for`. `say` is told what is not served."""
        self._cpu = Stopped(wait)
        self._quick = self._cpu.quick
        self._actions = Actions()
        self._say = say

    def serve(self, thread: int, number: int, space: Space) -> None:
        """Signal `number` is about to be delivered to `thread`: see to it. Raises OSError when the thread is gone."""
        cpu, quick, bus = self._cpu, self._quick, space.bus
        quick.get_siginfo(thread)
        code, address = quick.siginfo[1] & _WORD, quick.siginfo[2]
        if number == signal.SIGBUS:
            if code != _BUS_ADRERR or bus.look(address) is None:
                ptrace.resume(thread, number)
                return
            cpu.begin(thread, space)
        elif not code or code & _NEGATIVE or not self._stores_to_portal(thread, space):
            ptrace.resume(thread, number)
            return
        try:
            instruction = os.pread(space.memory, LONGEST, quick.words[RIP])
            self._actions.find(instruction)(cpu, bus, address)
        except (NotEmulated, Silent, MemoryFault, StepFault) as error:
            self._deliver(number, error)
            return
        if cpu.postponed:
            self._send_postponed()
        quick.resume(thread)

    def _stores_to_portal(self, thread: int, space: Space) -> bool:
        """Whether the instruction is one that this processor lacks, or refuses, and that stores to a BAR."""
        cpu = self._cpu
        cpu.begin(thread, space)
        try:
            target = portal(decode(cpu.code(LONGEST)))
        except NotEmulated:
            return False
        return target is not None and space.bus.look(target.get(cpu.words)) is not None

    def _deliver(self, number: int, error: Exception) -> None:
        """Let the program have the signal that it gets for `error`, `number` being the one that it stands at."""
        cpu = self._cpu
        info = bytearray(bytes(self._quick.siginfo))
        if isinstance(error, NotEmulated):
            self._say(f"thread {cpu.thread}, instruction at {cpu.words[RIP]:#x}: {error}; the program gets a signal")
        elif isinstance(error, MemoryFault):
            cpu.commit()  # what a string instruction has done before
            number = signal.SIGSEGV
            _SIGINFO.pack_into(info, 0, number, 0, _SEGV_MAPERR if error.address else _SI_KERNEL, error.address)
        elif isinstance(error, StepFault):
            number = error.number
            info = ptrace.get_siginfo(cpu.thread)
            _, _, code, at = _SIGINFO.unpack_from(info)
            if at & -_PAGE == cpu.scratch:
                _SIGINFO.pack_into(info, 0, number, 0, code, cpu.words[RIP])
        self._send_postponed()
        ptrace.set_siginfo(cpu.thread, info)
        ptrace.resume(cpu.thread, number)

    def _send_postponed(self) -> None:
        if self._cpu.postponed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._cpu.thread, self._cpu.postponed)
