"""`Memory`: page-aligned memory of this process, made for DMA."""

from __future__ import annotations

import ctypes
import mmap
import os
from errno import ENOMEM
from typing import Literal, Protocol, Self

from ioas.api.checks import whole
from ioas.errors import UsageError, refuse
from ioas.host import PAGE_SIZE

MemoryKind = Literal["anonymous", "hugetlb", "memfd"]

HUGE_PAGE = 2 << 20
"""The huge page of x86-64 that machines usually have some of."""

_MAP_HUGETLB, _HUGE_SHIFT = 0x40000, 26  # uapi/asm-generic/hugetlb_encode.h, uapi/asm-generic/mman-common.h


class Keeper(Protocol):
    """Something that keeps memory in place for as long as a mapping of it needs that."""

    @property
    def address(self) -> int:
        """Where the memory begins."""
        ...

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...

    @property
    def writable(self) -> bool:
        """Whether Python lets anybody write to it."""
        ...

    def again(self) -> Keeper:
        """One more keeper of the same memory."""
        ...

    def release(self) -> None:
        """Let go of the memory. Idempotent."""
        ...


class Memory:
    """Zeroed, page-aligned memory, to be mapped in one or several address spaces (`Space.map`).

    "anonymous" is ordinary memory, "hugetlb" consists of huge pages (few table entries, physically contiguous each),
    "memfd" is a file that other processes can be given, by `fileno`. It lives on while mappings or views of it do.
    """

    __slots__ = ("_fd", "_memory", "_view", "address", "kind", "size")

    writable = True

    def __init__(self, length: int, kind: MemoryKind = "anonymous", *, huge_page: int = HUGE_PAGE) -> None:
        """At least `length` bytes (`size` says how many: whole pages). `huge_page` is for "hugetlb", in bytes.

        Raises UsageError for 0 bytes or a size that is none; OutOfMemory when there is not so much.
        """
        self._fd = -1  # first, for `close` is called whatever fails here
        if whole("length", length) == 0:
            raise UsageError("length is 0, and has to be positive")
        page = _page_size(kind, huge_page)
        self.kind = kind
        self.size = -(-length // page) * page
        try:
            self._memory = self._mapped(page)
        except (OSError, OverflowError) as error:
            raise _out_of_memory(length, kind, page) from error
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._view: memoryview | None = memoryview(self._memory)[:length]

    def _mapped(self, page: int) -> mmap.mmap:
        if self.kind == "memfd":
            self._fd = os.memfd_create("ioas", os.MFD_CLOEXEC)
            os.truncate(self._fd, self.size)
            return mmap.mmap(self._fd, self.size)
        if self.kind == "hugetlb":
            flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_HUGETLB | (page.bit_length() - 1) << _HUGE_SHIFT
            return mmap.mmap(-1, self.size, flags)
        return mmap.mmap(-1, self.size)

    def __repr__(self) -> str:
        return f"<Memory {self.kind}, {self.size:#x} bytes{' (closed)' if self._view is None else ''}>"

    def __len__(self) -> int:
        return len(self.view)

    @property
    def view(self) -> memoryview:
        """The bytes that were asked for. Raises UsageError when closed."""
        if self._view is None:
            raise UsageError("the memory is closed")
        return self._view

    @property
    def buffer(self) -> mmap.mmap:
        """All `size` bytes, as what the buffer protocol knows. For hosts."""
        return self._memory

    def fileno(self) -> int:
        """The descriptor of a "memfd". Raises UsageError for other kinds, and when closed."""
        if self._fd < 0:
            raise UsageError(f"{self!r} has no descriptor")
        return self._fd

    def again(self) -> Memory:
        """Itself: whoever refers to it keeps it in place."""
        return self

    def release(self) -> None:
        """Nothing: who does not refer to it any more does not keep it."""

    def close(self) -> None:
        """Let go of it: it ends when mappings, views and arrays of it do. Idempotent."""
        self._view = None
        fd, self._fd = self._fd, -1  # a mapping of it does not need the descriptor
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _page_size(kind: MemoryKind, huge_page: int) -> int:
    if kind not in ("anonymous", "hugetlb", "memfd"):
        raise UsageError(f"{kind!r} is no kind of memory; kinds are anonymous, hugetlb and memfd")
    if kind != "hugetlb":
        return PAGE_SIZE
    if huge_page < PAGE_SIZE or huge_page.bit_count() != 1:
        raise UsageError(f"huge_page is {huge_page:#x}, and has to be a power of two from {PAGE_SIZE:#x}")
    return huge_page


def _out_of_memory(length: int, kind: MemoryKind, page: int) -> Exception:
    if kind != "hugetlb":
        return refuse(ENOMEM, f"{length:#x} bytes of memory cannot be had", "field", "length")
    pool = f"/sys/kernel/mm/hugepages/hugepages-{page >> 10}kB/nr_hugepages"
    return refuse(ENOMEM, f"{length:#x} bytes cannot be had in huge pages of {page >> 10} KiB", "limit", pool)
