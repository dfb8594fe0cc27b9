"""An open file of a host, as Python programs hold one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable
from weakref import WeakSet

from ioas.api.checks import whole
from ioas.errors import KernelError, UsageError
from ioas.host import Caller, File, Host

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.api.group import Group

_OFFSET_LAST = (1 << 63) - 1
"""What pread(2) takes."""


class Program(Caller, Protocol):
    """The calling process, that this API is used in: `ioas.host.local.LocalCaller`, `ioas.kernel.KernelCaller`."""

    def register(self, buffer: Buffer) -> int:
        """Keep `buffer` in place until `unregister`; returns its address. Raises UsageError."""
        ...

    def register_again(self, address: int) -> None:
        """Count one more `register` of the buffer at `address`."""
        ...

    def unregister(self, address: int) -> None:
        """Undo one `register`."""
        ...

    def adopt(self, fd: int) -> None:
        """Promise to close `fd`, which `install` returned, by `close_fd`."""
        ...

    def settle(self, fd: int) -> None:
        """To be called after a read from a queue of events: its descriptor then polls rightly."""
        ...

    def close_fd(self, fd: int) -> None:
        """Close a descriptor. Raises KernelError(EBADF)."""
        ...

    def before_call(self) -> None:
        """To be called before a call on a file."""
        ...

    def close(self) -> None:
        """Close what is left."""
        ...

    def held(self) -> dict[str, int]:
        """What is held now, by kind, without zeros (for leak checks)."""
        ...


@runtime_checkable
class QuickFile(Protocol):
    """A file whose ioctl can be had without a Python function around it: the running kernel's."""

    @property
    def quick(self) -> Callable[[int, memoryview], int]:
        """The call. Raises OSError as it is."""
        ...

    def refusal(self, error: OSError, request: int, argument: int | Buffer) -> KernelError:
        """The same with what inspection finds out."""
        ...


class PhysicalMemory(Protocol):
    """What no-IOMMU mode needs: memory that stays where it is, and where that is."""

    def lock(self, address: int, length: int) -> None:
        """Keep the pages in memory. Raises KernelError: ENOMEM, EPERM."""
        ...

    def unlock(self, address: int, length: int) -> None:
        """Undo it."""
        ...

    def runs(self, address: int, length: int) -> list[tuple[int, int]]:
        """The physical addresses of locked memory, in order, and how many bytes follow each. Raises KernelError."""
        ...


class Session:
    """A host and the caller that uses it: what all files opened on one host share, and what keeps both alive."""

    def __init__(
        self,
        host: Host,
        caller: Program,
        stop: Callable[[], None],
        physical: PhysicalMemory | None = None,
        *,
        pins: bool = False,
    ) -> None:
        """`stop` ends the host; called once, after all files have been closed.

        `physical`: where memory is, for devices without an IOMMU. `pins`: the host pins memory by itself, as the
        running kernel does, and buffers only have to stay alive.
        """
        self.host = host
        self.caller = caller
        self.physical = physical
        self.pins = pins
        self.files: WeakSet[OpenFile] = WeakSet()
        self.groups: dict[str, Group] = {}
        self._stop = stop
        self.closed = False

    def close(self) -> None:
        """Close every file that is still open, and stop the host. Idempotent.

        Raises KernelError(EBADF), with everything done all the same, when the program closed a descriptor by itself.
        """
        if self.closed:
            return
        self.closed = True
        with ExitStack() as last_to_first:
            last_to_first.callback(self._stop)
            last_to_first.callback(self.caller.close)
            for file in list(self.files):
                last_to_first.callback(file.close)

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            warnings.warn(f"unclosed {self.host!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


class OpenFile:
    """An open device node.

    Its descriptor is real, so select, poll and asyncio take it. Use it as a context manager.
    """

    file: File

    def __init__(self, session: Session, path: str, fd: int | None = None) -> None:
        """Raises KernelError as the node's open does. `fd`: a descriptor that a call has returned, to be owned."""
        self._fd = -1
        self.session = session
        self.path = path
        if fd is None:
            self._open_node()
        else:
            self._own(fd, session.caller.file(fd))

    def _open_node(self) -> None:
        caller = self.session.caller
        caller.before_call()
        file = self.session.host.open(caller, self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fd = caller.install(file)
        except BaseException:
            file.close()
            raise
        self._own(fd, file)

    def _own(self, fd: int, file: File) -> None:
        """Take over a descriptor of a file of this host."""
        self.file = file
        self.session.caller.adopt(fd)
        self._fd = fd
        self.session.files.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}{' (closed)' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def fileno(self) -> int:
        """The file descriptor. Raises UsageError when closed."""
        self.check_open()
        return self._fd

    def check_open(self) -> None:
        """Raises UsageError when closed."""
        if self._fd < 0:
            raise UsageError(f"{self.path} is closed")

    def ioctl(self, request: int, argument: int | Buffer = 0) -> int:
        """Make a call: `argument` is a structure of `ioas.uapi`, any writable buffer, an address or a plain value.

        Returns the result (0 or more). Raises KernelError with the reason; UsageError when closed.
        """
        self.check_open()
        caller = self.session.caller
        caller.before_call()
        return self.file.ioctl(caller, request, argument)

    def quick_ioctl(self) -> Callable[[int, memoryview], int]:
        """`ioctl` for a hot path, not to be used after `close`; what it raises is to be given to `refusal`."""
        return self.file.quick if isinstance(self.file, QuickFile) else self.ioctl

    def refusal(self, error: OSError, request: int, argument: int | Buffer) -> OSError:
        """The exception to raise for what `quick_ioctl` raised."""
        if isinstance(error, KernelError) or not isinstance(self.file, QuickFile):
            return error
        return self.file.refusal(error, request, argument)

    def read(self, length: int, offset: int | None = None) -> bytes:
        """Read at most `length` bytes, at `offset` if there is one. Raises as `ioctl`."""
        self.check_open()
        length, offset = whole("length", length, _OFFSET_LAST), _offset(offset)
        caller = self.session.caller
        caller.before_call()
        return self.file.read(caller, length, offset)

    def write(self, data: Buffer, offset: int | None = None) -> int:
        """Write `data` (bytes, or any buffer), at `offset` if there is one; the number of bytes taken.

        Raises as `ioctl`.
        """
        self.check_open()
        data, offset = bytes(memoryview(data)), _offset(offset)
        caller = self.session.caller
        caller.before_call()
        return self.file.write(caller, data, offset)

    def close(self) -> None:
        """Close the descriptor; the file ends when no duplicate of it is left. Idempotent.

        In a forked child only the child's descriptor is closed.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self.session.files.discard(self)
            self.session.caller.close_fd(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def _offset(offset: int | None) -> int | None:
    return None if offset is None else whole("offset", offset, _OFFSET_LAST)
