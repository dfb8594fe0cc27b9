"""The DMA-BUFs of the kernel's selftests: some pages of the test module's memory (selftest.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Extent
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.dmabuf import DmaBuf, DmaBufFile, dma_buf_of
from ioas.uapi.iommufd_test import iommu_test_cmd

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PAGES_MAX = 512


class _Memory:
    """Bytes of the test module's own, physically contiguous (a PinSource, and its Backing)."""

    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)
        self._order = (size >> PAGE_SHIFT).bit_length()
        self.key = ("test dma-buf", id(self))

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._bytes[offset : offset + length])

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        self._bytes[offset : offset + len(view)] = view

    def pin(self, start: int, count: int, write: bool) -> _Pin:
        return _Pin(Extent(self, start >> PAGE_SHIFT, count, self._order))


class _Pin:
    how = "device memory"

    def __init__(self, extent: Extent) -> None:
        self.extents = (extent,)

    def release(self) -> None:
        """The memory stays where it is."""


def dmabuf_get(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_DMABUF_GET: a DMA-BUF of some pages; the call returns its descriptor.

    7.3 makes the descriptor and returns 0, so that no test gets hold of it (iommufd_test_dmabuf_get).
    """
    size = -(-call.command.dmabuf_get.length // PAGE_SIZE) * PAGE_SIZE
    if not 0 < size <= _PAGES_MAX * PAGE_SIZE:
        raise refuse(EINVAL, f"a test DMA-BUF has 1 to {_PAGES_MAX} pages, not {size} bytes", "field", "length")
    call.result = call.caller.install(DmaBufFile(DmaBuf(_Memory(size), size)))


def dmabuf_revoke(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_DMABUF_REVOKE: take a test DMA-BUF back, or give it again. Raises KernelError: EBADF, EINVAL."""
    asked = call.command.dmabuf_revoke
    buffer = dma_buf_of(call.caller, asked.dmabuf_fd)
    if buffer is None:
        raise refuse(EINVAL, "the descriptor is no DMA-BUF", "file", asked.dmabuf_fd)
    if not isinstance(buffer.source, _Memory):
        raise refuse(EOPNOTSUPP, "the DMA-BUF is not one of the tests'", "file", asked.dmabuf_fd)
    buffer.set_revoked(bool(asked.revoked))
