"""A thread has raised SIGBUS, SIGILL or SIGSEGV: if a mapped BAR is behind it, carry the access out."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections.abc import Callable

from ioas.run import ptrace
from ioas.run.mmio.compiled import Accesses
from ioas.run.mmio.decode import LONGEST, Actions, decode, move_of
from ioas.run.mmio.machine import MemoryFault, NotEmulated, Silent, StepFault
from ioas.run.mmio.near import Near
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
_TRIES = 5
_AT_ONCE = 1_000_000
"""Nanoseconds."""


class Faults:
    """Serves faults, one after the other, in the tracer's thread."""

    def __init__(
        self, wait: Callable[[int], Stop], say: Callable[[str], None], near: Near, accesses: Accesses | None = None
    ) -> None:
        """`wait`: `Tracer.wait_for`. `say` is told what is not served.

        `accesses` is taught what it can serve itself.
        """
        self._tried: dict[int, tuple[int, int, int]] = {}
        """When each thread has raised SIGBUS last where no BAR is, at which address, and how often in a row."""
        self._near = near
        self._accesses = accesses
        self._cpu = Stopped(wait)
        self._quick = self._cpu.quick
        self._actions = Actions()
        self._say = say

    def serve(self, thread: int, number: int, space: Space) -> None:
        """Signal `number` is about to be delivered to `thread`: see to it. Raises OSError when the thread is gone."""
        arrived = time.monotonic_ns()
        cpu, quick, bus = self._cpu, self._quick, space.bus
        quick.get_siginfo(thread)
        code, address = quick.siginfo[1] & _WORD, quick.siginfo[2]
        if number == signal.SIGBUS:
            if code != _BUS_ADRERR:
                ptrace.resume(thread, number)
                return
            if bus.look(address) is None:
                ptrace.resume(thread, 0 if self._try_again(thread, address, arrived) else number)
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
        quick.set_registers(thread)
        if self._accesses:
            self._teach(self._accesses, thread, space, instruction)
        self._near.resume(thread, arrived)

    def _try_again(self, thread: int, address: int, arrived: int) -> bool:
        """No BAR is mapped there now. It may have been one until another thread mapped something else there.

        So the instruction is begun anew: what is the program's own comes again, at once, each time.
        """
        last, at, times = self._tried.get(thread, (0, 0, 0))
        times = times + 1 if at == address and arrived - last < _AT_ONCE else 1
        self._tried[thread] = arrived, address, times
        return times < _TRIES

    def _teach(self, accesses: Accesses, thread: int, space: Space, code: bytes) -> None:
        """Let such accesses be served without us from here on."""
        area = space.bus.area
        move = move_of(decode(code))
        if move and area.windows:
            accesses.know_move(code, move)
            accesses.know_thread(thread, space.memory, space.maps)
            accesses.know_window(area.inode, area.windows)

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
