"""Every exception that ioas raises, and the refusals that they carry.

The tree::

    IoasError
    |-- UsageError              the caller of a Python function or of a command got an argument wrong
    |   `-- MachineError        a machine description (--machine, --device) is wrong; carries file and line
    |-- EnvironmentRefusal      this machine or container does not allow what was asked
    `-- KernelError (OSError)   a host refused a system call; one subclass for each errno below

A `KernelError` is what the kernel would have answered with (`errno`) together with what the kernel
would not have said (`refusal`): the reason in a sentence and the culprit, so that `ioas run --explain`
and a Python traceback tell the user which region, sibling, limit or field was in the way.
"""

from __future__ import annotations

import errno as _errno
import os
from dataclasses import dataclass
from typing import ClassVar, Literal

CulpritKind = Literal[
    "object", "device", "group", "region", "area", "limit", "field", "address", "capability", "file", "request"
]


@dataclass(frozen=True, slots=True)
class Culprit:
    """What stood in the way: its kind and its name, as `--explain` prints them."""

    kind: CulpritKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call was refused: the kernel's errno, the reason as a sentence without a full stop, the culprit."""

    errno: int
    reason: str
    culprit: Culprit | None = None

    @property
    def name(self) -> str:
        """The errno's symbol as the kernel writes it, such as "EOPNOTSUPP" (to which Python prefers "ENOTSUP")."""
        if self.errno == _errno.EOPNOTSUPP:
            return "EOPNOTSUPP"
        return _errno.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        tail = f" ({self.culprit})" if self.culprit else ""
        return f"{self.name}: {self.reason}{tail}"


class IoasError(Exception):
    """The root of the tree: everything that ioas raises on purpose."""


class UsageError(IoasError, ValueError):
    """An argument is wrong; the message names the value and what was expected."""


class MachineError(UsageError):
    """A machine description is wrong; the message names the file, the line and the key."""


class EnvironmentRefusal(IoasError):
    """The environment (kernel, container profile, file permissions) does not allow what was asked."""


class KernelError(IoasError, OSError):
    """A system call refused as the kernel refuses it.

    `errno` is the kernel's number and `refusal` the explanation. Raise through `refuse`, which picks
    the subclass for the errno, so that users can write ``except ioas.errors.AddressInUse``.
    """

    number: ClassVar[int] = 0
    _classes: ClassVar[dict[int, type[KernelError]]] = {}

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        KernelError._classes[cls.number] = cls

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.errno, os.strerror(refusal.errno))
        self.refusal = refusal

    def __str__(self) -> str:
        return str(self.refusal)

    def __reduce__(self) -> tuple[type[KernelError], tuple[Refusal]]:
        return type(self), (self.refusal,)


def refuse(errno: int, reason: str, kind: CulpritKind | None = None, name: object = None) -> KernelError:
    """Return the exception for `errno`, to be raised.

    Example: ``raise refuse(EINVAL, "length is not a multiple of 4096", "field", "length")``.
    `kind` and `name` are the culprit's; integers are shown in hexadecimal for addresses and in decimal otherwise.
    Raises nothing itself.
    """
    culprit = None
    if kind is not None:
        shown = f"{name:#x}" if isinstance(name, int) and kind == "address" else str(name)
        culprit = Culprit(kind, shown)
    return KernelError._classes.get(errno, KernelError)(Refusal(errno, reason, culprit))


class NotPermitted(KernelError):
    """EPERM: a capability or a mode is missing."""

    number = _errno.EPERM


class NotFound(KernelError):
    """ENOENT: no such object, area or mapping."""

    number = _errno.ENOENT


class InvalidArgument(KernelError):
    """EINVAL: a value that the call cannot take."""

    number = _errno.EINVAL


class BadAddress(KernelError):
    """EFAULT: user memory that is not there."""

    number = _errno.EFAULT


class BadFile(KernelError):
    """EBADF: no such file descriptor."""

    number = _errno.EBADF


class WrongFile(KernelError):
    """EBADFD: a file descriptor of another kind."""

    number = _errno.EBADFD


class Busy(KernelError):
    """EBUSY: still used by something else."""

    number = _errno.EBUSY


class AlreadyExists(KernelError):
    """EEXIST: overlaps or repeats something that is there."""

    number = _errno.EEXIST


class AddressInUse(KernelError):
    """EADDRINUSE: clashes with reserved, allowed or mapped IOVA."""

    number = _errno.EADDRINUSE


class NoSpace(KernelError):
    """ENOSPC: no free IOVA, or a table is full."""

    number = _errno.ENOSPC


class OutOfMemory(KernelError):
    """ENOMEM: a memory limit such as RLIMIT_MEMLOCK."""

    number = _errno.ENOMEM


class NotSupported(KernelError):
    """EOPNOTSUPP: a flag, type or feature that this host or device does not have."""

    number = _errno.EOPNOTSUPP


class UnknownRequest(KernelError):
    """ENOTTY: an ioctl number that this file does not know."""

    number = _errno.ENOTTY


class TooBig(KernelError):
    """E2BIG: a structure with unknown, non-zero trailing bytes, or too many entries."""

    number = _errno.E2BIG


class Overflow(KernelError):
    """EOVERFLOW: a range that wraps around."""

    number = _errno.EOVERFLOW


class MessageTooLong(KernelError):
    """EMSGSIZE: the answer does not fit into the buffer."""

    number = _errno.EMSGSIZE


class NoDevice(KernelError):
    """ENODEV: no such device, or it is gone."""

    number = _errno.ENODEV


class NoSuchDeviceOrAddress(KernelError):
    """ENXIO: an offset that nothing stands behind."""

    number = _errno.ENXIO


class AccessDenied(KernelError):
    """EACCES: file permissions or a token."""

    number = _errno.EACCES


class InputOutput(KernelError):
    """EIO: the device does not answer."""

    number = _errno.EIO


class Deadlock(KernelError):
    """EDEADLOCK: an access does not let go of its pages."""

    number = _errno.EDEADLOCK


class TryAgain(KernelError):
    """EAGAIN: contended, or nothing there yet."""

    number = _errno.EAGAIN


class TooManyFiles(KernelError):
    """EMFILE: no free file descriptor."""

    number = _errno.EMFILE


class IllegalSeek(KernelError):
    """ESPIPE: a read whose size or offset the file does not take."""

    number = _errno.ESPIPE


class NoProcess(KernelError):
    """ESRCH: the process is gone."""

    number = _errno.ESRCH


class Interrupted(KernelError):
    """EINTR: a signal came first."""

    number = _errno.EINTR


class OutOfRange(KernelError):
    """ERANGE: a number outside what the call takes."""

    number = _errno.ERANGE


class FileTooBig(KernelError):
    """EFBIG: a write behind the end of a file that cannot grow."""

    number = _errno.EFBIG


class NoMessage(KernelError):
    """ENOMSG: a device that runs has no more state to give out yet."""

    number = _errno.ENOMSG


class InvalidExchange(KernelError):
    """EBADE: the selftests' comparison of pinned pages found another page."""

    number = _errno.EBADE
