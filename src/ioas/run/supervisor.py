"""`Supervisor`: runs one program on one machine and answers for the machine until nobody uses it any more.

The supervisor is the parent of the program, which runs as a child in the same process group (see `ioas.run.jobs`). It
ends when no process is left that came from the program, as ``strace -f`` does, because daemons that the program
leaves behind use the machine too. Two threads: this one serves calls (`ioas.run.server`), the other sees to the rest
(`ioas.run.watcher`). A process stands by for the case that we are killed (`ioas.run.guardian`).

`ioas run` is a laboratory, not a sandbox: a call that it lets go on is read again by the kernel, and a program
that changes its arguments in between can get past it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from errno import EBADF
from typing import TextIO

from ioas.errors import EnvironmentRefusal
from ioas.run import kernel
from ioas.run.filter import build, rules
from ioas.run.guardian import Guardian
from ioas.run.handlers import HANDLERS
from ioas.run.jobs import Job, pending_end, take_signals
from ioas.run.launch import Launched, NoNamespace, exec_failure, launch
from ioas.run.listener import Gone, Listener
from ioas.run.machine import Machine
from ioas.run.mmio.poll import Poller
from ioas.run.mmio.service import Mmio, Mode
from ioas.run.namespace import Mounts, prepare
from ioas.run.numbers import FdRange, number_ranges
from ioas.run.program import ProgramError, find_program
from ioas.run.ptrace import QuietStops
from ioas.run.report import Reporter
from ioas.run.server import Server
from ioas.run.stage import NoStage, Stage
from ioas.run.tell import listen
from ioas.run.tracer import Tracer
from ioas.run.view import View
from ioas.run.watcher import Watcher

_STDERR = 2
_SETTLE = 0.001
_WSTOPPED = 0x7F
_SWITCH_INTERVAL = 0.0002
"""Seconds after which a thread of a device model lets the serving thread have the interpreter."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a program is run.

    `explain`: report each refused call, DMA fault and pin by address on standard error. `refusals`: the file that takes
    each refused call as a line of JSON. `summary`: say at the end what was called. `namespace`: give the program a
    mount namespace of its own where that is allowed; `with_real`: let it see the real machine's devices as well.
    `mmio`: how BARs are offered, see `ioas.run.mmio`. `uninterrupted`: trace who uses the machine, so that no signal
    ends a call that has not been received yet. Strictness and granted capabilities are the machine's.
    """

    explain: bool = False
    refusals: str | None = None
    summary: bool = False
    namespace: bool = True
    with_real: bool = False
    mmio: Mode = "trap"
    uninterrupted: bool = False


class Supervisor:
    """Runs one program. An object serves once."""

    def __init__(
        self,
        machine: Machine,
        argv: Sequence[str],
        options: Options = Options(),
        mask: AbstractSet[int] | None = None,
    ) -> None:
        """`argv`: the program, looked up in PATH, and its arguments; `machine` is closed at the end of `run`.

        `mask`: the signal mask that the program shall have, when `take_signals` has been called already. Raises
        EnvironmentRefusal when there is to be a record of refusals and it cannot be written.
        """
        self._machine = machine
        self._argv = list(argv)
        self._options = options
        record = _open_record(options.refusals) if options.refusals is not None else None
        self._reporter = Reporter(explain=options.explain, summary=options.summary, record=record)
        self._mask = mask
        self._failure: ProgramError | None = None

    def run(self, environment: Mapping[str, str] | None = None) -> int:
        """Run the program; return when no process that came from it is left.

        Returns its exit status, or minus the number of the signal that killed it. Takes this process over while
        it runs: signals, standard input and output, inherited descriptors. Call it from the main thread.

        Raises ProgramError: it cannot be started; EnvironmentRefusal: seccomp notification is not available, or what
        the options ask for.
        """
        _check_platform()
        environment = os.environ if environment is None else environment
        with contextlib.ExitStack() as undo:
            undo.callback(self._machine.close)
            path = find_program(self._argv[0], environment)
            numbers = number_ranges()
            mask = take_signals() if self._mask is None else self._mask
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
            if (early := pending_end()) is not None:
                return -early
            _settle_down(undo)
            program = build(rules(numbers, eventfds=not can_fetch_descriptors()))
            view, stage = View(self._machine.tree, self._options.with_real), Stage(self._machine.tree)
            undo.callback(stage.close)
            launched = self._launch(
                view, stage, lambda mounts: launch(path, self._argv, environment, program, mask, mounts)
            )
            _let_go_of_inherited()
            _raise_descriptor_limit()
            listen(self._machine, self._reporter)
            job = Job(launched.pid)
            self._serve(launched, job, numbers, path, view, stage)
        if self._failure:
            raise self._failure
        if self._reporter.summary:
            self._reporter.summarise()
        return job.status if job.status is not None else 1

    def _launch(self, view: View, stage: Stage, start: Callable[[Mounts | None], Launched]) -> Launched:
        """Start the program in a namespace of its own, or without one where that is not allowed."""
        if not self._options.namespace:
            return start(None)
        try:
            launched = start(prepare(view, stage.path("")))
            stage.mounted = True
            return launched
        except (NoNamespace, NoStage) as error:
            if self._options.with_real:
                raise EnvironmentRefusal(f"the real devices cannot be shown beside the machine's: {error}") from None
            if self._options.explain:
                self._reporter.say(f"{error}: listings of /dev and /sys/class are the real machine's")
        return start(None)

    def _serve(
        self, launched: Launched, job: Job, numbers: Sequence[FdRange], path: str, view: View, stage: Stage
    ) -> None:
        listener = Listener(launched.listener)
        listener.synchronise()
        guardian = Guardian(listener, launched.pid, stage.root if stage.mounted else None)
        watcher = Watcher(job, listener, self._reporter.bug)

        def watch(pidfd: int) -> None:
            watcher.watch(pidfd, server.process_ended)

        def released(fd: int) -> None:
            time.sleep(_SETTLE)  # most often the next call drains first
            server.release()

        def executed(fd: int) -> None:
            watcher.unwatch(fd)
            self._failure = exec_failure(launched.channel, path)
            launched.channel.close()

        def tracee_ended(thread: int, status: int) -> None:
            try:
                mmio.ended(thread)
                job.collected(thread, status)
            finally:
                watcher.wake()  # who else would see that the program has ended?

        def stopped(thread: int, number: int) -> None:
            job.collected(thread, number << 8 | _WSTOPPED)

        def look() -> None:
            job.reap()  # what nobody traces may have stopped, and no signal has told of it
            if tracer.is_quiet:
                watcher.later(look)

        quiet = QuietStops()
        tracer = Tracer(tracee_ended, self._reporter.bug, quiet, lambda: watcher.later(look))
        job.left_to_others = tracer.traces
        poller = Poller(self._reporter.explained, self._reporter.bug) if self._options.mmio == "poll" else None
        mmio = Mmio(tracer, self._reporter.warn_once, stopped, poller)
        tracer.start()
        server = Server(
            self._machine,
            listener,
            numbers,
            self._reporter,
            watch,
            watcher.unwatch,
            watcher.later,
            HANDLERS,
            view,
            stage,
            self._offer_mmio(mmio),
        )
        server.buffers.tracer, server.buffers.quiet = tracer, quiet
        if self._options.uninterrupted:
            server.processes.joined = mmio.follow
        watcher.watch(server.files.epoll.fileno(), released)
        watcher.watch(launched.channel.fileno(), executed)
        watcher.start()
        _receive(listener, server, watcher, guardian)
        watcher.join()
        tracer.close()
        server.close()
        mmio.close()
        watcher.close()
        guardian.dismiss()

    def _offer_mmio(self, mmio: Mmio) -> Mmio | None:
        """Give the devices' BARs the MMAP flag, if they are to be mapped."""
        if self._options.mmio == "rw":
            return None
        for device in self._machine.devices.values():
            device.allow_mmap()
        return mmio


