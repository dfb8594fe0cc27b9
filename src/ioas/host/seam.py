"""The seam: one interface for the running kernel and for the software host.

Its verbs are system calls. A `Host` opens paths and hands out `File`s; a `File` answers ioctl, read,
write, mmap and close with the kernel's own structures as bytes, and refuses with `KernelError`.
Everything above works on either host and cannot tell which; everything below speaks only uAPI.

The second half of the seam faces the other way: a `Caller` is the process that makes *this* call - not
the one that opened the file, for a forked child or IOMMU_IOAS_CHANGE_PROCESS must count as itself. It
offers what the kernel would take from `current`: memory, file descriptors, credentials, limits.

Intervals are inclusive (`start`, `last`); `end` is exclusive; lengths are bytes; a page is 4096 bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NewType, Protocol, runtime_checkable

if TYPE_CHECKING:
    from typing_extensions import Buffer

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

UserAddress = NewType("UserAddress", int)
"""An address in a caller's address space."""
Iova = NewType("Iova", int)
"""An I/O virtual address: what a device puts on the bus."""
PhysicalAddress = NewType("PhysicalAddress", int)
"""An address in the (real or synthetic) physical memory of the host."""


class Capability(enum.IntEnum):
    """The capabilities that iommufd and VFIO ask for, by their number in linux/capability.h."""

    IPC_LOCK = 14
    SYS_RAWIO = 17
    SYS_ADMIN = 21
    SYS_RESOURCE = 24


class Host(Protocol):
    """A machine whose device nodes can be opened: the running kernel's or a software one."""

    def open(self, caller: Caller, path: str, flags: int) -> File:
        """Open a device node such as "/dev/iommu"; `flags` are O_*.

        Raises KernelError: ENOENT for a path that this host does not have, and what the node's own open answers.
        """
        ...


class File(Protocol):
    """An open file of a host. After `close` no other method may be called."""

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """Carry out a request; return its result (0 or more).

        `argument` is the third word of the call as an integer (a user address or a plain value), or a
        writable buffer that stands for the structure at that address (in-process callers). Structures are
        read and written in place. Raises KernelError.
        """
        ...

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """Read at most `length` bytes: from `offset`, or from the file position (None). Raises KernelError."""
        ...

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """Write `data` at `offset`, or at the file position (None): the number of bytes taken. Raises KernelError."""
        ...

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """The descriptor (owned by the host) to be mapped in place of this file, at `offset`. Raises KernelError."""
        ...

    def poll(self, caller: Caller) -> int:
        """The events (POLLIN, POLLOUT, ...) that are ready now."""
        ...

    @property
    def device_number(self) -> tuple[int, int]:
        """Major and minor for fstat(2) of a character device node; (0, 0) for an anonymous file."""
        ...

    def close(self) -> None:
        """The last reference is gone: release everything before returning. Cannot fail; idempotent."""
        ...


@runtime_checkable
class EventSource(Protocol):
    """What a `File` has besides when its readiness changes: a queue of events.

    Whoever hands out a descriptor for it makes that readable when `ready` is called, and looks at `poll` after a read.
    """

    def watch(self, ready: Callable[[], None]) -> None:
        """Let `ready` be called whenever something arrives to be read; it must not call back into the machine."""
        ...

    def restore(self) -> None:
        """What the last read gave could not be delivered: put it back, to be read again."""
        ...


