"""Starting the program under the filter.

The child that will become the program puts the filter on itself - a filter can only be put on oneself - and sends its
listener over a socket before it executes the program; from then on its calls wait for the supervisor, the execve
first of all. no_new_privs is what allows an ordinary user a filter. PR_SET_PDEATHSIG kills the program when the
supervisor is killed: with nobody listening, every open and every ioctl of it would fail with ENOSYS.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from typing import NamedTuple, NoReturn

from ioas.errors import EnvironmentRefusal
from ioas.run import kernel
from ioas.run.namespace import Mounts, enter
from ioas.run.program import NOT_FOUND, NOT_RUN, ProgramError, is_elf

_FULL = kernel.SECCOMP_FILTER_FLAG_NEW_LISTENER | kernel.SECCOMP_FILTER_FLAG_SPEC_ALLOW
_FLAGS = (_FULL | kernel.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, _FULL)
"""Newest first. WAIT_KILLABLE_RECV (5.19): a signal does not make the kernel repeat a call that is being served."""
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
_REPORT = struct.Struct("ci")
_READY, _NO_NAMESPACE, _NO_FILTER, _NO_EXEC = b"R", b"N", b"F", b"X"


class Launched(NamedTuple):
    """A program that is being started."""

    pid: int
    listener: int
    channel: socket.socket
    """Ends when the program has been executed, or says why it could not be (`exec_failure`)."""
    killable: bool
    """Calls being served are not interrupted by signals (Linux 5.19)."""


def reserve_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from becoming descriptors of ours where they were closed; the program finds them closed."""
    for standard in range(3):
        try:
            os.fstat(standard)
        except OSError:
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # becomes the lowest free number: this one


class NoNamespace(EnvironmentRefusal):
    """The program cannot be given a namespace of its own here."""


def launch(
    path: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    program: bytes,
    mask: AbstractSet[int],
    mounts: Mounts | None,
) -> Launched:
    """Start `path` with the filter `program` on it and the signal mask `mask`, in a namespace with `mounts`.

    Raises EnvironmentRefusal when the filter cannot be installed, NoNamespace when the namespace is not allowed (and
    nothing has been started); what execve answers comes later, on the channel.
    """

    def become() -> None:
        for number in _PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _execute(path, argv, environment)

    return fork_filtered(program, become, mounts)


def fork_filtered(program: bytes, action: Callable[[], None], mounts: Mounts | None = None) -> Launched:
    """Fork a child that enters its namespace, puts the filter on itself, hands its listener over, and does `action`.

    An OSError of the action goes down the channel; when the action returns, the child ends. Raises as `launch`.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_child(program, action, theirs, parent, mounts)
    theirs.close()
    message, fds, _, _ = socket.recv_fds(ours, _REPORT.size, 1)
    kind, detail = _REPORT.unpack(message) if message else (_NO_FILTER, 0)
    if kind != _READY:
        os.waitpid(pid, 0)
        ours.close()
        if kind == _NO_NAMESPACE:
            raise NoNamespace(f"a mount namespace is not allowed here ({errno.errorcode.get(detail, detail)})")
        raise EnvironmentRefusal(_why_no_filter(detail))
    os.set_inheritable(fds[0], False)  # received descriptors are not close-on-exec
    return Launched(pid, fds[0], ours, bool(detail))


def exec_failure(channel: socket.socket, path: str) -> ProgramError | None:
    """Why the program was not executed; None when it was. Waits until one of both is known."""
    message = channel.recv(_REPORT.size)
    if not message:
        return None
    _, number = _REPORT.unpack(message)
    return ProgramError(NOT_FOUND if number == errno.ENOENT else NOT_RUN, f"{path}: {os.strerror(number).lower()}")


def _why_no_filter(number: int) -> str:
    if number == errno.EBUSY:
        return (
            "this process is already under a supervisor by seccomp notification, and those do not nest "
            "(`ioas run` inside `ioas run`?)"
        )
    name = errno.errorcode.get(number, "the child ended")
    return f"seccomp user notification cannot be installed ({name}); `ioas run --check` says what is missing"


def _be_child(
    program: bytes, action: Callable[[], None], channel: socket.socket, parent: int, mounts: Mounts | None
) -> NoReturn:
    stage = _NO_NAMESPACE
    try:
        if mounts:
            enter(mounts)
        stage = _NO_FILTER
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(NOT_RUN)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        listener, killable = _install(program)
        socket.send_fds(channel, [_REPORT.pack(_READY, killable)], [listener])
        os.close(listener)
        stage = _NO_EXEC
        action()
        os._exit(0)
    except OSError as error:
        channel.send(_REPORT.pack(stage, error.errno or 0))
    finally:
        os._exit(NOT_RUN)


def _install(program: bytes) -> tuple[int, bool]:
    for flags in _FLAGS:
        try:
            return kernel.install_filter(program, flags), flags == _FLAGS[0]
        except OSError as error:
            if error.errno != errno.EINVAL or flags == _FLAGS[-1]:
                raise
    raise AssertionError  # the loop returns or raises


def _execute(path: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
    try:
        os.execve(path, list(argv), environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC or is_elf(path):
            raise
        os.execve("/bin/sh", ["/bin/sh", path, *argv[1:]], environment)  # a script without #!, as execvp(3) runs it
