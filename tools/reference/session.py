"""One run of a guest: starts QEMU, hands over the job, passes output on, and ends within a bound whatever happens.

A guest that runs sends a beat every `init.BEAT_SECONDS`. One that sends nothing for `Limits.silence`, or is not up
after `Limits.boot`, hangs; one whose QEMU ended without a status has died (a panic ends QEMU at once). In each
case the user gets a sentence and the end of what the guest's console showed.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ioas.errors import EnvironmentRefusal, IoasError
from tools.reference.guest import DISK_BYTES, PORTS, Guest

CHUNK = 1 << 16
STEP_SECONDS = 1.0
CONSOLE_BYTES = 1 << 16
CONSOLE_LINES = 25
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class GuestError(IoasError):
    """The guest ended or hung before its command had a status; `console` is the end of what it showed."""

    def __init__(self, reason: str, console: str) -> None:
        super().__init__(reason)
        self.console = console


class TimeLimitError(GuestError):
    """The command did not end within the time that it was given."""


@dataclass(frozen=True)
class Limits:
    """Seconds: for the command (None for no limit), until the guest is up, without a beat, for the power-off."""

    command: float | None = None
    boot: float = 180
    silence: float = 60
    end: float = 20


class Session:
    """The run of `argv` in `guest`; what it prints goes to `out` and `err`."""

    def __init__(self, guest: Guest, argv: Sequence[str], cwd: Path, out: BinaryIO, err: BinaryIO) -> None:
        self._guest = guest
        self._job = guest.job(argv, cwd)
        self._out, self._err = out, err
        self._console = bytearray()
        self._events = bytearray()
        self._ready: float | None = None
        self._heard = 0.0
        self._status: int | None = None

    def run(self, limits: Limits = Limits()) -> int:
        """The command's exit status, as a shell gives it.

        Raises GuestError, TimeLimitError, and EnvironmentRefusal where QEMU cannot be started. No QEMU is left.
        """
        with ExitStack() as stack:
            process, ends = self._start(stack)
            self._control = ends["control"]
            reason = self._watch(stack, process, ends, limits)
        if self._status is not None:
            return self._status
        kind = TimeLimitError if reason.startswith("the command") else GuestError
        raise kind(reason, self.console())

    def console(self) -> str:
        """The last `CONSOLE_LINES` lines that the guest's kernel or QEMU itself printed."""
        text = self._console.decode(errors="replace").replace("\r", "")
        return "\n".join(line for line in text.splitlines()[-CONSOLE_LINES:] if line.strip())

    def _start(self, stack: ExitStack) -> tuple[subprocess.Popen[bytes], dict[str, socket.socket]]:
        """QEMU, killed when `stack` ends, and our ends of its ports."""
        disk = stack.enter_context(os.fdopen(os.memfd_create("disk"), "r+b"))
        disk.truncate(DISK_BYTES)
        ours, theirs = zip(*(socket.socketpair() for _ in PORTS), strict=True)
        for end in (*ours, *theirs):
            stack.enter_context(end)
        descriptors = [end.fileno() for end in theirs]
        command = self._guest.command(descriptors, disk.fileno())
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                pass_fds=(*descriptors, disk.fileno()), preexec_fn=_die_with_parent,
            )  # fmt: skip
        except OSError as error:
            raise EnvironmentRefusal(f"QEMU does not start: {error}") from error
        stack.enter_context(process)
        stack.callback(process.kill)
        for end in theirs:
            end.close()
        return process, dict(zip(PORTS, ours, strict=True))

    def _watch(
        self, stack: ExitStack, process: subprocess.Popen[bytes], ends: dict[str, socket.socket], limits: Limits
    ) -> str:
        """Pass on what comes until QEMU has closed everything or a limit is passed; why, for want of a status."""
        selector = stack.enter_context(selectors.DefaultSelector())
        sinks = (self._on_event, _writer(self._out), _writer(self._err))
        for end, sink in zip(ends.values(), sinks, strict=True):
            selector.register(end, selectors.EVENT_READ, sink)
        selector.register(_output_of(process), selectors.EVENT_READ, self._console.extend)
        began = self._heard = time.monotonic()
        while selector.get_map():
            asked = time.monotonic()
            if reason := self._overdue(asked - began, asked, limits):
                return reason
            for key, _ in selector.select(STEP_SECONDS):
                if data := _read(key.fd):
                    key.data(data)
                else:
                    selector.unregister(key.fileobj)
            del self._console[:-CONSOLE_BYTES]
            # A tool that was stopped, or whose output nobody read, must not take its own standstill for the guest's.
            self._heard += max(0.0, time.monotonic() - asked - STEP_SECONDS)
        return self._cause_of_death(process.wait())

    def _overdue(self, elapsed: float, now: float, limits: Limits) -> str | None:
        """Which limit is passed; a guest whose command has ended needs only to power off."""
        if self._status is not None:
            return "the guest does not power off" if now - self._heard > limits.end else None
        if self._ready is None:
            return f"the guest was not up after {limits.boot:g} s" if elapsed > limits.boot else None
        if limits.command is not None and now - self._ready > limits.command:
            return f"the command was still running after {limits.command:g} s (--timeout)"
        if now - self._heard > limits.silence:
            return f"the guest hangs: it has given no sign of life for {limits.silence:g} s"
        return None

    def _cause_of_death(self, code: int) -> str:
        if b"Kernel panic" in self._console:
            return "the guest's kernel panicked"
        if code < 0:
            return f"QEMU was killed by signal {-code} ({signal.strsignal(-code)})"
        if code:
            return f"QEMU ended with status {code}"
        return "the guest powered off before the command had ended"

    def _on_event(self, data: bytes) -> None:
        self._heard = time.monotonic()
        self._events += data
        *lines, rest = self._events.split(b"\n")
        self._events = rest
        for line in lines:
            try:
                event = json.loads(line)
                kind, status = event["event"], event.get("status")
            except (ValueError, LookupError, TypeError, AttributeError):
                raise GuestError(f"the guest says what is no event: {bytes(line)!r}", self.console()) from None
            if kind == "up":
                with suppress(ConnectionError):  # QEMU has just died, as the next look at its ports tells
                    self._control.sendall(json.dumps(self._job).encode() + b"\n")
            elif kind == "ready":
                self._ready = self._heard
            elif kind == "status" and isinstance(status, int):
                self._status = status


def _read(descriptor: int) -> bytes:
    """What there is to read; empty at the end, of which a socket with something unread in it tells by ECONNRESET."""
    try:
        return os.read(descriptor, CHUNK)
    except ConnectionResetError:
        return b""


def _writer(sink: BinaryIO) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        sink.write(data)
        sink.flush()

    return write


def _output_of(process: subprocess.Popen[bytes]) -> BinaryIO:
    if process.stdout is None:
        raise ValueError("QEMU was started without a pipe for its console")
    return process.stdout  # type: ignore[return-value]


def _die_with_parent() -> None:
    """In QEMU's process before it starts: no guest outlives the tool, even one that is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
