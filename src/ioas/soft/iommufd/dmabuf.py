"""DMA-BUFs: memory of a device or driver that an IOAS maps, and that its exporter may take back (pages.c, 7.3)."""

from __future__ import annotations

import select
from errno import EBADF, EINVAL, ENODEV, ENOTTY, EOPNOTSUPP, ESPIPE
from typing import TYPE_CHECKING
from weakref import WeakSet

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, AddressSpace, Caller, PinSource
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.pages import Owner, Pages

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommufd.context import Context


class DmaBuf:
    """`size` bytes of `source`, which can be mapped while they are not revoked."""

    def __init__(self, source: PinSource, size: int, *, ranges: int = 1) -> None:
        """`ranges`: how many pieces of memory it consists of; iommufd maps those of one piece."""
        self.source = source
        self.size = size
        self.ranges = ranges
        self.revoked = False
        self.importers: WeakSet[DmaBufPages] = WeakSet()
        """Who maps it. One that saw a revocation never maps again, even when the memory comes back."""

    def set_revoked(self, revoked: bool) -> None:
        """Take the memory back, or give it again. No DMA reaches it through present mappings when this returns."""
        self.revoked = revoked
        for pages in list(self.importers):
            pages.revoke()


class DmaBufPages(Pages):
    """Pages of a DMA-BUF. They count against nobody, and only devices reach them."""

    __slots__ = ("__weakref__", "_buffer", "_context", "revoked")

    def __init__(self, context: Context, owner: Owner, buffer: DmaBuf, start: int, count: int, writable: bool) -> None:
        super().__init__(context.system, owner, buffer.source, None, start, count, writable)
        self._context = context
        self._buffer = buffer  # whoever maps it keeps it, also when its file is closed
        self.revoked = False
        buffer.importers.add(self)

    @property
    def of_file(self) -> bool:
        """They are not."""
        return False

    @property
    def pinned(self) -> int:
        """None that count."""
        return 0

    def revoke(self) -> None:
        """Unmap every area of these pages from its domains, for good (iopt_revoke_notify)."""
        if self.revoked:
            return
        self.revoked = True
        for ioas in self._context.objects:
            if isinstance(ioas, Ioas):
                for area in ioas.iopt.areas:
                    if area.pages is self:
                        for domain in ioas.iopt.domains:
                            domain.unmap(area.start, area.length)

    def check_access(self) -> None:
        """EINVAL: software does not reach them (iopt_area_add_access, iopt_pages_rw_access)."""
        raise self._for_devices()

    def read(self, byte: int, length: int, current: AddressSpace | None) -> bytes:
        """EINVAL."""
        raise self._for_devices()

    def write(self, byte: int, data: Buffer, current: AddressSpace | None) -> None:
        """EINVAL."""
        raise self._for_devices()

    def charge(self, count: int) -> None:
        """Nothing is charged."""

    def _uncharge(self, count: int) -> None:
        """Nothing was charged."""

    def _for_devices(self) -> KernelError:
        return refuse(EINVAL, f"{self} are a DMA-BUF's, which only devices reach", "address", self.start)


class DmaBufFile:
    """The file of a DMA-BUF (implements `ioas.host.File`)."""

    device_number = (0, 0)

    def __init__(self, buffer: DmaBuf) -> None:
        self.buffer = buffer

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """ENOTTY."""
        raise refuse(ENOTTY, "this DMA-BUF has no requests", "request", f"{request:#x}")

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """EINVAL; ESPIPE at an offset."""
        raise refuse(EINVAL if offset is None else ESPIPE, "a DMA-BUF cannot be read", "file", "dmabuf")

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """As `read`."""
        raise refuse(EINVAL if offset is None else ESPIPE, "a DMA-BUF cannot be written", "file", "dmabuf")

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """EINVAL: its exporter lets nobody map it."""
        raise refuse(EINVAL, "this DMA-BUF cannot be mapped", "file", "dmabuf")

    def poll(self, caller: Caller) -> int:
        """Nothing is going on in it: ready for all."""
        return select.POLLIN | select.POLLOUT

    def close(self) -> None:
        """Mappings keep the memory."""


def dma_buf_of(caller: Caller, fd: int) -> DmaBuf | None:
    """The DMA-BUF behind a descriptor; None for anything else. Raises KernelError(EBADF)."""
    try:
        file = caller.file(fd)
    except KernelError as error:
        if error.errno == EBADF:
            raise
        return None
    return file.buffer if isinstance(file, DmaBufFile) else None


def dma_buf_pages(context: Context, owner: Owner, buffer: DmaBuf, start: int, length: int, writable: bool) -> Pages:
    """Pages for `length` bytes from byte `start`, which there are (iopt_alloc_dmabuf_pages)."""
    offset = start % PAGE_SIZE
    count = offset + length + PAGE_SIZE - 1 >> PAGE_SHIFT
    return DmaBufPages(context, owner, buffer, start - offset, count, writable)


def check_dma_buf(buffer: DmaBuf, fd: int, start: int, length: int) -> None:
    """Whether a part of the DMA-BUF behind `fd` can be mapped (iopt_alloc_dmabuf_pages).

    Raises KernelError: EINVAL, ENODEV when it is taken back, EOPNOTSUPP when it has several pieces.
    """
    if start + length > buffer.size:
        raise refuse(EINVAL, f"the DMA-BUF has only {buffer.size:#x} bytes", "file", fd)
    if buffer.revoked:
        raise refuse(ENODEV, "the DMA-BUF was taken back by its exporter", "file", fd)
    if buffer.ranges != 1:
        raise refuse(EOPNOTSUPP, f"a DMA-BUF of {buffer.ranges} ranges cannot be mapped, only one of one", "file", fd)
