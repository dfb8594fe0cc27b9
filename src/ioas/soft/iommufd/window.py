"""Memory of a physical IOMMU that a program maps through its iommufd file (struct iommufd_mmap, main.c, 7.3)."""

from __future__ import annotations

import fcntl
import os
from errno import EBUSY, ENOMEM, ENXIO
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SIZE

if TYPE_CHECKING:
    from ioas.soft.iommufd.objects import Object


class Window:
    """`length` bytes at `offset` of the iommufd file. Its owner cannot be destroyed while it is mapped."""

    def __init__(self, windows: Windows, owner: Object, offset: int, length: int) -> None:
        self._windows = windows
        self.owner = owner
        self.offset = offset
        self.length = length
        self.fd = _memory(offset + length)  # at the same offset as in the iommufd file

    def write(self, offset: int, data: bytes) -> None:
        """Store, as the hardware behind the window would."""
        os.pwrite(self.fd, data, self.offset + offset)

    @property
    def mapped(self) -> bool:
        """Whether any process maps it. If none does, none can from now on: ask before destroying the owner."""
        try:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)  # refused while there is a shared mapping
        except OSError as error:
            if error.errno != EBUSY:
                raise
            return True
        return False

    def close(self) -> None:
        """Nothing maps it any more."""
        del self._windows.by_offset[self.offset]
        os.close(self.fd)


def _memory(size: int) -> int:
    """A memory file. Raises KernelError(ENOMEM) when there is none to be had."""
    try:
        fd = os.memfd_create("iommufd-window", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise refuse(ENOMEM, f"no memory for a window: {error.strerror}", "limit", size) from error
    return fd


class Windows:
    """The windows of one context."""

    def __init__(self) -> None:
        self.by_offset: dict[int, Window] = {}

    def open(self, owner: Object, length: int) -> Window:
        """A new one, at the lowest offset from 4096 where it fits (_iommufd_alloc_mmap). Raises KernelError(ENOMEM)."""
        offset = PAGE_SIZE
        for taken in sorted(self.by_offset):
            if taken >= offset + length:
                break
            offset = max(offset, taken + self.by_offset[taken].length)
        window = self.by_offset[offset] = Window(self, owner, offset, length)
        return window

    def find(self, offset: int, length: int) -> Window:
        """The window that is just there. Raises KernelError(ENXIO) for anything else, a part of one too."""
        window = self.by_offset.get(offset)
        if window is None or window.length != length:
            raise refuse(ENXIO, f"no object offers just {length:#x} bytes at offset {offset:#x}", "address", offset)
        return window
