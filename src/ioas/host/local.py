"""The in-process caller: this very process, for programs that use ioas as a library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ioas.host.seam import AddressSpace, Capability, EventFd, File, MemoryFile

if TYPE_CHECKING:
    from typing_extensions import Buffer


class LocalCaller:
    """This process as a caller (implements `ioas.host.Caller`)."""

    def __init__(self, grants: Iterable[Capability] = (), *, strict: bool = False) -> None:
        """`grants`: capabilities it has besides its own; `strict`: refuse pins that only follow an address."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Thread-group id."""
        raise NotImplementedError

    @property
    def uid(self) -> int:
        """Real user id."""
        raise NotImplementedError

    @property
    def memory(self) -> AddressSpace:
        """This process's memory."""
        raise NotImplementedError

    def capable(self, capability: Capability) -> bool:
        """Whether the thread's effective set or the grants have `capability`."""
        raise NotImplementedError

    def file(self, fd: int) -> File:
        """The file that `install` put behind `fd` or a duplicate of it. EBADF, EBADFD."""
        raise NotImplementedError

    def memory_file(self, fd: int) -> MemoryFile:
        """The file behind `fd`; pinning from it is EINVAL unless it is a memfd. EBADF."""
        raise NotImplementedError

    def eventfd(self, fd: int) -> EventFd:
        """A duplicate of the eventfd behind `fd`. EBADF, EINVAL."""
        raise NotImplementedError

    def install(self, file: File, cloexec: bool = True) -> int:
        """A real descriptor for `file`, that select, poll and asyncio take. EMFILE."""
        raise NotImplementedError

    def register(self, buffer: Buffer) -> int:
        """Keep `buffer` in place for DMA; returns its address. Pins outlive `unregister`."""
        raise NotImplementedError

    def unregister(self, address: int) -> None:
        """Undo one `register`."""
        raise NotImplementedError

    def close(self, fd: int) -> None:
        """close(2) on a descriptor of `install`; the last of its duplicates closes the file."""
        raise NotImplementedError
