"""`Traps`: loads and stores of the program on mapped BARs, each carried out on the device model.

A mapped BAR lies behind the end of its file, so the processor cannot access it: the thread gets SIGBUS with the
address. Every thread that could do that is a tracee of ours from the moment at which its process maps a BAR; the
signal stops it and wakes the tracer, which carries the instruction out, takes the signal away and lets the thread go
on behind it. Signals that have nothing to do with a BAR are delivered as if nobody had looked.

A process is let go of when it executes another program, which has no mappings.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

from ioas.run import ptrace
from ioas.run.jobs import DEAD, state
from ioas.run.mmio.bus import Inode, Windows
from ioas.run.mmio.compiled import Accesses, library
from ioas.run.mmio.faults import FAULTS, Faults
from ioas.run.mmio.near import Near
from ioas.run.mmio.repeat import take_back_call
from ioas.run.mmio.stopped import Space
from ioas.run.ptrace import Stop
from ioas.run.tracer import Tracer

_OPTIONS = (
    ptrace.OPTION_SYSGOOD  # for visits
    | ptrace.OPTION_TRACE_FORK
    | ptrace.OPTION_TRACE_VFORK
    | ptrace.OPTION_TRACE_CLONE
    | ptrace.OPTION_TRACE_EXEC
    | ptrace.OPTION_EXIT_KILL
)
_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE, _EVENT_EXEC = 1, 2, 3, 4


class Traced(Exception):  # noqa: N818 - a state, not an error
    """A process cannot be traced; the text says why, for "process N ..."."""


class Traps:
    """Serves the faults of all traced processes. Its methods are for the tracer's thread, unless they say otherwise."""

    def __init__(
        self,
        tracer: Tracer,
        files: Mapping[Inode, Windows],
        say: Callable[[str], None],
        stopped: Callable[[int, int], None],
    ) -> None:
        """`files`: the device files by inode. `say` is told what is not served.

        `stopped(thread, signal)`: a thread has stopped for job control.
        """
        self._tracer = tracer
        self._files = files
        self._stopped = stopped
        self._spaces: dict[int, Space] = {}
        self._threads: dict[int, Space] = {}
        compiled = library()
        self._accesses = Accesses(compiled, tracer.jobs) if compiled else None
        self.near = self._accesses.near if self._accesses else Near()
        self._faults = Faults(tracer.wait_for, say, self.near, self._accesses)
        if self._accesses:
            tracer.wait = self._accesses
        tracer.on_stop = self.handle
        tracer.on_fault = self.fault
        tracer.on_interrupt = self.near.tick

    def trace(self, process: int) -> None:
        """Trace every thread of `process` from here on; from any thread of ours. Raises Traced, Busy."""
        self._tracer.submit(lambda: self._seize(process))

    def _seize(self, process: int) -> None:
        """Take all threads, and look again, for those that have not been taken yet may have made others."""
        ours: set[int] = set()
        """Made by one that is taken, which has not told yet: so they are taken too."""

        def is_new(thread: int) -> bool:
            return thread not in ours and not self._tracer.owns(thread) and state(thread) not in DEAD

        while new := list(filter(is_new, _threads(process))):
            for thread in new:
                try:
                    self._tracer.seize(thread, _OPTIONS)
                except ProcessLookupError:
                    continue
                except PermissionError as error:
                    if self._tracer.traces(thread):
                        ours.add(thread)
                    elif state(thread) not in DEAD:
                        raise Traced(_why_not(thread)) from error

    def handle(self, stop: Stop) -> None:
        """A thread has stopped: see to it, and let it go on."""
        if stop.event:
            self._event(stop)
        elif stop.signal in FAULTS:
            self.fault(stop.thread, stop.signal)
        else:
            take_back_call(stop.thread)
            ptrace.resume(stop.thread, stop.signal)

    def fault(self, thread: int, number: int) -> None:
        """A thread has raised one of `FAULTS`: see to it, and let it go on."""
        try:
            space = self._threads.get(thread) or self._space(thread)
        except OSError:  # it cannot be looked into, or is being killed
            ptrace.resume(thread, number)
            return
        try:
            self._faults.serve(thread, number, space)
        except ProcessLookupError:
            raise
        except Exception:  # a bug: the program shall not hang for it
            ptrace.resume(thread, number)
            raise

    def _event(self, stop: Stop) -> None:
        thread = stop.thread
        if stop.event in (_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE):
            child = ptrace.event_message(thread)
            self._tracer.adopt(child)
            self.near.forked(thread, child)
            ptrace.resume(thread)
        elif stop.event == _EVENT_EXEC:
            former = ptrace.event_message(thread)
            self._tracer.lose(former)  # who executes takes the number of the first thread
            self.near.executes(former, thread)
            self._forget(thread)
            self._tracer.release(thread)
        elif stop.event == ptrace.EVENT_STOP and stop.signal != signal.SIGTRAP:
            ptrace.listen(thread)
            self._stopped(thread, stop.signal)
        else:
            if not self._tracer.owns(thread):
                self._born(thread)
            ptrace.resume(thread)

    def _born(self, thread: int) -> None:
        """It is new, and found before its maker's stop is: the kernel lets it run first (kernel_clone)."""
        self._tracer.adopt(thread)
        with suppress(OSError):
            processes = _process_of(thread), _status(thread, "PPid:")
            makers = [each for each, space in self._threads.items() if space.process in processes]
            self.near.born(thread, makers)

    def ended(self, thread: int) -> None:
        """A thread that was traced is gone."""
        self.near.ended(thread)
        if self._accesses:
            self._accesses.forget_thread(thread)
        self._threads.pop(thread, None)
        self._forget(thread)  # if it is a process's first one, whose end is told when the others are gone

    def close(self) -> None:
        """Close what is open; nothing may be traced any more."""
        self.near.close()
        for process in list(self._spaces):
            self._forget(process)

    def _forget(self, process: int) -> None:
        space = self._spaces.pop(process, None)
        if space:
            for thread in [thread for thread, other in self._threads.items() if other is space]:
                del self._threads[thread]
                if self._accesses:
                    self._accesses.forget_thread(thread)
            space.close()

    def _space(self, thread: int) -> Space:
        """The address space of a thread. Raises OSError."""
        space = self._threads.get(thread)
        if space is None:
            process = _process_of(thread)
            space = self._spaces.get(process)
            if space is None:
                space = self._spaces[process] = Space(process, thread, self._files)
            self._threads[thread] = space
        return space


def _threads(process: int) -> list[int]:
    """The threads of a process; none when it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{process}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _status(thread: int, field: str) -> int:
    with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


def _process_of(thread: int) -> int:
    """The process of a thread. Raises OSError when it is gone."""
    return _status(thread, "Tgid:")


def _why_not(thread: int) -> str:
    """Why a thread cannot be seized: another traces it, or nobody may."""
    try:
        other = _status(thread, "TracerPid:")
    except OSError:
        other = 0
    return f"is traced by process {other} already (a debugger, strace)" if other else "may not be traced (ptrace)"
