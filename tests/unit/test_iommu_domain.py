"""Mapping, unmapping and the tables behind them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ioas.errors import AddressInUse, Busy, InvalidArgument, KernelError, NotSupported, Overflow
from ioas.soft.iommu import Domain, Prot, Requester, System, Unit, amd_unit, mock_unit, vtd_unit
from ioas.soft.iommu.mapper import SPARES
from ioas.soft.memory import Held
from tests.support.ram import Ram
from tests.support.walkers import Found, walk_amd, walk_vtd

RW = Prot.READ | Prot.WRITE
MAKERS: dict[str, Callable[[System], Unit]] = {"vtd": vtd_unit, "amd": amd_unit, "mock": mock_unit}
G = 1 << 30
M = 1 << 20


@pytest.fixture(params=list(MAKERS))
def domain(request: pytest.FixtureRequest) -> Domain:
    return MAKERS[request.param](System()).domain()


@pytest.fixture
def vtd() -> Domain:
    return vtd_unit(System()).domain()


def hold(domain: Domain, pages: int, order: int = 0) -> Held:
    memory = domain.unit.system.memory
    return memory.hold(Ram(order=order, count_pins=False), 0, pages, True)


def hardware(domain: Domain, iova: int) -> Found | None:
    """What the unit's hardware would find, by the bytes alone."""
    read, root = domain.unit.system.memory.read, domain.table.root << 12
    if domain.unit.kind == "vtd":
        return walk_vtd(read, root, 4, iova)
    return walk_amd(read, root, domain.format.levels, iova, 1 << domain.format.granule_lg2)


def map_all(domain: Domain, iova: int, held: Held, prot: int = RW, *, large: bool = True) -> None:
    domain.map(iova, held.segments, 0, held.pages << 12, prot, large=large)


def test_each_page_leads_to_its_frame(domain: Domain) -> None:
    held = hold(domain, 700)
    map_all(domain, 64 * M, held)
    for page in range(700):
        found = hardware(domain, 64 * M + (page << 12) + 5)
        assert found == Found((held.pfn(page) << 12) + 5, 4096, True, True)
        assert domain.phys(64 * M + (page << 12) + 5) == found.address
    assert domain.phys(64 * M - 1) is None
    assert domain.phys(64 * M + (700 << 12)) is None


@pytest.mark.parametrize("prot", [Prot.READ, Prot.WRITE, RW])
@pytest.mark.parametrize("pages", [1, 2, 40])
def test_permissions_are_as_asked(domain: Domain, prot: Prot, pages: int) -> None:
    map_all(domain, 64 * M, hold(domain, pages), prot)
    found = hardware(domain, 64 * M)
    assert found is not None
    assert (found.read, found.write) == (bool(prot & Prot.READ), bool(prot & Prot.WRITE))


@pytest.mark.parametrize(("order", "pages", "iova", "size"), [
    (9, 1024, 64 * M, 2 * M),
    (9, 1024, 64 * M + 4096, 4096),
    (18, 1 << 19, 8 * G, G),
    (18, 1 << 18, 8 * G + 2 * M, 2 * M),
])  # fmt: skip
def test_vtd_uses_the_largest_pages_that_addresses_allow(
    vtd: Domain, order: int, pages: int, iova: int, size: int
) -> None:
    held = hold(vtd, pages, order)
    map_all(vtd, iova, held)
    for page in (0, 1, pages // 2, pages - 1):
        found = hardware(vtd, iova + (page << 12))
        assert found is not None
        assert (found.address, found.size) == (held.pfn(page) << 12, size)


def test_sizes_grow_and_shrink_towards_the_ends() -> None:
    """AMDv1 from page 1 to page 1022 of 4 MiB of huge frames: 4K, 8K, ... in the middle 1M, and down again."""
    domain = amd_unit(System()).domain()
    held = hold(domain, 1024, 9)
    domain.map(G + 4096, held.part(1, 510), 0, 510 << 12, RW)
    sizes = []
    at = G + 4096
    while (found := hardware(domain, at)) is not None:
        assert found.address == held.pfn((at - G) >> 12) << 12
        sizes.append(found.size >> 12)
        at += found.size
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, 128, 64, 32, 16, 8, 4, 2, 1]


def test_large_pages_can_be_forbidden(domain: Domain) -> None:
    map_all(domain, 64 * M, hold(domain, 1024, 9), large=False)
    found = hardware(domain, 64 * M)
    assert found is not None
    assert found.size == 4096


