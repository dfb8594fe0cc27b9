"""What an IOAS offers to devices of unlike units, against a naive intersection: a set of numbered blocks.

Every boundary here is a multiple of 16 MiB, or a power of two above; so IOVA is a few hundred blocks between the
boundaries that occur, and what an aperture or a region takes away is a set of them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings, strategies as st

from ioas.errors import AddressInUse, InvalidArgument, NotFound, Refusal
from ioas.soft.iommu import Requester, ReservedRegion, System, Traits, Unit, amd_unit, vtd_unit
from ioas.soft.iommufd import Device
from tests.support.iommufd import EVERYTHING, PAGE, Iommufd

BLOCK = 16 << 20
WIDTHS = (39, 48, 57)
ENDS = [1 << bits for bits in (38, 39, 47, 48, 56, 57)]
HOLES = (0xFEE0_0000, 0xFEF0_0000), (0xFD_0000_0000, 0x100_0000_0000)
"""Interrupts and HyperTransport: start and end."""
MAPS_AT = [block * BLOCK for block in (0, 1, 5, 254, 255)] + [end - BLOCK for end in ENDS] + ENDS[:-1]


class Kind(NamedTuple):
    """A unit, and what is reserved behind it and for its device."""

    name: str
    width: int
    scalable: bool
    snoop: bool
    large: bool
    reserved: tuple[int, ...]

    @property
    def last(self) -> int:
        """The aperture of its own domains, as the specification of its mode has it."""
        return (1 << self.width - self.scalable) - 1

    def regions(self) -> list[ReservedRegion]:
        return [ReservedRegion(block * BLOCK, block * BLOCK + BLOCK - 1, "reserved") for block in self.reserved]

    def taken(self) -> list[tuple[int, int]]:
        """What its device cannot use, by start and end."""
        holes = HOLES if self.name == "amd" else HOLES[:1]
        return [*holes, *((region.start, region.last + 1) for region in self.regions())]


KINDS = st.builds(
    lambda name, width, scalable, snoop, large, reserved: Kind(
        name, width, scalable and name == "vtd", snoop, large, tuple(reserved)
    ),
    st.sampled_from(["vtd", "vtd", "amd"]),
    st.sampled_from(WIDTHS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from([1, 5, 6, 300, (1 << 38) // BLOCK - 1]), max_size=2, unique=True),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("attach"), st.integers(0, 3)),
        st.tuples(st.just("attach"), st.integers(0, 3)),
        st.tuples(st.just("detach"), st.integers(0, 3)),
        st.tuples(st.just("map"), st.sampled_from(MAPS_AT)),
        st.tuples(st.just("unmap"), st.sampled_from(MAPS_AT)),
        st.tuples(st.just("allow"), st.sampled_from([0, 1 << 38, 1 << 39, 1 << 47, 1 << 48, 1 << 57])),
    ),
    max_size=25,
)


class World:
    """One IOAS, and up to four devices each behind a unit of its own."""

    def __init__(self, kinds: list[Kind]) -> None:
        self.kinds = kinds
        self.iommufd = Iommufd(System())
        self.ioas = self.iommufd.alloc()
        self.memory = self.iommufd.caller.memory.map(1)
        self.devices = [self._device(index, kind) for index, kind in enumerate(kinds)]
        self.tables: dict[int, int] = {}
        """By device: the page table that it uses."""
        self.apertures: dict[int, int] = {}
        """By page table: the last IOVA, by the device that it was made for."""
        self.mapped: set[int] = set()
        self.promised: tuple[int, int] | None = None

    def _device(self, index: int, kind: Kind) -> Device:
        system, name = self.iommufd.system, f"0000:{index + 1:02x}:00.0"
        sizes = None if kind.large else PAGE
        traits = Traits(page_sizes=sizes, reserved=tuple(kind.regions()[:1]))
        requester = Requester(system, name, self._unit(index, kind, traits), system.add_group())
        requester.direct_regions.extend(kind.regions()[1:])
        return self.iommufd.bind(requester)

    def _unit(self, index: int, kind: Kind, traits: Traits) -> Unit:
        name, width = f"unit{index}", kind.width
        if kind.name == "amd":
            return amd_unit(self.iommufd.system, name, address_width=width, traits=traits)
        return vtd_unit(
            self.iommufd.system,
            name,
            address_width=width,
            scalable=kind.scalable,
            snoop_control=kind.snoop,
            traits=traits,
        )

    def own_last(self, index: int) -> int:
        """The aperture of a domain that is made for a device: AMD units all do what the narrowest can."""
        kind = self.kinds[index]
        return min(other.last for other in self.kinds if other.name == "amd") if kind.name == "amd" else kind.last

    def taken(self) -> list[tuple[int, int]]:
        """What nobody can map now, by start and end."""
        used = {self.apertures[table] for table in self.tables.values()}
        found = [(last + 1, EVERYTHING + 1) for last in used]
        for index in self.tables:
            found += self.kinds[index].taken()
        return found

    def clash(self, taken: list[tuple[int, int]]) -> bool:
        """Whether something that is mapped or promised stands there."""
        pieces = [(at, at + PAGE) for at in self.mapped]
        if self.promised is not None:
            pieces.append((self.promised[0], self.promised[1] + 1))
        return any(begin < stop and start < end for begin, end in pieces for start, stop in taken)

    def attach(self, index: int) -> None:
        if index >= len(self.devices) or index in self.tables:
            return
        try:
            table = self.devices[index].attach(self.ioas)
        except AddressInUse as error:
            own = [*self.kinds[index].taken(), (self.own_last(index) + 1, EVERYTHING + 1)]
            assert self.clash(own), "refused, and nothing stands in the way"
            check_culprit(error.refusal, self.devices[index].name)
            return
        self.tables[index] = table
        self.apertures.setdefault(table, self.own_last(index))
        assert not self.clash(self.taken()), "attached, and something lies outside"

    def detach(self, index: int) -> None:
        if index in self.tables:
            self.devices[index].detach()
            table = self.tables.pop(index)
            if table not in self.tables.values():
                del self.apertures[table]

    def map(self, at: int) -> None:
        if at in self.mapped:
            return
        free = not any(start < at + PAGE and at < end for start, end in self.taken())
        try:
            self.iommufd.map(self.ioas, self.memory, PAGE, at)
        except InvalidArgument:
            assert not free
            return
        assert free
        self.mapped.add(at)

    def unmap(self, at: int) -> None:
        try:
            self.iommufd.unmap(self.ioas, at, PAGE)
        except NotFound:
            assert at not in self.mapped
        self.mapped.discard(at)

    def allow(self, end: int) -> None:
        """Promise 4 GiB to `end`, or take the promise back."""
        wanted = (1 << 32, end - 1) if end else None
        reserved = wanted is not None and any(start < end and wanted[0] < stop for start, stop in self.taken())
        try:
            self.iommufd.allow(self.ioas, [wanted] if wanted else [])
        except AddressInUse:
            assert reserved
            return
        assert not reserved
        self.promised = wanted

    def check(self) -> None:
        """The ranges that are offered, against what is left of all IOVA when everything taken is cut away."""
        edges = sorted({0, EVERYTHING + 1, *(edge for span in self.taken() for edge in span)})
        free = [
            (start, end)
            for start, end in pairwise(edges)
            if not any(begin <= start and end <= stop for begin, stop in self.taken())
        ]
        joined: list[tuple[int, int]] = []
        for start, end in free:
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        offered, alignment = self.iommufd.ranges(self.ioas)
        assert offered == [(start, end - 1) for start, end in joined]
        assert alignment == (PAGE if self.tables else 1)

    def release(self) -> None:
        for device in self.devices:
            device.unbind()
        self.iommufd.destroy(self.ioas)
        assert self.iommufd.system.memory.table_frames == 0


def check_culprit(refusal: Refusal, device: str) -> None:
    """What stands in the way is a mapping or a promise, and the device that wanted in is named."""
    assert refusal.culprit is not None
    assert refusal.culprit.kind in ("area", "region")
    assert device in refusal.reason


@settings(max_examples=200, deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=4), STEPS)
def test_an_address_space_offers_what_all_its_devices_can_reach(
    kinds: list[Kind], steps: list[tuple[str, int]]
) -> None:
    world = World(kinds)
    for action, argument in steps:
        {
            "attach": world.attach,
            "detach": world.detach,
            "map": world.map,
            "unmap": world.unmap,
            "allow": world.allow,
        }[action](argument)
        world.check()
    world.release()
