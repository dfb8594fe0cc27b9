"""The listening end of a seccomp filter: receive a call, answer it, put a descriptor into the caller
(seccomp_unotify(2), include/uapi/linux/seccomp.h).

`receive` blocks. Together with SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6) that is what makes a handed-over call
cost microseconds: caller and supervisor take turns on one CPU instead of waking each other across two.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_IS_VALID = 0x40082102
_ADD_FD = 0x40182103
_SET_FLAGS = 0x40082104

_SYNC_WAKE_UP = 1
_FLAG_CONTINUE = 1
_ADD_FD_AT = 1
_ADD_FD_AND_SEND = 2

_CALL = struct.Struct("QIIi")
_ARGUMENTS = struct.Struct("6Q")
_ARGUMENTS_AT = 32
_SIZE = 80
_ANSWER = struct.Struct("QqiI")
_ADDITION = struct.Struct("QIIII")
_ZERO = bytes(_SIZE)
_LOOK_EVERY = 10
"""Milliseconds."""
_RELEASING = 128
"""Bytes of the buffers for `fcntl.ioctl`, which releases the interpreter lock only for buffers of at most 1,024 bytes
(it copies them): a longer one would stop every other thread of ours, timers of device models among them, for as long
as no call comes."""


class Call(NamedTuple):
    """A system call that waits for its answer."""

    ident: int
    """What the kernel knows it by."""
    thread: int
    """The thread that made it."""
    number: int
    arguments: tuple[int, int, int, int, int, int]
    """As unsigned 64-bit words."""


class Gone(Exception):  # noqa: N818 - a state, not an error
    """The caller has been killed, or nobody uses the filter any more."""


class Visitor(Protocol):
    """See `ioas.run.visit.Visit`."""

    ident: int

    def give(self, fd: int, at: int | None, cloexec: bool) -> int:
        """Put a descriptor into the thread. Raises Gone, OSError."""
        ...

    def alive(self) -> bool:
        """Whether the thread still stands."""
        ...

    def finish(self, result: int) -> None:
        """Let its call return. Raises Gone."""
        ...


class Listener:
    """Owns the listening descriptor."""

    def __init__(self, fd: int) -> None:
        self.visit: Visitor | None = None
        """Who has answered a call already and holds its thread until the real answer comes."""
        self._fd = fd
        self._backlog: deque[Call] = deque()
        self._received = bytearray(_RELEASING)
        self._added = bytearray(_RELEASING)

    def fileno(self) -> int:
        """The descriptor, for epoll: EPOLLHUP when nobody uses the filter any more."""
        return self._fd

    def close(self) -> None:
        """Close it: calls that come then get ENOSYS."""
        os.close(self._fd)

    def synchronise(self) -> bool:
        """Ask for synchronous wake-ups; whether the kernel has them."""
        try:
            fcntl.ioctl(self._fd, _SET_FLAGS, _SYNC_WAKE_UP)
        except OSError:
            return False
        return True

    def receive(self) -> Call:
        """Wait for the next call.

        Raises InterruptedError for a signal, and Gone when the call was withdrawn or nobody is left (see `deserted`).
        """
        if self._backlog:
            return self._backlog.popleft()
        received = self._received
        received[:_SIZE] = _ZERO  # the kernel insists
        try:
            fcntl.ioctl(self._fd, _RECEIVE, received)
        except FileNotFoundError:
            raise Gone from None
        ident, thread, _, number = _CALL.unpack_from(received)
        return Call(ident, thread, number, _ARGUMENTS.unpack_from(received, _ARGUMENTS_AT))

    def receive_from(self, thread: int, runs: Callable[[], bool]) -> int:
        """Wait for the call that `thread` is about to make: its ident. Others that come are received later.

        Raises Gone when the thread does not come (`runs` says whether it still may).
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        others: list[Call] = []
        try:
            while runs():
                if not poll.poll(_LOOK_EVERY):
                    continue
                with contextlib.suppress(Gone, InterruptedError):
                    call = self.receive()
                    if call.thread == thread:
                        return call.ident
                    others.append(call)
        finally:
            self._backlog.extend(others)
        raise Gone

    def deserted(self) -> bool:
        """Whether nobody uses the filter any more."""
        poll = select.poll()
        poll.register(self._fd, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def waits(self, ident: int) -> bool:
        """Whether the caller still waits for the answer."""
        if self.visit and self.visit.ident == ident:
            return self.visit.alive()
        try:
            fcntl.ioctl(self._fd, _IS_VALID, struct.pack("Q", ident))
        except OSError:
            return False
        return True

    def answer(self, ident: int, result: int) -> None:
        """Let the call return `result`, or fail with errno -`result`. Raises Gone."""
        visit, self.visit = self.visit, None
        if visit and visit.ident == ident:
            visit.finish(result)
        else:
            self.send(ident, result)

    def send(self, ident: int, result: int) -> None:
        """Answer a call that nobody visits; as `answer`."""
        error, value = (result, 0) if result < 0 else (0, result)
        self._send(_ANSWER.pack(ident, value, error, 0))

    def proceed(self, ident: int) -> None:
        """Let the kernel carry the call out as if nobody had asked. Raises Gone."""
        if self.visit and self.visit.ident == ident:
            self.answer(ident, -errno.EIO)  # too late: no call that pins memory is left to the kernel
            return
        self.let_pass(ident)

    def let_pass(self, ident: int) -> None:
        """As `proceed`, for a call that nobody visits."""
        self._send(_ANSWER.pack(ident, 0, 0, _FLAG_CONTINUE))

    def give(self, ident: int, fd: int, at: int | None, cloexec: bool, *, answer: bool) -> int:
        """Put a duplicate of our `fd` into the caller; return its number there.

        `at`: the number it shall have (whatever stands there is closed), None for the lowest free one. With `answer`
        the call returns that number, in the same step. Raises Gone, and OSError: EMFILE, or EBADF where `at` is
        beyond the caller's RLIMIT_NOFILE.
        """
        if self.visit and self.visit.ident == ident:
            placed = self.visit.give(fd, at, cloexec)
            if answer:
                self.answer(ident, placed)
            return placed
        flags = (0 if at is None else _ADD_FD_AT) | (_ADD_FD_AND_SEND if answer else 0)
        _ADDITION.pack_into(self._added, 0, ident, flags, fd, at or 0, os.O_CLOEXEC if cloexec else 0)
        while True:
            try:
                number: int = fcntl.ioctl(self._fd, _ADD_FD, self._added)
                return number
            except InterruptedError:
                continue
            except FileNotFoundError:
                raise Gone from None
            except OSError as error:
                if error.errno == errno.EINPROGRESS:  # answered already
                    raise Gone from None
                raise

    def _send(self, answer: bytes) -> None:
        while True:
            try:
                fcntl.ioctl(self._fd, _SEND, answer)
            except InterruptedError:
                continue
            except FileNotFoundError:
                raise Gone from None
            return