class Backing(Protocol):
    """Memory with an identity: a shared file, a registered buffer, or an address space by address.

    Offsets are bytes; a *page* is an index of 4096 bytes. Two pins of the same page carry backings with
    equal `key`, whoever made them.
    """

    @property
    def key(self) -> Hashable:
        """The identity, for example ("file", dev, ino) or ("mm", id)."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes; raises KernelError(EFAULT) when the memory is gone."""
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of `data`; raises KernelError(EFAULT) when the memory is gone."""
        ...


class Extent(NamedTuple):
    """`count` consecutive pages of a backing, from page index `page`.

    `order` models contiguity: aligned groups of 2**order pages are physically contiguous (0: ordinary
    4 KiB frames, 9: 2 MiB, 18: 1 GiB).
    """

    backing: Backing
    page: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    order: int


class Pin(Protocol):
    """Pages held in memory for DMA until `release`."""

    @property
    def extents(self) -> Sequence[Extent]:
        """What is held, in order of address; the counts add up to the pages asked for."""
        ...

    @property
    def how(self) -> str:
        """How it is held: "buffer", "shared file", "io_uring" or "address" (it follows the address, not the page)."""
        ...

    def release(self) -> None:
        """Let go. Idempotent."""
        ...


class PinSource(Protocol):
    """Something that pages can be pinned from: an address space (by user address) or a file (by offset)."""

    def pin(self, start: int, count: int, write: bool) -> Pin:
        """Pin `count` pages from page-aligned byte `start`.

        Raises KernelError: EFAULT for a hole or missing permission, EINVAL beyond a file's end.
        """
        ...


class DeviceMapping(NamedTuple):
    """A stretch of an address space that shows a device's memory: `length` bytes of `file` from byte `offset`."""

    address: int
    length: int
    file: File
    """The host's file that was mapped."""
    offset: int
    writable: bool


class AddressSpace(PinSource, Protocol):
    """A caller's memory (the kernel's mm). One object for each address space, shared by its threads."""

    pinned_pages: int
    """What the kernel shows as VmPin, in pages; kept by the host's accounting."""
    locked_pages: int
    """What the kernel shows as VmLck, in pages; kept by the host's accounting."""

    def read(self, address: int, length: int) -> bytes:
        """Copy in; raises KernelError: EFAULT unless all of it is there, ESRCH when nobody has it any more."""
        ...

    def write(self, address: int, data: Buffer) -> None:
        """Copy out; raises KernelError as `read`."""
        ...

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK of the process in bytes; None for no limit."""
        ...

    def device_memory(self, start: int, end: int) -> Sequence[DeviceMapping]:
        """What of `start` to `end` (exclusive) shows memory of this host's devices, by address; it cannot be pinned."""
        ...


class MemoryFile(PinSource, Protocol):
    """A file whose pages can be mapped for DMA (IOMMU_IOAS_MAP_FILE): a memfd."""

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        ...


class EventFd(Protocol):
    """A host's own reference to a caller's eventfd; stays valid after the caller closes its descriptor."""

    def signal(self, count: int = 1) -> None:
        """Add `count`; never blocks and never fails."""
        ...

    def fileno(self) -> int:
        """The host's own descriptor of it, for those that the program signals (INTx unmask, VFIO_DEVICE_IOEVENTFD)."""
        ...

    def close(self) -> None:
        """Drop the reference. Idempotent."""
        ...


class Caller(Protocol):
    """The process that makes this call (the kernel's `current`)."""

    @property
    def pid(self) -> int:
        """Thread-group id."""
        ...

    @property
    def uid(self) -> int:
        """Real user id, by which locked memory is counted."""
        ...

    @property
    def memory(self) -> AddressSpace:
        """Its address space."""
        ...

    def capable(self, capability: Capability) -> bool:
        """Whether the effective set has `capability`, or the software machine grants it (--cap)."""
        ...

    def file(self, fd: int) -> File:
        """The host's file behind descriptor `fd`. Raises KernelError: EBADF; EBADFD when it is none of this host's."""
        ...

    def memory_file(self, fd: int) -> MemoryFile:
        """The memfd behind `fd`. Raises KernelError: EBADF, or EINVAL when its pages cannot be pinned."""
        ...

    def eventfd(self, fd: int) -> EventFd:
        """A reference to the eventfd behind `fd`. Raises KernelError: EBADF, or EINVAL when it is none."""
        ...

    def install(self, file: File, cloexec: bool = True) -> int:
        """Give the caller a new descriptor for `file`; return its number. Raises KernelError(EMFILE)."""
        ...
