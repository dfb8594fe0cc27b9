"""PASIDs of one device against a dict: each number reaches what was mapped in its own space."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from ioas.errors import AlreadyExists, InvalidArgument
from ioas.soft.iommu import Requester, System, vtd_unit
from ioas.uapi.iommufd import IOMMU_HWPT_ALLOC_PASID
from tests.support.iommufd import PAGE, Iommufd

PASIDS = (None, 1, 2, 3)
SPACES = range(3)
PAGES = range(4)
BASE = 0x10_0000

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("attach"), st.sampled_from(PASIDS), st.sampled_from(SPACES)),
        st.tuples(st.just("detach"), st.sampled_from(PASIDS), st.just(0)),
        st.tuples(st.just("map"), st.sampled_from(SPACES), st.sampled_from(PAGES)),
        st.tuples(st.just("unmap"), st.sampled_from(SPACES), st.sampled_from(PAGES)),
    ),
    max_size=30,
)


class World:
    """Three spaces, each with a table; a device with three PASIDs. Every page of every space has words of its own."""

    def __init__(self) -> None:
        self.iommufd = Iommufd(System())
        unit = vtd_unit(self.iommufd.system, scalable=True)
        requester = Requester(self.iommufd.system, "0000:01:00.0", unit, self.iommufd.system.add_group())
        requester.max_pasid_log2 = 4
        self.dma = requester.dma
        self.device = self.iommufd.bind(requester)
        self.spaces = [self.iommufd.alloc() for _ in SPACES]
        self.tables = [self.iommufd.hwpt(self.device.id, space, IOMMU_HWPT_ALLOC_PASID) for space in self.spaces]
        self.memory = self.iommufd.caller.memory.map(len(SPACES) * len(PAGES))
        for space in SPACES:
            for page in PAGES:
                self.iommufd.caller.memory.write(self.place(space, page), self.words(space, page))
        self.attached: dict[int | None, int] = {}
        self.mapped: set[tuple[int, int]] = set()

    def place(self, space: int, page: int) -> int:
        return self.memory + (space * len(PAGES) + page) * PAGE

    def words(self, space: int, page: int) -> bytes:
        return b"%d of %d" % (page, space)

    def attach(self, pasid: int | None, space: int) -> None:
        change = self.device.replace if pasid in self.attached else self.device.attach
        change(self.tables[space], pasid)
        self.attached[pasid] = space

    def detach(self, pasid: int | None, _: int) -> None:
        self.device.detach(pasid)
        self.attached.pop(pasid, None)

    def map(self, space: int, page: int) -> None:
        try:
            self.iommufd.map(self.spaces[space], self.place(space, page), PAGE, BASE + page * PAGE)
        except AlreadyExists:
            assert (space, page) in self.mapped
        self.mapped.add((space, page))

    def unmap(self, space: int, page: int) -> None:
        if (space, page) in self.mapped:
            self.iommufd.unmap(self.spaces[space], BASE + page * PAGE, PAGE)
            self.mapped.discard((space, page))

    def check(self) -> None:
        """Every PASID, every page; a number that is not attached and one that does not exist, too."""
        for pasid in (*PASIDS, 4, 15):
            space = self.attached.get(pasid)
            for page in PAGES:
                there = space is not None and (space, page) in self.mapped
                expected = self.words(space, page) if there and space is not None else None
                assert self.dma.read(BASE + page * PAGE, 6, pasid) == expected
        try:
            self.device.attach(self.tables[0], 16)
        except InvalidArgument:
            return
        raise AssertionError("16 does not fit into 4 bits")


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_each_pasid_reaches_what_is_mapped_in_its_own_space(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    for action, first, second in steps:
        getattr(world, action)(first, second)
        world.check()
    world.device.unbind()
    for table in world.tables:
        world.iommufd.destroy(table)
    for space in world.spaces:
        world.iommufd.destroy(space)
    assert world.iommufd.system.memory.table_frames == 0
    assert world.iommufd.system.memory.held_frames == 0
