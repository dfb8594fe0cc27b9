"""Page tables against a naive model: a dict from granule to physical granule, for every format.

The table is read by a second walker (tests/support/walkers.py) that knows nothing but the specifications and the
bytes in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from ioas.errors import AddressInUse, InvalidArgument
from ioas.soft.iommu import Domain, System, amd_unit, mock_unit, vtd_unit
from tests.support.ram import Ram
from tests.support.walkers import Found, walk_amd, walk_first_stage, walk_vtd

MAKERS: dict[str, Callable[[], Domain]] = {
    "vtd": lambda: vtd_unit(System()).domain(),
    "vtd-39": lambda: vtd_unit(System(), address_width=39).domain(),
    "vtd-57": lambda: vtd_unit(System(), address_width=57).domain(),
    "first-48": lambda: vtd_unit(System(), scalable=True).domain(),
    "first-57": lambda: vtd_unit(System(), scalable=True, address_width=57).domain(),
    "parent-57": lambda: vtd_unit(System(), scalable=True, address_width=57).domain(nest_parent=True),
    "amd": lambda: amd_unit(System()).domain(),
    "amd-39": lambda: amd_unit(System(), address_width=39).domain(),
    "amd-57": lambda: amd_unit(System(), address_width=57).domain(),
    "mock": lambda: mock_unit(System()).domain(),
    "mock-huge": lambda: mock_unit(System()).domain(huge=True),
}
G = 1 << 30
TOP = 1 << 60
"""A place that stands for the last 16 MiB of the aperture."""

PLACES = st.builds(
    lambda base, page: base + (page << 12),
    st.sampled_from([0, G, 5 * G - (300 << 12), 1 << 36, TOP]),
    st.one_of(st.integers(0, 30), st.sampled_from([0, 256, 511, 512, 513, 1024]), st.integers(0, 2000)),
)
COUNTS = st.one_of(st.integers(1, 4), st.integers(1, 1600), st.sampled_from([16, 512, 1024]))
MAPS = st.tuples(
    st.just("map"),
    PLACES,
    COUNTS,
    st.sampled_from([0, 0, 9]),  # order of the frames
    st.integers(0, 3),  # page of the backing that it begins at
    st.booleans(),  # half a page in, where granules allow
    st.booleans(),  # large pages
)
UNMAPS = st.tuples(st.just("unmap"), PLACES, COUNTS)
UNMAP_WHAT_IS_MAPPED = st.tuples(st.just("unmap area"), st.integers(0, 30))


class Model:
    """The domain, and what should be in it."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.memory = domain.unit.system.memory
        self.granule = domain.granule
        self.pages: dict[int, int] = {}
        self.areas: list[tuple[int, int]] = []

    def place(self, iova: int) -> int:
        """Where a place is in this domain."""
        return iova if iova < TOP else iova - TOP + self.domain.geometry.last + 1 - (16 << 20)

    def map(self, iova: int, count: int, order: int, first: int, half: bool, large: bool) -> None:
        held = self.memory.hold(Ram(pages=1 << 20, order=order, count_pins=False), first << 12, count, True)
        offset = 2048 if half and self.granule == 2048 else 0
        length = (count << 12) - offset
        iova += offset
        granules = range(iova, iova + length, self.granule)
        arguments = (iova, held.segments, offset, length, 3)
        if any(granule in self.pages for granule in granules):
            with pytest.raises(AddressInUse):
                self.domain.map(*arguments, large=large)
            held.release()
            return
        self.domain.map(*arguments, large=large)
        for granule in granules:
            at = granule - iova + offset
            self.pages[granule] = (held.pfn(at >> 12) << 12) + (at & 4095)
        self.areas.append((iova, length))

    def unmap(self, iova: int, length: int) -> None:
        mapped = [granule for granule in range(iova, iova + length, self.granule) if granule in self.pages]
        try:
            assert self.domain.unmap(iova, length) == len(mapped) * self.granule
        except InvalidArgument:
            assert self.cuts(iova, length), "refused, although no page would be cut"
            return
        for granule in mapped:
            del self.pages[granule]

    def unmap_area(self, index: int) -> None:
        if self.areas:
            self.unmap(*self.areas.pop(index % len(self.areas)))

    def cuts(self, iova: int, length: int) -> bool:
        for inside in (iova, iova + length - self.granule):
            found = self.hardware(inside)
            if found is not None:
                start = inside // found.size * found.size
                if start < iova or start + found.size > iova + length:
                    return True
        return False

    def hardware(self, iova: int) -> Found | None:
        root, form = self.domain.table.root << 12, self.domain.format
        if form.name == "vtdss":
            return walk_vtd(self.memory.read, root, form.levels, iova)
        if form.name == "x86_64":
            return walk_first_stage(self.memory.read, root, form.levels, iova)
        return walk_amd(self.memory.read, root, form.levels, iova, 1 << form.granule_lg2)

    def check(self, probes: list[int]) -> None:
        probes = probes + sorted(self.pages)[:: max(1, len(self.pages) // 40)]
        for iova, length in self.areas:
            probes += [iova, iova + length - self.granule, iova - self.granule, iova + length]
        for probe in probes:
            if probe >= 0:
                self.check_one(probe // self.granule * self.granule)

    def check_one(self, iova: int) -> None:
        expected = self.pages.get(iova)
        found = self.hardware(iova + 7)
        if expected is None:
            assert found is None
            assert self.domain.phys(iova + 7) is None
        else:
            assert found is not None
            assert found[:1] + found[2:] == (expected + 7, True, True)
            assert self.domain.page_sizes & found.size
            assert self.domain.phys(iova + 7) == expected + 7


@pytest.mark.parametrize("name", list(MAKERS))
@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(MAPS, MAPS, UNMAPS, UNMAP_WHAT_IS_MAPPED), max_size=20))
def test_the_table_says_what_was_mapped(name: str, actions: list[tuple]) -> None:  # type: ignore[type-arg]
    model = Model(MAKERS[name]())
    for action, *arguments in actions:
        if action == "unmap area":
            model.unmap_area(*arguments)
            model.check([])
            continue
        place = model.place(arguments[0])
        if action == "map":
            model.map(place, *arguments[1:])
        else:
            model.unmap(place, arguments[1] << 12)
        model.check([place])
    assert model.domain.unmap(0, 1 << model.domain.format.width) == len(model.pages) * model.granule
    assert model.domain.unmap(0, 1 << model.domain.format.width) == 0
    model.domain.free()
    assert model.memory.table_frames == 0
