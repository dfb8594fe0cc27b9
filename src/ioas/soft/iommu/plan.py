"""Which page sizes a mapping is made of.

Everything is counted in granules of the format. A segment's granule x has the physical granule ``base + (x ^ flip)``
(see `Run`), also where a 4 KiB frame is two granules of 2 KiB; so a row of equal pages, however scattered, is again a
formula, which the mapper evaluates a table at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ioas.host import PAGE_SHIFT
from ioas.soft.memory import Segment


class Strip(NamedTuple):
    """`pages` pages of 2**`size` granules from IOVA granule `iova` on.

    Page i stands at physical granule ``base + ((x + (i << size)) ^ flip)``.
    """

    iova: int
    x: int
    base: int
    flip: int
    size: int
    pages: int


def strips(
    iova: int, segments: Iterable[Segment], offset: int, length: int, granule_lg2: int, sizes: int
) -> Iterator[Strip]:
    """Cut a mapping into strips of the largest pages that fit, as pt_compute_best_pgsize (7.3) chooses them.

    `iova`, `offset` (into the first segment) and `length` are bytes, and multiples of the smallest of `sizes`,
    a bitmap of sizes in granules. Ends with `length` or with the segments, whichever comes first.
    """
    iova >>= granule_lg2
    offset >>= granule_lg2
    length >>= granule_lg2
    shift = PAGE_SHIFT - granule_lg2
    for run, first, count in segments:
        x = (first << shift) + offset
        rest = min((count << shift) - offset, length)
        offset = 0
        length -= rest
        base, flip = run.base << shift, run.flip << shift
        contiguous = sizes & (flip << 1) - 1 if flip else sizes
        while rest:
            size, pages = _pages(iova, base + (x ^ flip), rest, contiguous)
            yield Strip(iova, x, base, flip, size, pages)
            taken = pages << size
            iova += taken
            x += taken
            rest -= taken


def _pages(iova: int, address: int, rest: int, sizes: int) -> tuple[int, int]:
    """The size (lg2) of the largest page that fits here, and how many of it come before a larger one would."""
    bits = iova | address
    aligned = (bits & -bits).bit_length() or rest.bit_length()
    limit = min(aligned, rest.bit_length())
    size = (sizes & (1 << limit) - 1).bit_length() - 1
    larger = sizes >> (size + 1)
    if larger:
        next_size = size + (larger & -larger).bit_length()
        ahead = -iova & (1 << next_size) - 1
        if not (iova ^ address) & (1 << next_size) - 1 and ahead and rest - ahead >= 1 << next_size:
            return size, ahead >> size
    return size, rest >> size
