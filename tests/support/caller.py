"""A caller made of nothing but Python: memory with holes, capabilities and limits to order, files by number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from errno import EBADF, EBADFD, EFAULT, EINVAL, ESRCH
from itertools import count
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Capability, DeviceMapping, EventFd, File, Pin
from ioas.host.local_files import LocalEventFd
from tests.support.ram import Patchwork, Ram, RamPin

if TYPE_CHECKING:
    from typing_extensions import Buffer


class FakeMemory:
    """An address space: pages of `Ram`s at addresses, and nothing elsewhere.

    A pin keeps to its page when the address moves on.
    """

    def __init__(self, memlock: int | None = None) -> None:
        self.memlock = memlock
        self.pinned_pages = 0
        self.locked_pages = 0
        self.alive = True
        self.devices: list[DeviceMapping] = []
        """Device files that are mapped, by address."""
        self._pages: dict[int, tuple[Ram, int, bool]] = {}
        self._next = 0x7F00_0000_0000

    def map(
        self, pages: int, *, at: int | None = None, ram: Ram | None = None, first: int = 0, write: bool = True
    ) -> int:
        """Map `pages` of `ram` (new memory by default) from its page `first`; return the address, aligned to 2 MiB."""
        if at is None:
            at = self._next
            self._next += (pages + 511 & -512) << PAGE_SHIFT
        ram = ram or Ram(first + pages)
        for index in range(pages):
            self._pages[(at >> PAGE_SHIFT) + index] = ram, first + index, write
        return at

    def unmap(self, address: int, pages: int) -> None:
        for index in range(pages):
            del self._pages[(address >> PAGE_SHIFT) + index]

    def read(self, address: int, length: int) -> bytes:
        self._check_alive()
        pieces = self._pieces(address, length, write=False)
        return b"".join(bytes(ram.page(page)[at : at + size]) for ram, page, at, size in pieces)

    def write(self, address: int, data: Buffer) -> None:
        self._check_alive()
        data = bytes(data)
        for ram, page, at, size in self._pieces(address, len(data), write=True):
            ram.page(page)[at : at + size], data = data[:size], data[size:]

    def protect(self, address: int) -> None:
        """Make a page one that may only be read."""
        ram, page, _ = self._pages[address >> PAGE_SHIFT]
        self._pages[address >> PAGE_SHIFT] = ram, page, False

    def _check_alive(self) -> None:
        if not self.alive:
            raise refuse(ESRCH, "nobody has this memory any more")

    def pin(self, start: int, count: int, write: bool) -> Pin:
        runs: list[tuple[Ram, int, int]] = []
        for address in range(start, start + (count << PAGE_SHIFT), PAGE_SIZE):
            ram, page = self._page(address, write)
            if runs and runs[-1][0] is ram and runs[-1][1] + runs[-1][2] == page:
                runs[-1] = ram, runs[-1][1], runs[-1][2] + 1
            else:
                runs.append((ram, page, 1))
        return Patchwork(*runs).pin(0, count, write)

    def memlock_limit(self) -> int | None:
        return self.memlock

    def device_memory(self, start: int, end: int) -> Sequence[DeviceMapping]:
        found = []
        for one in self.devices:
            low, high = max(start, one.address), min(end, one.address + one.length)
            if low < high:
                moved = one.offset + low - one.address
                found.append(DeviceMapping(low, high - low, one.file, moved, one.writable))
        return found

    def _page(self, address: int, write: bool) -> tuple[Ram, int]:
        found = self._pages.get(address >> PAGE_SHIFT) if self.alive else None
        if found is None or (write and not found[2]):
            raise refuse(EFAULT, "no such memory", "address", address)
        return found[0], found[1]

    def _pieces(self, address: int, length: int, write: bool) -> list[tuple[Ram, int, int, int]]:
        pieces = []
        while length > 0:
            size = min(PAGE_SIZE - address % PAGE_SIZE, length)
            pieces.append((*self._page(address, write), address % PAGE_SIZE, size))
            address += size
            length -= size
        return pieces


class FakeFile(Ram):
    """A memfd."""

    @property
    def size(self) -> int:
        return self.pages * PAGE_SIZE

    def pin(self, start: int, count: int, write: bool) -> RamPin:
        if (start >> PAGE_SHIFT) + count > self.pages:
            raise refuse(EINVAL, "beyond the end of the file", "address", start)
        return super().pin(start, count, write)


class FakeCaller:
    """A process (implements `ioas.host.Caller`)."""

    _pids = count(100)

    def __init__(
        self, capabilities: Iterable[Capability] = tuple(Capability), *, uid: int = 1000, memlock: int | None = None
    ) -> None:
        self.pid = next(self._pids)
        self.uid = uid
        self.memory = FakeMemory(memlock)
        self.capabilities = set(capabilities)
        self.files: dict[int, File | FakeFile] = {}
        self.foreign: set[int] = set()
        """Descriptors of files that are neither memfds nor a host's."""

    def capable(self, capability: Capability) -> bool:
        return capability in self.capabilities

    def file(self, fd: int) -> File:
        found = self.files.get(fd)
        if found is None or isinstance(found, FakeFile):
            raise refuse(
                EBADF if found is None and fd not in self.foreign else EBADFD, "no file of the host", "file", fd
            )
        return found

    def memory_file(self, fd: int) -> FakeFile:
        found = self.files.get(fd)
        if isinstance(found, FakeFile):
            return found
        raise refuse(EINVAL if found or fd in self.foreign else EBADF, "no memfd", "file", fd)

    def eventfd(self, fd: int) -> EventFd:
        return LocalEventFd(fd)  # a real one, of this process

    def install(self, file: File | FakeFile, cloexec: bool = True) -> int:
        fd = next(number for number in count(3) if number not in self.files and number not in self.foreign)
        self.files[fd] = file
        return fd

    def close_all(self) -> None:
        for file in self.files.values():
            if not isinstance(file, FakeFile):
                file.close()
        self.files.clear()
