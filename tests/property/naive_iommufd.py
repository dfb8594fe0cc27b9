"""A naive iommufd: what 7.3 promises, in dicts of single pages and lists that are searched from the front.

No interval trees, no page tables, no sharing of work: each page of each mapping is an entry of its own. It says what
every call must answer (a result, or the errno), what bytes a device must see, and how many pages are pinned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from errno import EADDRINUSE, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, EPERM

PAGE = 4096
TOP = (1 << 64) - 1
READ, WRITE = 1, 2
APERTURE = {"vtd": (0, (1 << 48) - 1), "mock": (1 << 24, (1 << 31) - 1)}
GRANULE = {"vtd": PAGE, "mock": 2048}
REGIONS = {"vtd": [(0xFEE0_0000, 0xFEEF_FFFF)], "mock": []}

Page = tuple[int, int]
"""A page's identity: which memory, which page of it."""


class Refused(Exception):  # noqa: N818 - it is no error: the call must answer so
    """The call must fail with this errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


@dataclass(eq=False)
class Pages:
    """Memory that was mapped by one call: which pages are held now, and how many things need each."""

    start: int
    writable: bool
    held: dict[int, Page] = field(default_factory=dict)
    needs: Counter[int] = field(default_factory=Counter)


@dataclass(eq=False)
class Area:
    start: int
    last: int
    pages: Pages
    byte: int
    prot: int
    pins: int = 0

    def indices(self) -> range:
        return range(self.byte // PAGE, (self.byte + self.last - self.start) // PAGE + 1)

    def index(self, iova: int) -> int:
        return (self.byte + iova - self.start) // PAGE


@dataclass(eq=False)
class Space:
    """An IOAS. `devices` are kinds of unit, each with a domain; `reserved` is by who reserved it."""

    areas: dict[int, Area] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    reserved: list[tuple[str, int, int]] = field(default_factory=list)
    allowed: list[tuple[int, int]] = field(default_factory=list)
    accesses: int = 0
    alignment: int = 1

    def sorted(self) -> list[Area]:
        return [self.areas[start] for start in sorted(self.areas)]

    def meeting(self, start: int, last: int) -> list[Area]:
        return [area for area in self.sorted() if area.start <= last and start <= area.last]

    def under(self, iova: int, last: int) -> list[tuple[Area, int, int]]:
        """The parts of areas that make up a range without a hole."""
        parts = []
        while iova <= last:
            here = self.meeting(iova, iova)
            if not here:
                raise Refused(ENOENT)
            end = min(last, here[0].last)
            parts.append((here[0], iova, end))
            iova = end + 1
        return parts


@dataclass(eq=False)
class Pin:
    """What an access holds: a range, and the pages under it."""

    space: Space
    iova: int
    length: int
    parts: list[tuple[Area, int, int]]


class Machine:
    """Everything there is. `memory` is what addresses show now: page number to (identity, writable)."""

    def __init__(self, limit: int) -> None:
        self.memory: dict[int, tuple[Page, bool]] = {}
        self.limit = limit

    # -- pages

    def need(self, pages: Pages, indices: Iterable[int]) -> None:
        """Something needs these pages: hold those that are not."""
        indices = list(indices)
        new = {}
        for index in indices:
            if index not in pages.held:
                page, writable = self.memory.get(pages.start // PAGE + index, ((0, 0), False))
                if page == (0, 0) or (pages.writable and not writable):
                    raise Refused(EFAULT)
                new[index] = page
        if self.pinned + len(new) > self.limit:
            raise Refused(ENOMEM)
        pages.held.update(new)
        pages.needs.update(indices)
        self.pinned += len(new)

    pinned = 0

    def spare(self, pages: Pages, indices: Iterable[int]) -> None:
        """Undo one `need`."""
        for index in indices:
            pages.needs[index] -= 1
            if not pages.needs[index]:
                del pages.held[index]
                self.pinned -= 1

    # -- mapping

    def map(self, space: Space, address: int, length: int, iova: int | None, prot: int) -> int:
        start = address - address % PAGE
        return self.map_parts(
            space, [(Pages(start, bool(prot & WRITE)), address - start, length)], length, iova, prot, address
        )

    def copy(self, source: Space, at: int, length: int, target: Space, iova: int | None, prot: int) -> int:
        parts = [
            (area.pages, area.byte + first - area.start, last - first + 1)
            for area, first, last in source.under(at, at + length - 1)
        ]
        return self.map_parts(target, parts, length, iova, prot, parts[0][0].start + parts[0][1])

    def map_parts(
        self, space: Space, parts: list[tuple[Pages, int, int]], length: int, iova: int | None, prot: int, address: int
    ) -> int:
        if length % space.alignment:
            raise Refused(EINVAL)
        iova = self.place(space, address, length) if iova is None else self.check_free(space, iova, length)
        areas = []
        at = iova
        for pages, byte, size in parts:
            if prot & WRITE and not pages.writable:
                raise Refused(EPERM)
            if byte % PAGE % space.alignment:
                raise Refused(EINVAL)
            areas.append(Area(at, at + size - 1, pages, byte, prot))
            at += size
        if space.devices:
            self.fill(space, areas)
        space.areas.update((area.start, area) for area in areas)
        return iova

    def fill(self, space: Space, areas: list[Area]) -> None:
        done: list[Area] = []
        try:
            for area in areas:
                self.need(area.pages, area.indices())
                done.append(area)
                granule = max(GRANULE[kind] for kind in space.devices)
                if (area.start | area.last + 1 | area.byte % PAGE) % granule:
                    raise Refused(EINVAL)  # a copy of several areas that do not line up
        except Refused:
            for area in done:
                self.spare(area.pages, area.indices())
            raise

    def check_free(self, space: Space, iova: int, length: int) -> int:
        if iova % space.alignment:
            raise Refused(EINVAL)
        if any(start <= iova + length - 1 and iova <= last for _, start, last in space.reserved):
            raise Refused(EINVAL)
        if space.meeting(iova, iova + length - 1):
            raise Refused(EEXIST)
        return iova

    def place(self, space: Space, address: int, length: int) -> int:
        alignment = 1
        while alignment < length:
            alignment *= 2
        while address % alignment:
            alignment //= 2
        alignment = min(alignment, 2 << 20)
        if alignment < space.alignment:
            raise Refused(EINVAL)
        used = [(area.start, area.last) for area in space.sorted()]
        used += [(start, last) for _, start, last in space.reserved]

        def place(start: int, last: int) -> int | None:
            found = -(-start // alignment) * alignment | address % PAGE
            return found if found < last and last - found >= length - 1 else None

        for window_start, window_last in _merged(space.allowed) or [(PAGE, TOP - PAGE)]:
            window_last = min(window_last, TOP - PAGE)
            position = place(max(window_start, PAGE), window_last)
            if position is None:
                continue
            for start, last in [*sorted(used), (TOP + 1, TOP + 1)]:
                gap_last = min(start - 1, window_last)
                found = place(position, gap_last)
                if position <= gap_last and found is not None:
                    return found
                position = max(position, last + 1)
        raise Refused(ENOSPC)

    def unmap(self, space: Space, start: int, last: int, pins: list[Pin]) -> int:
        """Unmap; pins in the way are let go, and taken out of `pins`."""
        removed = 0
        for area in space.meeting(start, last):
            if area.start < start or area.last > last:
                raise Refused(ENOENT)
            for pin in [pin for pin in pins if pin.space is space and area.pins]:
                if pin.iova <= area.last and area.start < pin.iova + pin.length:
                    self.unpin(pin)
                    pins.remove(pin)
            del space.areas[area.start]
            if space.devices:
                self.spare(area.pages, area.indices())
            removed += area.last - area.start + 1
        return removed

    # -- devices

    def attach(self, space: Space, kind: str) -> None:
        """Attach a device of a kind of unit that the space does not have yet."""
        before = list(space.reserved)
        start, last = APERTURE[kind]
        outside = [(0, start - 1)] if start else []
        try:
            self.reserve(space, kind, REGIONS[kind])
            alignment = max(space.alignment, GRANULE[kind])
            self.check_alignment(space, alignment)
            self.reserve(space, kind, [*outside, (last + 1, TOP)])
            if not space.devices:
                space.devices.append(kind)
                try:
                    self.fill(space, space.sorted())
                finally:
                    space.devices.remove(kind)
        except Refused:
            space.reserved = before
            raise
        space.devices.append(kind)
        space.alignment = alignment

    def detach(self, space: Space, kind: str) -> None:
        space.devices.remove(kind)
        space.reserved = [entry for entry in space.reserved if entry[0] != kind]
        if not space.devices:
            for area in space.areas.values():
                self.spare(area.pages, area.indices())
        self.realign(space)

    def reserve(self, space: Space, owner: str, ranges: Iterable[tuple[int, int]]) -> None:
        for start, last in ranges:
            if space.meeting(start, last) or any(a <= last and start <= b for a, b in space.allowed):
                raise Refused(EADDRINUSE)
            space.reserved.append((owner, start, last))

    def allow(self, space: Space, ranges: list[tuple[int, int]]) -> None:
        for number, (start, last) in enumerate(ranges):
            if start >= last or any(a <= last and start <= b for a, b in ranges[:number]):
                raise Refused(EINVAL)
        if any(a <= last and start <= b for start, last in ranges for _, a, b in space.reserved):
            raise Refused(EADDRINUSE)
        space.allowed = ranges

    def check_alignment(self, space: Space, alignment: int) -> None:
        if alignment > space.alignment and any(
            (area.start | area.last + 1 - area.start | area.byte % PAGE) % alignment for area in space.areas.values()
        ):
            raise Refused(EADDRINUSE)

    def realign(self, space: Space) -> None:
        alignment = max([1, *(GRANULE[kind] for kind in space.devices), *([PAGE] if space.accesses else [])])
        self.check_alignment(space, alignment)
        space.alignment = alignment

    # -- accesses

    def open_access(self, space: Space) -> None:
        space.accesses += 1
        try:
            self.realign(space)
        except Refused:
            space.accesses -= 1
            raise

    def close_access(self, space: Space) -> None:
        space.accesses -= 1
        self.realign(space)

    def pin(self, space: Space, iova: int, length: int, write: bool) -> Pin:
        parts: list[tuple[Area, int, int]] = []
        end = iova + length - 1
        try:
            while iova <= end:
                ((area, first, last),) = space.under(iova, min(end, iova))
                last = min(end, area.last)
                if (area.byte + first - area.start) % PAGE:
                    raise Refused(EINVAL)
                if last < end and (area.byte + last - area.start) % PAGE != PAGE - 1:
                    raise Refused(EINVAL)
                if not area.prot & (WRITE if write else READ):
                    raise Refused(EPERM)
                self.need(area.pages, range(area.index(first), area.index(last) + 1))
                area.pins += 1
                parts.append((area, first, last))
                iova = last + 1
        except Refused:
            self.unpin(Pin(space, 0, 0, parts))
            raise
        return Pin(space, parts[0][1], end - parts[0][1] + 1, parts)

    def unpin(self, pin: Pin) -> None:
        for area, first, last in pin.parts:
            area.pins -= 1
            self.spare(area.pages, range(area.index(first), area.index(last) + 1))


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, last in sorted(ranges):
        if joined and joined[-1][1] + 1 >= start:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((start, last))
    return joined
