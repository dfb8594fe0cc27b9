"""Making a thread of the program carry out system calls of ours, unnoticed, while it waits for the answer to its own.

The thread stands in the kernel, in a call that was handed over. It is seized and told to stop (PTRACE_INTERRUPT, which
does not disturb a call that has been received), and then answered: so it comes back from its call, and stops before it
sees anything. Now its registers are turned back onto the `syscall` instruction that it came by, with the number
and arguments of our call, and it runs from the stop before that call to the stop behind it. At last its registers
are what they were, with the answer of its own call in rax, and it is let go.

- All its signals are blocked meanwhile (PTRACE_SETSIGMASK), so none is lost, reordered, or delivered in between; a stop
  of the whole process begins when it is let go.
- Its own call has been carried out once, by us, and is over: nothing of it can be restarted.
- What our calls point to lies on its stack, below the red zone of the ABI, and what was there is put back.
- It can be killed at any moment. Everything then raises `Gone`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from ioas.run import ptrace
from ioas.run.jobs import DEAD, children, state
from ioas.run.listener import Call, Gone, Listener
from ioas.run.ptrace import QuietStops, R, Registers, Stop

if TYPE_CHECKING:
    from ioas.run.kernel import Transfer
    from ioas.run.tracer import Tracer

T = TypeVar("T")
_RED_ZONE = 128
_SYSCALL_LENGTH = 2
_NO_CALL = (1 << 64) - 1
_EVERY_SIGNAL = (1 << 64) - 1
_ARGUMENTS = (R.RDI, R.RSI, R.RDX, R.R10, R.R8, R.R9)
_MINE = ptrace.OWN | os.WEXITED


class Unavailable(Exception):  # noqa: N818 - a state, not an error
    """The thread cannot be made to call; the text says why."""


class Visit:
    """A thread at the end of its call, standing. It belongs to one thread of ours; `finish` ends it."""

    def __init__(
        self, listener: Listener, call: Call, transfer: Transfer, quiet: QuietStops, tracer: Tracer | None
    ) -> None:
        """Take over the thread of `call`, which has not been answered yet. `tracer`: if it keeps the thread seized.

        Raises Unavailable (seized by somebody else, or not allowed): the call is as it was then. Raises Gone.
        """
        self.ident = call.ident
        self.thread = call.thread
        self._listener = listener
        self._transfer = transfer
        self._tracer = tracer
        self._quiet = quiet
        self._stop_again = False
        if tracer is None:
            self._seize()
        self._saved = Registers()
        self._mask = 0
        try:
            self._do(lambda: self._enter(call.ident))
        except Gone:
            self._end_quiet()
            raise
        self._registers = Registers(*self._saved)

    def call(self, number: int, *arguments: int, handed_over: bool = False) -> int:
        """Have it make a call: the result, negative for an errno. Raises Gone; Unavailable for a fault on the way.

        `handed_over`: the program's filter hands this call over to us, and we let it pass.
        """
        return self._do(lambda: self._call(number, arguments, handed_over))

    @contextlib.contextmanager
    def scratch(self, length: int) -> Iterator[int]:
        """Memory for what calls point to: its address, for `write` and `read`. Raises Unavailable.

        It lies on the thread's stack, and what was there comes back.
        """
        address = self._saved[R.RSP] - _RED_ZONE - length & ~15
        former = self.read(address, length)
        try:
            yield address
        finally:
            with contextlib.suppress(Unavailable):
                self.write(address, former)

    def read(self, address: int, length: int) -> bytes:
        """All of the thread's memory there. Raises Unavailable."""
        try:
            data = self._transfer.read(self.thread, address, length)
        except OSError as error:
            raise Unavailable(f"its memory cannot be reached ({error.strerror})") from None
        if len(data) < length:
            raise Unavailable("there is no room on its stack")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Write to the thread's memory. Raises Unavailable."""
        try:
            count = self._transfer.write(self.thread, address, data)
        except OSError as error:
            raise Unavailable(f"its memory cannot be reached ({error.strerror})") from None
        if count < len(data):
            raise Unavailable("there is no room on its stack")

    def give(self, fd: int, at: int | None, cloexec: bool) -> int:
        """As `Listener.give`, when the call has been answered already: the thread begins it again for the while."""
        ident = self._do(self._begin_again)
        try:
            return self._listener.give(ident, fd, at, cloexec, answer=False)
        finally:
            self._do(lambda: self._stop_behind(ident))

    def alive(self) -> bool:
        """Whether the thread still stands there."""
        try:
            self._do(lambda: ptrace.get_signal_mask(self.thread))
        except OSError:
            return False
        return True

    def finish(self, result: int) -> None:
        """Let its own call return `result` (negative: an errno), and let it go. Raises Gone."""
        self._saved[R.RAX] = result & _NO_CALL
        try:
            self._do(self._leave)
        finally:
            self._end_quiet()
        if self._stop_again:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.thread, signal.SIGSTOP)

    def _do(self, action: Callable[[], T]) -> T:
        """Carry out something with ptrace, by the thread of ours that may."""
        try:
            return self._tracer.submit(action) if self._tracer else action()
        except ProcessLookupError:
            self._collect()
            raise Gone from None

    def _seize(self) -> None:
        self._quiet.begin()
        try:
            ptrace.seize(self.thread, ptrace.OPTION_SYSGOOD)
        except OSError as error:
            self._quiet.end()
            raise Unavailable(f"ptrace is refused ({error.strerror}); perhaps a debugger is attached") from None

    def _end_quiet(self) -> None:
        if self._tracer is None:
            self._quiet.end()

    def _enter(self, ident: int) -> None:
        self._stop_behind(ident)
        ptrace.get_registers(self.thread, self._saved)
        self._mask = ptrace.get_signal_mask(self.thread)
        ptrace.set_signal_mask(self.thread, _EVERY_SIGNAL)

    def _stop_behind(self, ident: int) -> None:
        """Answer the call, and wait until the thread stands behind it."""
        ptrace.interrupt(self.thread)
        with contextlib.suppress(Gone):  # where signals disturb calls (before 5.19) it has been broken off; or killed
            self._listener.send(ident, 0)
        while self._wait().event != ptrace.EVENT_STOP:
            ptrace.resume(self.thread)

    def _call(self, number: int, arguments: tuple[int, ...], handed_over: bool) -> int:
        registers = self._registers
        registers[R.RIP] = self._saved[R.RIP] - _SYSCALL_LENGTH
        registers[R.RAX] = number
        registers[R.ORIG_RAX] = _NO_CALL  # the call that it comes from shall not be restarted
        for register, value in zip(_ARGUMENTS, arguments, strict=False):
            registers[register] = value
        ptrace.set_registers(self.thread, registers)
        self._run_to_call()
        ptrace.resume_to_call(self.thread)
        if handed_over:
            self._listener.let_pass(self._listener.receive_from(self.thread, self._runs))
        self._to_call()
        ptrace.get_registers(self.thread, registers)
        result: int = registers[R.RAX]
        return result - (1 << 64) if result >> 63 else result

    def _begin_again(self) -> int:
        """Have it make its own call once more; the ident of the new notification."""
        registers = Registers(*self._saved)
        registers[R.RIP] -= _SYSCALL_LENGTH
        registers[R.RAX] = self._saved[R.ORIG_RAX]
        registers[R.ORIG_RAX] = _NO_CALL
        ptrace.set_registers(self.thread, registers)
        self._run_to_call()
        ptrace.resume(self.thread)
        return self._listener.receive_from(self.thread, self._runs)

    def _runs(self) -> bool:
        """Whether it goes on running, neither dead nor at a stop."""
        if state(self.thread) in DEAD:  # no wait may tell: see `Tracer.wait_for`
            return False
        try:
            return os.waitid(os.P_PID, self.thread, _MINE | os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is None
        except ChildProcessError:
            return False

    def _run_to_call(self) -> None:
        """Let it run to the next entry or exit of a system call. Raises Unavailable for a fault on the way."""
        ptrace.resume_to_call(self.thread)
        self._to_call()

    def _to_call(self) -> None:
        """Wait until it stands there."""
        while not (stop := self._wait()).at_call:
            if stop.event == ptrace.EVENT_STOP:  # of the whole process; the kernel repeats it for who is let go of
                self._stop_again |= self._tracer is not None and stop.signal != signal.SIGTRAP
            elif stop.event == 0 and stop.signal == signal.SIGSTOP:
                self._stop_again = True  # the one signal that cannot be blocked
            else:
                raise Unavailable(f"it ran into signal {stop.signal}")
            ptrace.resume_to_call(self.thread)

    def _leave(self) -> None:
        ptrace.set_registers(self.thread, self._saved)
        ptrace.set_signal_mask(self.thread, self._mask)
        if self._tracer:
            ptrace.resume(self.thread)
        else:
            ptrace.detach(self.thread)

    def _wait(self) -> Stop:
        """Its next stop. Raises ProcessLookupError when it has been killed.

        A wait that takes nothing: the stop is none that anyone else of us may have, and the end may be another's.
        """
        if self._tracer:
            stop = self._tracer.wait_for(self.thread)
            if not stop.stands:
                raise ProcessLookupError
            return stop
        try:
            found = os.waitid(os.P_PID, self.thread, _MINE | os.WSTOPPED | os.WNOWAIT)
        except ChildProcessError:
            raise ProcessLookupError from None
        if found is None or found.si_code not in (os.CLD_TRAPPED, os.CLD_STOPPED):
            raise ProcessLookupError
        return Stop(self.thread, found.si_status << 8 | 0x7F)

    def _collect(self) -> None:
        """The thread has been killed: its end is ours to collect unless it is a child of ours (`Job.reap`)."""
        if self._tracer is None and self.thread not in children(os.getpid()):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.thread, _MINE)
