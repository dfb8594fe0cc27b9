"""`Server`: answers the program's system calls, one after the other.

For each call the listener hands over: what the program has let go of is closed first (a program that closes a file
and opens it again expects the release to be complete), then the handler from `HANDLERS` answers. A handler returns
the call's result, or `Outcome.PROCEED` for the kernel to carry the call out as if we were not there - which is the
answer to everything that is not about the machine - or `Outcome.ANSWERED` when a descriptor was put into the program
as the answer. It raises KernelError to refuse.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from errno import EBADF, EINTR, EIO, EMFILE

from ioas.errors import KernelError, refuse
from ioas.host import File
from ioas.run.buffers import Buffers
from ioas.run.caller import ProcessCaller
from ioas.run.eventfds import EventFds
from ioas.run.files import Files, Given
from ioas.run.listener import Call, Gone, Listener
from ioas.run.machine import Machine
from ioas.run.mmio.service import Mmio
from ioas.run.numbers import FdRange, free_number
from ioas.run.outcome import Handler, Outcome, Pending
from ioas.run.pagemap import Frames
from ioas.run.pins import Pinner
from ioas.run.processes import Processes
from ioas.run.report import Reporter
from ioas.run.shared import Later, SharedFiles
from ioas.run.stage import Stage
from ioas.run.view import View


class Server:
    """Serves one program and its descendants (implements `ioas.run.caller.Shared`)."""

    def __init__(
        self,
        machine: Machine,
        listener: Listener,
        numbers: Sequence[FdRange],
        reporter: Reporter,
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
        later: Later,
        handlers: Mapping[int, Handler],
        view: View,
        stage: Stage,
        mmio: Mmio | None = None,
    ) -> None:
        """`numbers`: those that programs are given; `watch`, `unwatch`: see `Processes`; `later`: see `SharedFiles`.

        `view` and `stage` are of the machine's tree. `mmio`: serves mapped BARs.
        """
        self.machine = machine
        self.listener = listener
        self.reporter = reporter
        self.grants = machine.grants
        self.lock = threading.Lock()
        """Held while a call is served and while files are closed."""
        self.files = Files(reporter.bug, mmio.files if mmio else None)
        self.mmio = mmio
        self.memory_files = SharedFiles(later)
        self.buffers = Buffers(listener, lambda: self._call)
        pinner = Pinner(self.memory_files, self.buffers, machine.strict, reporter.pinned_by_address)
        if mmio:
            pinner.devices = mmio.files.by_inode
        self.processes = Processes(pinner, self, watch, unwatch)
        self.frames: Frames | None = None
        """On a machine whose devices put physical addresses on the bus: which those are."""
        if any(function.requester.unit is None for function in machine.functions.values()):
            refused = reporter.warn_once if reporter.explain else _say_nothing
            self.frames = Frames(machine.system.sightings, refused)
        self.view = view
        self.stage = stage
        self.eventfds = EventFds(self)
        self.numbers = numbers
        self._handlers = handlers
        self._later = later
        self._collecting = False
        self._waiting: list[tuple[Call, Pending]] = []
        self._call = Call(0, 0, 0, (0, 0, 0, 0, 0, 0))

    def serve(self, call: Call) -> None:
        """Answer one call."""
        with self.lock:
            self._catch_up()
            self._call = call
            try:
                result = self._carry_out(call)
                if self.stage.version != self.machine.tree.version:
                    self._guard(self.stage.update)
                if result.__class__ is int:
                    self.listener.answer(call.ident, result)
                elif result is Outcome.PROCEED:
                    self.listener.proceed(call.ident)
            except Gone:
                pass  # killed meanwhile; what it was given is closed by the next drain

    def _catch_up(self) -> None:
        """Close what has no references any more, and answer the calls that waited for that."""
        self._guard(self.files.drain)
        if self._waiting:
            self._guard(self._answer_waiting)

    def _guard(self, action: Callable[[], None]) -> None:
        """Do what is not for a call alone: what fails there must not end us, and the program with us."""
        try:
            action()
        except Exception as error:
            self.reporter.bug(error)

    def _answer_waiting(self) -> None:
        """Answer the calls that waited for what has been closed."""
        for call, pending in tuple(self._waiting):
            result = self._result_of(pending)
            if result is not None:
                self._waiting.remove((call, pending))
                self._guard(self.stage.update)
                with suppress(Gone):  # killed meanwhile; what it asked for has been done
                    self.listener.answer(call.ident, result)

    def _result_of(self, pending: Pending) -> int | None:
        """What a call that waits is answered with; None while it has to wait on."""
        try:
            return pending.result if pending.ended() else None
        except Exception as error:  # a bug must not leave the program waiting for ever, nor others that wait
            self.reporter.bug(error)
            return -EIO

    def _carry_out(self, call: Call) -> int | Outcome:
        try:
            return self._handlers[call.number](self, call)
        except KernelError as error:
            return -error.refusal.errno
        except Pending as pending:
            self._waiting.append((call, pending))
            return Outcome.LATER
        except OSError as error:
            self.reporter.bug(error)
            return -(error.errno or EIO)
        except Gone:
            raise
        except Exception as error:  # a bug must not leave the program waiting for ever
            self.reporter.bug(error)
            return -EIO

    def caller(self, call: Call) -> ProcessCaller | None:
        """Who makes the call; None when it cannot be looked into, which is reported."""
        try:
            caller = self.processes.caller(call.thread)
        except OSError as error:
            self.unreachable(call.thread, error)
            return None
        caller.memory.begin(call.thread)
        return caller

    def find(self, call: Call, fd: int) -> tuple[ProcessCaller, Given] | None:
        """The caller and its file behind descriptor `fd`; None when that is not one of ours."""
        number = fd & 0xFFFFFFFF
        if not self.files.by_link or not (self.processes.knows(call.thread) or self._is_ours(call.thread, number)):
            return None  # most calls that look as if they were for us, from programs that have nothing to do with us
        caller = self.caller(call)
        if caller is None:
            return None
        try:
            link = caller.link(number)
        except OSError:  # no such descriptor; or the thread that we knew is dead and its number used again
            self.processes.forget_thread(call.thread)
            caller = self.caller(call)
            link = caller.link_if_open(number) if caller else ""
        given = self.files.by_link.get(link)
        return (caller, given) if caller and given else None

    def _is_ours(self, thread: int, number: int) -> bool:
        """Whether a descriptor of a thread that we know nothing of is one of our files."""
        try:
            return os.readlink(f"/proc/{thread}/fd/{number}") in self.files.by_link
        except FileNotFoundError:
            return False
        except OSError as error:
            self.unreachable(thread, error)
            return False

    def copy_in(self, thread: int, address: int, length: int) -> bytes:
        """Up to `length` bytes of a thread that need not be a user of the machine; fewer, or none, where it ends."""
        try:
            return self.processes.copy_in(thread, address, length)
        except OSError as error:
            self.unreachable(thread, error)
            return b""

    def unreachable(self, thread: int, error: OSError) -> None:
        """Say once that a process cannot be looked into (PR_SET_DUMPABLE, another user).

        One that was killed meanwhile shows the same: its files under /proc are root's as soon as its memory is gone.
        """
        gone = isinstance(error, (ProcessLookupError, FileNotFoundError)) or not self.listener.waits(self._call.ident)
        if not gone:
            self.reporter.warn_once(
                f"process {thread} cannot be looked into ({error.strerror}): it is not dumpable, or runs as another "
                "user; it is not served, and sees the real machine"
            )

    def refused(self, call: Call, caller: ProcessCaller, text: str, name: str, error: KernelError) -> None:
        """Report a refusal, unless it is for want of the caller; `text` shows the call, `name` is what is counted."""
        if self.listener.waits(call.ident):
            self.reporter.refused(call.thread, caller.pid, text, name, error)

    def install(self, caller: ProcessCaller, file: File, cloexec: bool = True) -> int:
        """Put a descriptor for `file` into the thread whose call is being served. Raises KernelError(EMFILE)."""
        return self.give(self._call, caller, self._end_for(file, ""), cloexec, answer=False)

    def open_node(self, call: Call, caller: ProcessCaller, path: str, flags: int) -> Outcome:
        """Open a device node of the machine as the answer to `call`. Raises KernelError."""
        file = self.machine.open(caller, path, flags)
        return self.answer_with(call, caller, file, path, bool(flags & os.O_CLOEXEC))

    def answer_with(self, call: Call, caller: ProcessCaller, file: File, path: str, cloexec: bool) -> Outcome:
        """Give the program a descriptor for `file` as the answer to `call`. Raises KernelError(EMFILE)."""
        self.give(call, caller, self._end_for(file, path), cloexec, answer=True)
        return Outcome.ANSWERED

    def _end_for(self, file: File, path: str) -> int:
        """The program's end for `file`, which is closed when that cannot be made. Raises KernelError(EMFILE)."""
        try:
            return self.files.create(file, path)
        except OSError as error:
            raise refuse(EMFILE, f"ioas can have no more descriptors: {error.strerror}", "limit", "nofile") from error

    def give(self, call: Call, caller: ProcessCaller, fd: int, cloexec: bool, *, answer: bool) -> int:
        """Put our descriptor `fd`, which is used up, into the program: its number there, in our ranges if possible.

        When the program is gone or takes no more, `fd` was the last reference, and its file is closed by the next
        drain. Raises Gone, KernelError(EMFILE).
        """
        try:
            at = self.free_number(caller)
            number = self.give_at(call, caller, fd, at, cloexec, answer=answer)
            if at is None:
                self.reporter.warn_once(
                    "the program has no free descriptor number among those that ioas knows device files by (raise "
                    "`ulimit -n`); on others only ioctl and accesses of up to 8 bytes with an offset work"
                )
            return number
        finally:
            os.close(fd)

    def give_at(
        self, call: Call, caller: ProcessCaller, fd: int, at: int | None, cloexec: bool, *, answer: bool
    ) -> int:
        """Put a duplicate of `fd` into the program as number `at`, None for the lowest. Raises as `give`."""
        try:
            number = self.listener.give(call.ident, fd, at, cloexec, answer=answer)
        except OSError as error:
            if error.errno == EBADF:
                first, last = self.numbers[0]
                self.reporter.warn_once(
                    f"the program's RLIMIT_NOFILE is below {first}: its device files have the numbers "
                    f"{first} to {last} (raise `ulimit -n`)"
                )
            elif error.errno == EINTR:
                raise Gone from None
            raise refuse(EMFILE, "the program can have no more descriptors", "limit", "RLIMIT_NOFILE") from error
        if at is not None:
            caller.process.given = at
        return number

    def free_number(self, caller: ProcessCaller, least: int = 0) -> int | None:
        """A number of our ranges, from `least` on, that is free in the program; None when all are taken."""
        return free_number(self.numbers, caller.descriptor_limit, caller.has, least, caller.process.given)

    def own_eventfd(self, caller: ProcessCaller, fd: int) -> int | None:
        """See `ioas.run.caller.Shared`."""
        return self.eventfds.own(caller, fd)

    def release(self) -> None:
        """Close what has no references any more."""
        with self.lock:
            self._catch_up()

    def process_ended(self, pidfd: int) -> None:
        """A process has ended: forget it, and soon what the machine knew of it in cycles of references."""
        with self.lock:
            self.processes.forget(pidfd)
            if self.frames:
                self._guard(self.frames.forget)
        if not self._collecting:
            self._collecting = True
            self._later(self._collect)

    def _collect(self) -> None:
        self._collecting = False
        gc.collect()  # quick: what was there before the program has been frozen

    def close(self) -> None:
        """Close everything: the program and its descendants are gone."""
        with self.lock:
            self.files.close_all()
            self.machine.system.sightings.close()
            self.memory_files.close()
            self.processes.close()
            self.eventfds.close()
            self.buffers.close()
            self.listener.close()


def _say_nothing(message: str) -> None:
    """What nobody has asked for is not said."""
