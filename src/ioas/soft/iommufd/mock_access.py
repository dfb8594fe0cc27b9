"""The test access of the kernel's selftests: an access behind a file descriptor (selftest.c, 7.3)."""

from __future__ import annotations

import select
from errno import EBADE, EBADFD, EINVAL, ENODEV, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP, EOVERFLOW, ESPIPE
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE, Caller
from ioas.soft.iommufd.access import Access
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.soft.memory import Held
from ioas.uapi.iommufd_test import (
    MOCK_ACCESS_RW_SLOW_PATH,
    MOCK_ACCESS_RW_WRITE,
    MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
    MOCK_FLAGS_ACCESS_WRITE,
    iommu_test_cmd,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommufd.context import Context

_NAME = "[iommufd_test_staccess]"
_LENGTH_MAX = 16 << 20
_ALWAYS_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM


class _Item(NamedTuple):
    """A pin of a test access."""

    number: int
    iova: int
    length: int


class AccessFile:
    """An access and its pins (implements `ioas.host.File`); closing it lets go of everything."""

    def __init__(self, context: Context, *, pins: bool) -> None:
        self.pins = pins
        """Whether pages can be pinned through it."""
        self.access = Access(context, self._unmap, pins=pins)
        self._system = context.system
        self._items: list[_Item] = []
        self._next = 0
        self._open = True

    def pin(self, iova: int, length: int, *, write: bool) -> list[int]:
        """Pin pages; return their frame numbers. `keep` or `unpin` must follow."""
        return self.access.pin_pages(iova, length, write=write)

    def keep(self, iova: int, length: int) -> int:
        """Remember a pin; return its number."""
        item = _Item(self._next, iova, length)
        self._next += 1
        self._items.append(item)
        return item.number

    def drop(self, number: int) -> None:
        """Let go of pin `number`. Raises KernelError(ENOENT)."""
        for item in self._items:
            if item.number == number:
                self._items.remove(item)
                self.access.unpin_pages(item.iova, item.length)
                return
        raise refuse(ENOENT, f"{self.access} has no pin {number}", "object", f"pin {number} of {self.access}")

    def _unmap(self, iova: int, length: int) -> None:
        for item in list(self._items):
            if item.iova < iova + length and iova < item.iova + item.length:
                self._items.remove(item)
                self.access.unpin_pages(item.iova, item.length)

    # -- ioas.host.File

    @property
    def device_number(self) -> tuple[int, int]:
        """An anonymous file."""
        return 0, 0

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """ENOTTY: the operations are commands of the iommufd file."""
        raise refuse(ENOTTY, "a test access has no requests", "request", f"{request:#x}")

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """EINVAL; ESPIPE at an offset, which no anonymous file has."""
        raise refuse(EINVAL if offset is None else ESPIPE, "a test access cannot be read", "file", _NAME)

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """As `read`."""
        raise refuse(EINVAL if offset is None else ESPIPE, "a test access cannot be written", "file", _NAME)

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV in the kernel, which says it for every file that cannot be mapped."""
        raise refuse(ENODEV, "a test access cannot be mapped", "file", _NAME)

    def poll(self, caller: Caller) -> int:
        """Always ready."""
        return _ALWAYS_READY

    def close(self) -> None:
        """Unpin everything and destroy the access (iommufd_test_staccess_release). Idempotent."""
        with self._system.lock:
            if self._open:
                self._open = False
                self._unmap(0, 1 << 64)
                self.access.release()


def create_access(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_CREATE_ACCESS: an access to IOAS `id`, as a file descriptor (iommufd_test_create_access)."""
    command = call.command
    flags = command.create_access.flags
    if flags & ~MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES:
        raise refuse(EOPNOTSUPP, f"flags {flags:#x} are not all known", "field", "flags")
    file = AccessFile(call.context, pins=bool(flags))
    try:
        file.access.attach(command.id)
        call.respond()  # before the descriptor exists, for it could not be taken back
        command.create_access.out_access_fd = _install(call.caller, file)
        call.respond()
    except KernelError:
        file.close()
        raise


def destroy_access_pages(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_DESTROY_ACCESS_PAGES: let go of one pin of access `id`."""
    command = call.command
    _access(call.caller, command.id).drop(command.destroy_access_pages.access_pages_id)


def access_replace_ioas(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_ACCESS_REPLACE_IOAS: move access `id` to another IOAS."""
    command = call.command
    _access(call.caller, command.id).access.replace(command.access_replace_ioas.ioas_id)


def access_pages(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_ACCESS_PAGES: pin through access `id`, and compare with the pages at an address (EBADE)."""
    command = call.command
    operation = command.access_pages
    iova, length, address = operation.iova, operation.length, operation.uptr
    _check(length, operation.flags, MOCK_FLAGS_ACCESS_WRITE)
    file = _access(call.caller, command.id)
    if not file.pins:
        raise refuse(EOPNOTSUPP, f"{file.access} was made for copying only", "object", file.access)
    call.context.system.failures.point("list of pages")
    frames = file.pin(iova, length, write=bool(operation.flags & MOCK_FLAGS_ACCESS_WRITE))
    try:
        if address:
            _compare(call, address - iova % PAGE_SIZE, frames)
        call.respond()
    except KernelError:
        file.access.unpin_pages(iova, length)
        raise
    operation.out_access_pages_id = file.keep(iova, length)
    call.respond()


def access_rw(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_ACCESS_RW: copy between IOVA and user memory through access `id` (iommufd_test_access_rw)."""
    command, memory = call.command, call.caller.memory
    operation = command.access_rw
    iova, length, flags = operation.iova, operation.length, operation.flags
    _check(length, flags, MOCK_ACCESS_RW_WRITE | MOCK_ACCESS_RW_SLOW_PATH)
    access = _access(call.caller, command.id).access
    call.context.system.failures.point("buffer")
    current = None if flags & MOCK_ACCESS_RW_SLOW_PATH else memory
    if flags & MOCK_ACCESS_RW_WRITE:
        access.write(iova, memory.read(operation.uptr, length) if length else b"", current)
    else:
        memory.write(operation.uptr, access.read(iova, length, current))


def _check(length: int, flags: int, known: int) -> None:
    if length > _LENGTH_MAX:
        raise refuse(ENOMEM, f"length {length:#x} is above {_LENGTH_MAX:#x}", "limit", _LENGTH_MAX)
    if flags & ~known:
        raise refuse(EOPNOTSUPP, f"flags {flags:#x} are not all known", "field", "flags")


def _access(caller: Caller, fd: int) -> AccessFile:
    """The test access behind `fd`. Raises KernelError(EBADFD) for anything else, even for no file at all."""
    try:
        file = caller.file(fd)
    except KernelError as error:
        raise refuse(EBADFD, f"descriptor {fd} is not a test access: {error.refusal.reason}", "file", fd) from error
    if not isinstance(file, AccessFile):
        raise refuse(EBADFD, f"descriptor {fd} is not a test access", "file", fd)
    return file


def _install(caller: Caller, file: AccessFile) -> int:
    """A descriptor for `file`. Raises KernelError(ENOMEM) when there is none left."""
    try:
        return caller.install(file)
    except KernelError as error:
        raise refuse(ENOMEM, f"no descriptor for a test access: {error.refusal.reason}", "limit", "files") from error


def _compare(call: Call[iommu_test_cmd], address: int, frames: list[int]) -> None:
    """Whether the pages at `address` stand in `frames` (iommufd_test_check_pages)."""
    for index, frame in enumerate(frames):
        held = hold_page(call, address + index * PAGE_SIZE)
        same = held.pfn(0) == frame
        held.release()
        if not same:
            raise refuse(
                EBADE, "the pinned page is not the one at this address", "address", address + index * PAGE_SIZE
            )


def hold_page(call: Call[iommu_test_cmd], address: int) -> Held:
    """Pin the page of the caller's memory that `address` is in.

    Follows gup_fast_fallback (mm/gup.c, 7.3), the test module's way to pages. Raises KernelError: EFAULT; EOVERFLOW for
    the last page of all, for where it ends is looked at before whether it is there.
    """
    start = address & -PAGE_SIZE
    if start + PAGE_SIZE > ULONG_MAX:
        raise refuse(EOVERFLOW, "the page ends where addresses end", "address", start)
    system = call.context.system
    with system.failures.spared():
        return system.memory.hold(call.caller.memory, start, 1, write=False)
