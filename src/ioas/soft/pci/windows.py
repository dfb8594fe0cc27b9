"""Where BARs lie in bus address space: what firmware does at boot.

Everything behind a root port lies in the port's windows, and windows do not overlap: 32-bit memory (non-prefetchable,
and prefetchable 32-bit), prefetchable 64-bit memory above 4 GiB, and I/O ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ioas.errors import UsageError
from ioas.soft.pci import header
from ioas.soft.pci.capabilities import SrIov

if TYPE_CHECKING:
    from ioas.soft.pci.bars import Bar
    from ioas.soft.pci.function import Function
    from ioas.soft.pci.topology import Bus

Space = Literal["memory", "prefetchable", "io"]


@dataclass(slots=True)
class _Room:
    """Free addresses of one space, from `next` to `last`, and the granularity of bridge windows in it."""

    next: int
    last: int
    granularity: int

    def take(self, size: int, alignment: int) -> int:
        start = self.next + alignment - 1 & ~(alignment - 1)
        if start + size - 1 > self.last:
            raise UsageError(f"the devices' BARs do not fit below {self.last:#x}: {size:#x} more bytes are needed")
        self.next = start + size
        return start


class Window(NamedTuple):
    """The addresses behind a root port in one space, inclusive."""

    start: int
    last: int


class _Request(NamedTuple):
    function: Function
    bar: Bar


def _rooms() -> dict[Space, _Room]:
    return {
        # Below the interrupt controllers' addresses at 0xfec00000, as on PCs.
        "memory": _Room(0xC0000000, 0xFEBFFFFF, 1 << 20),
        "prefetchable": _Room(0x80_0000_0000, 0xFF_FFFF_FFFF, 1 << 20),
        "io": _Room(0x1000, 0xFFFF, 1 << 12),
    }


def space_of(bar: Bar) -> Space:
    """Which window a BAR belongs into; 64-bit ones that are not prefetchable must lie below 4 GiB behind a bridge."""
    if bar.is_io:
        return "io"
    return "prefetchable" if bar.kind == "mem64" and bar.prefetchable else "memory"


def assign(root: Bus, buses: Iterable[Bus]) -> None:
    """Give every BAR an address and every port its windows; raises UsageError when they do not fit."""
    rooms = _rooms()
    for bus in buses:
        for space, room in rooms.items():
            window = _fill(bus, space, room)
            if bus.port is not None:
                _WRITERS[space](bus.port, window)
    for space, room in rooms.items():
        for function, bar in _requests(root, space):
            bar.assign(function.config, room.take(bar.extent, bar.size))


def _requests(bus: Bus, space: Space) -> list[_Request]:
    """The BARs of a bus in one space, largest first, so that natural alignment wastes nothing."""
    found = [
        _Request(function, bar)
        for function in bus.functions.values()
        for bar in [*function.bars, function.rom, *_windows_of_virtual(function)]
        if bar is not None and space_of(bar) == space
    ]
    return sorted(found, key=lambda request: -request.bar.size)


def _windows_of_virtual(function: Function) -> Sequence[Bar]:
    placed = function.find(SrIov)
    return placed[0].windows(placed[1]) if placed is not None else ()


def _fill(bus: Bus, space: Space, room: _Room) -> Window | None:
    requests = _requests(bus, space)
    if not requests:
        return None
    length = sum(request.bar.extent for request in requests)
    length = length + room.granularity - 1 & ~(room.granularity - 1)
    start = room.take(length, max(room.granularity, requests[0].bar.size))
    address = start
    for function, bar in requests:
        bar.assign(function.config, address)
        address += bar.extent
    return Window(start, start + length - 1)


def _set(port: Function, offset: int, width: int, value: int) -> None:
    port.config.write(offset, value.to_bytes(width, "little"))


# A closed window has a base above its limit.


def _write_memory(port: Function, window: Window | None) -> None:
    start, last = window or Window(0xFFF00000, 0)
    _set(port, header.MEMORY_BASE, 2, start >> 16)
    _set(port, header.MEMORY_LIMIT, 2, last >> 16 & 0xFFF0)


def _write_prefetchable(port: Function, window: Window | None) -> None:
    start, last = window or Window(0xFFF00000, 0)
    _set(port, header.PREFETCHABLE_BASE, 2, start >> 16 & 0xFFF0)
    _set(port, header.PREFETCHABLE_LIMIT, 2, last >> 16 & 0xFFF0)
    _set(port, header.PREFETCHABLE_BASE_UPPER, 4, start >> 32)
    _set(port, header.PREFETCHABLE_LIMIT_UPPER, 4, last >> 32)


def _write_io(port: Function, window: Window | None) -> None:
    start, last = window or Window(0xF000, 0)
    _set(port, header.IO_BASE, 1, start >> 8 & 0xF0)
    _set(port, header.IO_LIMIT, 1, last >> 8 & 0xF0)


_WRITERS = {"memory": _write_memory, "prefetchable": _write_prefetchable, "io": _write_io}


def windows_of(port: Function) -> dict[Space, Window | None]:
    """A port's windows, read back from its configuration space; None for a closed one."""
    config = port.config
    io = Window((config.get(header.IO_BASE, 1) & 0xF0) << 8, (config.get(header.IO_LIMIT, 1) & 0xF0) << 8 | 0xFFF)
    memory = Window(config.get(header.MEMORY_BASE, 2) << 16, config.get(header.MEMORY_LIMIT, 2) << 16 | 0xFFFFF)
    prefetchable = Window(
        config.get(header.PREFETCHABLE_BASE_UPPER, 4) << 32 | (config.get(header.PREFETCHABLE_BASE, 2) & 0xFFF0) << 16,
        config.get(header.PREFETCHABLE_LIMIT_UPPER, 4) << 32
        | (config.get(header.PREFETCHABLE_LIMIT, 2) & 0xFFF0) << 16
        | 0xFFFFF,
    )
    found: dict[Space, Window] = {"memory": memory, "prefetchable": prefetchable, "io": io}
    return {space: window if window.start <= window.last else None for space, window in found.items()}
