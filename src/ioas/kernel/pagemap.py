"""Where memory of this process is: /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst, 7.3), and locking."""

from __future__ import annotations

import ctypes
import os
from array import array
from errno import EFAULT, ENOMEM, EPERM

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE

_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1

_libc = ctypes.CDLL(None, use_errno=True)
for _call in (_libc.mlock, _libc.munlock):
    _call.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Pagemap:
    """Physical memory for no-IOMMU mode (implements `ioas.api.files.PhysicalMemory`)."""

    def lock(self, address: int, length: int) -> None:
        """Keep pages in memory, and bring them in. Raises KernelError: ENOMEM beyond RLIMIT_MEMLOCK, EPERM."""
        if _libc.mlock(address, length):
            number = ctypes.get_errno()
            limit = "RLIMIT_MEMLOCK" if number in (ENOMEM, EPERM) else "memory"
            raise refuse(number, f"{length:#x} bytes cannot be locked: {os.strerror(number)}", "limit", limit)

    def unlock(self, address: int, length: int) -> None:
        """Undo it."""
        _libc.munlock(address, length)

    def runs(self, address: int, length: int) -> list[tuple[int, int]]:
        """The physical addresses of memory, in order, and how many bytes follow each. Whole pages.

        Raises KernelError: EPERM without CAP_SYS_ADMIN, to which alone the kernel tells; EFAULT: not there.
        """
        runs: list[tuple[int, int]] = []
        for entry in _entries(address, length):
            if not entry & _PRESENT:
                raise refuse(EFAULT, "no page is there", "address", address)
            start = (entry & _FRAME) << PAGE_SHIFT
            if not start:
                raise refuse(EPERM, "the kernel tells where memory is to CAP_SYS_ADMIN alone",
                             "capability", "CAP_SYS_ADMIN")  # fmt: skip
            if runs and sum(runs[-1]) == start:
                runs[-1] = runs[-1][0], runs[-1][1] + PAGE_SIZE
            else:
                runs.append((start, PAGE_SIZE))
        return runs


def _entries(address: int, length: int) -> array[int]:
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        return array("Q", os.pread(pagemap.fileno(), length >> PAGE_SHIFT << 3, address >> PAGE_SHIFT << 3))