def test_the_mock_maps_halves_of_pages() -> None:
    domain = mock_unit(System()).domain()
    held = hold(domain, 3)
    domain.map(64 * M + 2048, held.segments, 2048, 3 * 4096 - 4096, RW)
    assert [hardware(domain, 64 * M + at) for at in (0, 2048, 4096, 8192, 10240)] == [
        None,
        Found((held.pfn(0) << 12) + 2048, 2048, True, True),
        Found(held.pfn(1) << 12, 4096, True, True),
        Found(held.pfn(2) << 12, 2048, True, True),
        None,
    ]
    assert domain.unmap(64 * M + 2048, 8192) == 8192


def test_the_huge_mock_has_pages_of_1m_and_4k_in_the_whole_aperture() -> None:
    domain = mock_unit(System()).domain(huge=True)
    assert domain.geometry == (0, (1 << 38) - 1, True)
    assert domain.page_sizes == M | 4096
    held = hold(domain, 512, 9)
    map_all(domain, 0, held)
    found = hardware(domain, 0)
    assert found is not None
    assert found.size == M
    with pytest.raises(InvalidArgument):
        domain.map(G, held.segments, 2048, 2048, RW)


def test_what_is_mapped_cannot_be_mapped_over_and_nothing_changes(domain: Domain) -> None:
    base = 64 * M
    middle = hold(domain, 1)
    map_all(domain, base + (600 << 12), middle)
    before = domain.unit.system.memory.table_frames
    for pages in (601, 1000):
        with pytest.raises(AddressInUse) as caught:
            map_all(domain, base, hold(domain, pages))
        assert str(caught.value.refusal.culprit) == f"address {base + (600 << 12):#x}"
    with pytest.raises(AddressInUse):
        map_all(domain, base + (600 << 12), hold(domain, 1))
    assert domain.unit.system.memory.table_frames == before
    assert domain.phys(base) is None
    assert domain.phys(base + (600 << 12)) == middle.pfn(0) << 12
    assert domain.unmap(base, 1024 << 12) == 4096


def test_a_page_cannot_be_mapped_within_a_large_one(vtd: Domain) -> None:
    map_all(vtd, 2 * M, hold(vtd, 512, 9))
    for pages in (1, 2):
        with pytest.raises(AddressInUse):
            map_all(vtd, 2 * M + (7 << 12), hold(vtd, pages))


def test_unmapping_passes_over_holes_and_tells_what_was_there(domain: Domain) -> None:
    for page in (0, 1, 5, 511, 512, 2000):
        map_all(domain, 64 * M + (page << 12), hold(domain, 1))
    assert domain.unmap(64 * M, 2001 << 12) == 6 << 12
    assert domain.unmap(64 * M, 2001 << 12) == 0
    assert domain.unmap(64 * M, 4096) == 0


def test_a_large_page_is_unmapped_whole_or_not_at_all(vtd: Domain) -> None:
    map_all(vtd, 2 * M, hold(vtd, 1024, 9))
    for iova, length in ((2 * M, 4096), (3 * M, M), (3 * M, 2 * M), (0, 3 * M), (2 * M + 4096, 4096)):
        with pytest.raises(InvalidArgument, match="would cut a page"):
            vtd.unmap(iova, length)
    assert vtd.phys(2 * M) is not None
    assert vtd.unmap(2 * M, 2 * M) == 2 * M
    assert vtd.unmap(0, 8 * M) == 2 * M


def test_a_contiguous_amd_page_is_not_unmapped_in_parts() -> None:
    domain = amd_unit(System()).domain()
    map_all(domain, 64 << 10, hold(domain, 16, 9))
    with pytest.raises(InvalidArgument):
        domain.unmap(64 << 10, 4096)
    assert domain.unmap(64 << 10, 64 << 10) == 64 << 10


def test_a_large_page_takes_the_place_of_empty_tables(vtd: Domain) -> None:
    memory = vtd.unit.system.memory
    for iova in (4 * G, 4 * G + 2 * M, 5 * G - 4096):
        map_all(vtd, iova, hold(vtd, 1))
        vtd.unmap(iova, 4096)
    assert memory.table_frames == 6  # top, directory pointers, directory, and three leaf tables, all empty
    held = hold(vtd, 1 << 18, 18)
    map_all(vtd, 4 * G, held)
    found = hardware(vtd, 4 * G + 2 * M)
    assert found == Found((held.pfn(0) << 12) + 2 * M, G, True, True)
    assert memory.table_frames == 2


