"""Dirty pages of a type 1 container: VFIO_IOMMU_DIRTY_PAGES, and bitmaps that come with an unmap.

Follows drivers/vfio/vfio_iommu_type1.c (7.3). It knows of no device that tells what it has written, so every page that
is mapped is dirty whenever somebody asks (update_user_bitmap: groups whose pages are not pinned one by one). What is
left to get right is which questions are refused, and the form of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EINVAL, EOVERFLOW
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.uapi.vfio import vfio_bitmap

if TYPE_CHECKING:
    from ioas.host import AddressSpace
    from ioas.soft.vfio.type1_maps import Dma

_WORD = 64
_MOST_PAGES = (1 << 31) - 1
LARGEST_BITMAP = (_MOST_PAGES + _WORD) // _WORD * 8
"""DIRTY_BITMAP_SIZE_MAX, in bytes."""
_USER_END = (1 << 47) - 4096
"""Where user addresses end (TASK_SIZE_MAX of x86-64 with four levels)."""
_ULONG_MAX = (1 << 64) - 1


def check_bitmap(bitmap: vfio_bitmap, size: int) -> None:
    """Whether a bitmap lies in user memory and has a bit for each page of `size` bytes.

    Follows access_ok and verify_bitmap_size. Raises KernelError(EINVAL).
    """
    if bitmap.data + bitmap.size > _USER_END:
        raise refuse(EINVAL, "the bitmap does not lie in user memory", "address", bitmap.data)
    shift = (bitmap.pgsize & -bitmap.pgsize).bit_length() - 1
    pages = size >> shift if shift >= 0 else 0
    needed = -(-pages // _WORD) * 8
    if not pages or not bitmap.size or bitmap.size > LARGEST_BITMAP or bitmap.size < needed:
        raise refuse(EINVAL, f"a bitmap of {bitmap.size} bytes does not fit {pages} pages: {needed}", "field", "bitmap")


def check_range(iova: int, size: int) -> int:
    """The last IOVA of a range that is asked about. Raises KernelError: EINVAL for an empty one, EOVERFLOW."""
    if not size:
        raise refuse(EINVAL, "the range is empty", "field", "size")
    if iova + size - 1 > _ULONG_MAX:
        raise refuse(EOVERFLOW, "the range wraps around", "field", "size")
    return iova + size - 1


def write_bitmap(memory: AddressSpace, address: int, base: int, granule: int, maps: Iterable[Dma]) -> None:
    """Set the bits of all pages of `maps` in the bitmap at `address`, whose first bit stands for the page at `base`.

    As the kernel does it: in whole words, of which the first keeps what it has unless the mapping begins with it.
    Raises KernelError(EFAULT).
    """
    for dma in maps:
        first, count = (dma.iova - base) // granule, dma.size // granule
        word, shift = divmod(first, _WORD)
        place = address + word * 8
        bits = ((1 << count) - 1) << shift
        if shift:
            bits |= int.from_bytes(memory.read(place, 8), "little")
        memory.write(place, bits.to_bytes(-(-(count + shift) // _WORD) * 8, "little"))
