"""Memory to pin: a whole PinSource in a few lines, with hooks and a count of what is pinned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from errno import EFAULT
from itertools import count
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SIZE, Extent

if TYPE_CHECKING:
    from typing_extensions import Buffer

_names = count()


class RamBacking:
    """One way to the bytes of a `Ram`; dead once its pin is released, as a mapping that was undone."""

    def __init__(self, ram: Ram) -> None:
        self.ram = ram
        self.alive = True

    @property
    def key(self) -> Hashable:
        return self.ram.key

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        self.ram.before_read(offset, length)
        self._check(offset, length)
        return b"".join(bytes(self.ram.page(at >> 12)[at & 4095 : (at & 4095) + n]) for at, n in _split(offset, length))

    def write(self, offset: int, data: Buffer) -> None:
        data = bytes(data)
        self._check(offset, len(data))
        self.ram.before_write(offset, len(data))
        self._check(offset, len(data))
        for at, n in _split(offset, len(data)):
            self.ram.page(at >> 12)[at & 4095 : (at & 4095) + n] = data[at - offset : at - offset + n]

    def _check(self, offset: int, length: int) -> None:
        if not self.alive:
            raise refuse(EFAULT, "this pin was released", "address", offset)
        if offset + length > self.ram.pages * PAGE_SIZE:
            raise refuse(EFAULT, "beyond the memory", "address", offset)


class RamPin:
    def __init__(self, ram: Ram, extents: Sequence[Extent], backing: RamBacking) -> None:
        self.ram = ram
        self.extents = extents
        self.how = "buffer"
        self._backing = backing

    def release(self) -> None:
        if self._backing.alive:
            self._backing.alive = False
            for extent in self.extents:
                self.ram.pinned.subtract(range(extent.page, extent.page + extent.count))


class Ram:
    """`pages` pages of memory, of frames of 2**order pages; bytes exist where they were touched."""

    def __init__(self, pages: int = 1 << 20, order: int = 0, count_pins: bool = True) -> None:
        self.key: Hashable = ("ram", next(_names))
        self.pages = pages
        self.order = order
        self.pinned: Counter[int] = Counter()
        self.before_read: Callable[[int, int], None] = lambda offset, length: None
        self.before_write: Callable[[int, int], None] = lambda offset, length: None
        self._count_pins = count_pins
        self._bytes: dict[int, bytearray] = {}

    def page(self, number: int) -> bytearray:
        return self._bytes.setdefault(number, bytearray(PAGE_SIZE))

    def pin(self, start: int, count: int, write: bool) -> RamPin:
        page = start >> 12
        if page + count > self.pages:
            raise refuse(EFAULT, "a hole", "address", start)
        backing = RamBacking(self)
        if self._count_pins:
            self.pinned.update(range(page, page + count))
        return RamPin(self, [Extent(backing, page, count, self.order)], backing)

    @property
    def idle(self) -> bool:
        """Whether nothing is pinned."""
        return not any(self.pinned.values())


class Patchwork:
    """An address range made of several `Ram`s: extents (ram, page, count)."""

    def __init__(self, *parts: tuple[Ram, int, int]) -> None:
        self.parts = parts

    def pin(self, start: int, count: int, write: bool) -> RamPin:
        pins = [ram.pin(page << 12, length, write) for ram, page, length in self.parts]
        return _Pins(pins)


class _Pins(RamPin):
    def __init__(self, pins: Sequence[RamPin]) -> None:
        self.extents = [extent for pin in pins for extent in pin.extents]
        self.how = "buffer"
        self._pins = pins

    def release(self) -> None:
        for pin in self._pins:
            pin.release()


def _split(offset: int, length: int) -> list[tuple[int, int]]:
    """Cut at page boundaries."""
    pieces = []
    while length:
        taken = min(length, PAGE_SIZE - (offset & 4095))
        pieces.append((offset, taken))
        offset += taken
        length -= taken
    return pieces