def test_few_empty_tables_are_kept(domain: Domain) -> None:
    span = 1 << domain.format.item_lg2(1)
    segments = hold(domain, 1).segments
    for round_ in range(3):
        for index in range(4 * SPARES):
            domain.map(64 * M + (round_ + 1) * index * span, segments, 0, 4096, RW)
            domain.unmap(64 * M + (round_ + 1) * index * span, 4096)
    assert domain.unit.system.memory.table_frames <= SPARES + domain.format.levels


def test_a_freed_domain_leaves_no_table(domain: Domain) -> None:
    for index in range(0, 5000, 7):
        map_all(domain, 64 * M + (index << 15), hold(domain, 1 + index % 3))
    domain.free()
    domain.free()
    assert domain.unit.system.memory.table_frames == 0
    assert domain.phys(64 * M) is None


def test_an_attached_domain_is_not_freed(vtd: Domain) -> None:
    system = vtd.unit.system
    requester = Requester(system, "0000:01:00.0", vtd.unit, system.add_group())
    requester.attach(vtd)
    with pytest.raises(Busy):
        vtd.free()
    requester.attach(None)
    vtd.free()


@pytest.mark.parametrize(
    ("iova", "offset", "length", "error"),
    [
        (1, 0, 4096, InvalidArgument),
        (4096, 1, 4096, InvalidArgument),
        (4096, 0, 4097, InvalidArgument),
        (4096, 0, 0, InvalidArgument),
        (4096, 0, 5 << 12, InvalidArgument),
        (4096, 4096, 4 << 12, InvalidArgument),
        ((1 << 48), 0, 4096, KernelError),
        ((1 << 48) - 4096, 0, 8192, KernelError),
        ((1 << 64) - 4096, 0, 8192, Overflow),
    ],
)
def test_bad_ranges_are_refused(vtd: Domain, iova: int, offset: int, length: int, error: type[KernelError]) -> None:
    with pytest.raises(error):
        vtd.map(iova, hold(vtd, 4).segments, offset, length, RW)
    assert vtd.unmap(0, 1 << 48) == 0


@pytest.mark.parametrize(("iova", "length"), [(1, 4096), (0, 4095), (0, 0), (1 << 48, 4096), (1 << 63, 1 << 63)])
def test_bad_ranges_cannot_be_unmapped(vtd: Domain, iova: int, length: int) -> None:
    with pytest.raises(KernelError):
        vtd.unmap(iova, length)


def test_the_last_page_of_the_aperture_can_be_mapped(domain: Domain) -> None:
    last = (1 << domain.format.width) - 4096
    map_all(domain, last, hold(domain, 1))
    assert hardware(domain, last) is not None
    assert domain.unmap(last, 4096) == 4096


def test_a_page_without_permissions_is_refused_whatever_the_format_could_say(domain: Domain) -> None:
    with pytest.raises(InvalidArgument):
        map_all(domain, 64 * M, hold(domain, 1), Prot.CACHE)


def test_malformed_entries_translate_nothing(domain: Domain) -> None:
    map_all(domain, 64 * M, hold(domain, 1))
    tables = domain.unit.system.memory.tables
    top = tables[domain.table.root]
    index = 64 * M >> domain.format.item_lg2(domain.format.levels - 1)
    pointer = top[index]
    top[index] = domain.format.table_entry(0x3_FFFF_FFFF, domain.format.levels - 2)  # no table stands there
    assert domain.phys(64 * M) is None
    if domain.format.name == "amdv1":
        top[index] = pointer & ~0xE00 | domain.format.levels << 9  # its own level, not one below
        assert domain.phys(64 * M) is None
    top[index] = pointer
    assert domain.phys(64 * M) is not None


@pytest.mark.parametrize("maker", [vtd_unit, amd_unit])
def test_units_offer_what_they_have(maker: Callable[[System], Unit]) -> None:
    unit = maker(System())
    for wish in ({"dirty": True}, {"nest_parent": True}, {"huge": True}):
        if "dirty" in wish and unit.dirty:
            assert unit.domain(**wish).dirty
            continue
        with pytest.raises(NotSupported):
            unit.domain(**wish)