def _receive(listener: Listener, server: Server, watcher: Watcher, guardian: Guardian) -> None:
    """Serve calls until nobody is left."""
    served = guardian.served
    while True:
        try:
            call = listener.receive()
        except InterruptedError:
            if watcher.deserted:
                break
            continue
        except Gone:
            if watcher.deserted or listener.deserted():
                break
            continue
        served[0] = call.thread
        server.serve(call)
        served[0] = 0
    watcher.notice()


def _check_platform() -> None:
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise EnvironmentRefusal(f"ioas run serves Linux on x86-64, and this is {sys.platform} on {platform.machine()}")


def _settle_down(undo: contextlib.ExitStack) -> None:
    """Make this process one that answers quickly and inherits the program's orphans."""
    undo.callback(sys.setswitchinterval, sys.getswitchinterval())
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()  # what has been built stays; looking through it again would delay calls
    undo.callback(gc.unfreeze)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)


def _open_record(path: str) -> TextIO:
    """The file for refusals, empty. It is ours alone: the program does not inherit it. Raises EnvironmentRefusal."""
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise EnvironmentRefusal(f"refusals cannot be written to {path}: {error.strerror}") from None


def _let_go_of_inherited() -> None:
    """Close what the program has inherited through us, so that others see its pipes end when the program closes them.

    Descriptors of our own are close-on-exec (PEP 446), so whatever is not is from outside. Standard error stays, for
    our messages.
    """
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1):
        os.dup2(nowhere, standard, inheritable=False)
    os.close(nowhere)
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if fd > _STDERR and os.get_inheritable(fd):
                os.close(fd)


def _raise_descriptor_limit() -> None:
    """Take all descriptors that we may have; the program, which has been started, keeps its own limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def can_fetch_descriptors() -> bool:
    """Whether pidfd_getfd(2) is allowed here, tried on ourselves."""
    try:
        os.close(kernel.take_fd(os.getpid(), os.getpid(), _STDERR))
    except OSError as error:
        return error.errno == EBADF
    return True
