"""`DeviceFile`: an open VFIO device, whichever way it was opened (vfio_device_fops of vfio_main.c, 7.3).

There are two: `Cdev` is opened by its own node and has to be bound to an iommufd, `GroupDevice` comes from an open
group and answers at once. What differs is said there; region access, mappings and requests of the device stand here.
"""

from __future__ import annotations

import os
import select
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from errno import EACCES, EBADF, EINVAL
from mmap import MAP_SHARED, PROT_WRITE
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import refuse
from ioas.host import Caller
from ioas.soft.pci import access
from ioas.soft.vfio import regions
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.commands import COMMANDS, NOT_BOUND, Command, dispatch
from ioas.soft.vfio.mapped_memory import MemoryPart
from ioas.uapi.vfio import VFIO_PCI_CONFIG_REGION_INDEX

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.vfio.device import VfioDevice


_PREPARED = 1024
_Prepared = tuple[Callable[[], bytes], Callable[[bytes], None]]
"""A load and a store at one place."""


class DeviceFile(ABC):
    """An open device (implements `ioas.host.File`). Nothing works before `bound`."""

    is_cdev: ClassVar[bool] = False
    """Whether it was opened as a cdev: what it owns is then told by its iommufd, else by groups."""
    commands: ClassVar[Mapping[int, Command]] = COMMANDS
    """What the device knows through this kind of file."""

    def __init__(self, device: VfioDevice, access: int = os.O_RDWR) -> None:
        """`access`: O_RDONLY, O_WRONLY or O_RDWR; reading and writing need it, ioctl does not."""
        self.device = device
        self.bound = False
        """Whether the device may be used through this file (`access_granted` in the kernel)."""
        self.access = access
        """O_RDONLY, O_WRONLY or O_RDWR."""
        self._position = 0
        self._closed = False
        self._prepared: dict[tuple[int, int], _Prepared] = {}
        device.files += 1

    @property
    @abstractmethod
    def device_number(self) -> tuple[int, int]:
        """The node's major and minor; (0, 0) for a file without one."""

    @abstractmethod
    def bind(self, argument: Argument) -> int:
        """VFIO_DEVICE_BIND_IOMMUFD, which every file is asked before it is bound. Raises KernelError."""

    @abstractmethod
    def release(self) -> None:
        """Give up the device, which is bound; `System.lock` is held. Cannot fail."""

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """VFIO_DEVICE_*; see `ioas.soft.vfio.commands`. Raises KernelError."""
        with self.device.mapped_memory.settled():
            return dispatch(self, Argument(caller, argument), request)

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """Read from a region: the offset is region index << 40 plus the byte in the region. Raises KernelError."""
        self._check("read", os.O_WRONLY)
        with self.device.mapped_memory.settled(), self.device.power.awake(), self.kept_bound(self.device.lock):
            data = regions.read(self.device, self._position if offset is None else offset, length)
        if offset is None:
            self._position += len(data)
        return data

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """Write to a region, as `read`; the number of bytes taken. Raises KernelError."""
        self._check("write", os.O_RDONLY)
        place = self._position if offset is None else offset
        settled, awake = self.device.mapped_memory.settled(), self.device.power.awake()
        with settled, awake, self._locks_of(place), self.kept_bound(self.device.lock):
            count = regions.write(self.device, place, data)
        if offset is None:
            self._position += count
        return count

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """-1: a mapped BAR has no memory of its own, its loads and stores come to `load` and `store`.

        Raises KernelError: EACCES when the file is not open for that; EINVAL (`regions.check_mapping`).
        """
        if self.access == os.O_WRONLY or (
            self.access == os.O_RDONLY and protection & PROT_WRITE and flags & MAP_SHARED
        ):
            raise refuse(EACCES, "the file is not open for this kind of mapping", "file", self.device.name)
        self._check_bound("mmap")
        regions.check_mapping(self.device, length, bool(flags & MAP_SHARED), offset)
        return -1

    def memory(self, offset: int, length: int) -> list[MemoryPart]:
        """The parts of a mapping of `length` bytes at file offset `offset` that are memory of the device.

        They can be mapped without a trap, and are out of reach from then on while the device does not answer.
        """
        return self.device.mapped_memory.parts(offset, length)

    def answers(self, offset: int) -> bool:
        """Whether loads and stores through a mapping of `offset` reach the device; else a kernel gives SIGBUS."""
        with self.device.lock:
            return self.bound and self.device.answers_mappings

    def load(self, offset: int, length: int) -> bytes | None:
        """A load through a mapping, from file offset `offset`; None where `answers` is false."""
        with self.device.lock:
            if not (self.bound and self.device.answers_mappings):
                return None
            prepared = self._prepared.get((offset, length)) or self._prepare(offset, length)
            return prepared[0]()

    def store(self, offset: int, data: bytes) -> bool:
        """A store through a mapping; False where `answers` is."""
        with self.device.lock:
            if not (self.bound and self.device.answers_mappings):
                return False
            prepared = self._prepared.get((offset, len(data))) or self._prepare(offset, len(data))
            prepared[1](data)
        return True

    def _prepare(self, offset: int, length: int) -> _Prepared:
        """How to make such an access, for the next time as well: programs come back to the same registers."""
        place = self.device.function, offset >> regions.OFFSET_SHIFT, offset & regions.OFFSET_MASK, length
        if len(self._prepared) >= _PREPARED:
            self._prepared.clear()
        prepared = self._prepared[offset, length] = access.reader(*place), access.writer(*place)
        return prepared

    def poll(self, caller: Caller) -> int:
        """A device file has no poll operation: it is always ready."""
        return select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM

    def close(self) -> None:
        """With the last one: interrupts off, device reset and disabled, detached, unbound. Idempotent."""
        with self.device.system.lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self.bound:
                    self.bound = False
                    with self.device.mapped_memory.settled():
                        self.release()
            finally:
                self.device.files -= 1  # last: whoever unbinds the device waits for this

    def _locks_of(self, offset: int) -> AbstractContextManager[object]:
        """What to hold besides the device's lock: configuration space can take exports out of page tables."""
        in_config = offset >> regions.OFFSET_SHIFT == VFIO_PCI_CONFIG_REGION_INDEX
        return self.device.system.lock if in_config else nullcontext()

    @contextmanager
    def kept_bound(self, lock: threading.RLock) -> Iterator[None]:
        """Hold the device's or the machine's lock, with the file bound: another thread may have closed it meanwhile.

        In the kernel a call holds its file open; a closed file of ours refuses. Raises KernelError(EBADF).
        """
        with lock:
            self.check_open()
            yield

    def check_open(self) -> None:
        """Raises KernelError(EBADF) once the file is closed. The machine's lock or the device's is held."""
        if self._closed:
            raise refuse(EBADF, "the device file has been closed during the call", "device", self.device.name)

    def _check(self, what: str, forbidden: int) -> None:
        if self.access == forbidden:
            raise refuse(EBADF, f"the file is not open for {what}", "file", self.device.name)
        self._check_bound(what)

    def _check_bound(self, what: str) -> None:
        if not self.bound:
            raise refuse(EINVAL, NOT_BOUND, "request", what)
