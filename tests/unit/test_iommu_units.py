"""Units, requesters and groups: what they are, what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ioas.errors import Busy, InvalidArgument, NoDevice, NotPermitted, NotSupported, OutOfRange, UsageError
from ioas.soft.iommu import Geometry, Prot, Requester, ReservedRegion, System, Unit, amd_unit, mock_unit, vtd_unit
from ioas.soft.iommu.system import Isolation
from ioas.uapi.iommufd import iommu_hw_info_amd, iommu_hw_info_vtd
from ioas.uapi.iommufd_test import iommu_test_hw_info
from tests.support.ram import Ram

VTD_TYPE, AMD_TYPE, MOCK_TYPE = 1, 4, 0xFEEDBEEF


def device(unit: Unit | None, system: System, name: str = "0000:01:00.0") -> Requester:
    return Requester(system, name, unit, system.add_group())


@pytest.mark.parametrize(
    ("maker", "geometry", "sizes"),
    [
        (vtd_unit, (0, (1 << 48) - 1, True), 0x40201000),
        (amd_unit, (0, (1 << 48) - 1, True), (1 << 47) - 4096 - (1 << 39)),
        (mock_unit, (1 << 24, (1 << 31) - 1, True), (1 << 37) - 2048),
    ],
)
def test_geometry_and_page_sizes(maker: Callable[[System], Unit], geometry: tuple[int, int, bool], sizes: int) -> None:
    unit = maker(System())
    domain = unit.domain()
    assert unit.geometry == domain.geometry == geometry
    assert unit.page_sizes == domain.page_sizes == sizes
    assert unit.coherent


@pytest.mark.parametrize(("width", "levels", "sagaw"), [(39, 3, 0b0010), (48, 4, 0b0100), (57, 5, 0b1100)])
def test_a_vtd_unit_has_the_levels_for_its_width_and_tells_both(width: int, levels: int, sagaw: int) -> None:
    system = System()
    unit = vtd_unit(system, address_width=width)
    capability = iommu_hw_info_vtd.from_buffer_copy(unit.hw_info(0)[1]).cap_reg
    assert (capability >> 8 & 0x1F, (capability >> 16 & 0x3F) + 1) == (sagaw, width)
    domain = unit.domain()
    assert (domain.format.levels, domain.format.width) == (levels, width)
    assert unit.geometry == domain.geometry == (0, (1 << width) - 1, True)
    held = system.memory.hold(Ram(), 0, 1, True)
    domain.map((1 << width) - 4096, held.segments, 0, 4096, Prot.READ)
    assert domain.phys((1 << width) - 1) == (held.pfn(0) << 12) + 4095
    with pytest.raises(OutOfRange):
        domain.map(1 << width, held.segments, 0, 4096, Prot.READ)


def test_a_domain_of_more_levels_than_a_unit_has_does_not_suit_it() -> None:
    system = System()
    wide, narrow = vtd_unit(system), vtd_unit(system, "dmar1", address_width=39)
    with pytest.raises(InvalidArgument, match="48 bits"):
        device(narrow, system).attach(wide.domain())
    with pytest.raises(UsageError, match="56"):
        vtd_unit(system, address_width=56)


def test_a_unit_stands_in_its_system() -> None:
    system = System()
    units = [vtd_unit(system), amd_unit(system), mock_unit(system)]
    assert system.units == units
    assert [unit.name for unit in units] == ["dmar0", "ivhd0", "mock0"]


@pytest.mark.parametrize(
    ("maker", "kind", "other", "size"),
    [(vtd_unit, VTD_TYPE, AMD_TYPE, 24), (amd_unit, AMD_TYPE, VTD_TYPE, 16), (mock_unit, MOCK_TYPE, VTD_TYPE, 8)],
)
def test_hardware_information_has_the_units_type(
    maker: Callable[[System], Unit], kind: int, other: int, size: int
) -> None:
    system = System()
    unit = maker(system)
    assert unit.hw_info(0) == unit.hw_info(kind)
    assert unit.hw_info(0)[0] == kind
    assert len(unit.hw_info(0)[1]) == size
    with pytest.raises(NotSupported):
        unit.hw_info(other)


def test_vtd_registers_say_what_the_unit_does() -> None:
    """Fields by VT-d 11.4.2 and 11.4.3."""
    system = System()
    unit = vtd_unit(system)
    info = iommu_hw_info_vtd.from_buffer_copy(unit.hw_info(0)[1])
    cap, ecap = info.cap_reg, info.ecap_reg
    assert (cap >> 16 & 0x3F) + 1 == 48  # MGAW
    assert cap >> 8 & 0x1F == 0b00100  # SAGAW: 4 levels
    assert cap >> 34 & 0xF == 0b0011  # SSLPS: 2M, 1G
    assert not cap >> 7 & 1  # CM: what is not present is not cached
    assert ecap & 1  # C: coherent
    assert ecap >> 7 & 1  # SC: SNP counts
    assert not ecap >> 40 & 1  # PASID
    assert not ecap >> 43 & 1  # SMTS
    assert unit.max_pasid_log2 == 0


def test_amd_and_mock_information() -> None:
    system = System()
    unit = amd_unit(system)
    amd = iommu_hw_info_amd.from_buffer_copy(unit.hw_info(0)[1])
    assert amd.efr >> 10 & 3 == 0  # HATS: 4 levels
    unit = mock_unit(system)
    mock = iommu_test_hw_info.from_buffer_copy(unit.hw_info(0)[1])
    assert (mock.flags, mock.test_reg) == (0, 0xDEADBEEF)


def test_reserved_regions_are_the_units_and_the_firmwares() -> None:
    system = System()
    msi = ReservedRegion(0xFEE00000, 0xFEEFFFFF, "msi")
    unit = vtd_unit(system)
    requester = device(unit, system)
    assert unit.reserved_regions(requester) == [msi]
    rmrr = ReservedRegion(0x7B800000, 0x7FFFFFFF, "direct")
    requester.direct_regions.append(rmrr)
    assert unit.reserved_regions(requester) == [rmrr, msi]
    unit = amd_unit(system)
    assert unit.reserved_regions(device(unit, system)) == [
        msi,
        ReservedRegion(0xFD00000000, 0xFFFFFFFFFF, "reserved"),
    ]
    unit = mock_unit(system)
    assert unit.reserved_regions(device(unit, system)) == []


def test_a_domain_serves_all_units_of_its_kind() -> None:
    system = System()
    first, second = vtd_unit(system), vtd_unit(system, "dmar1")
    requester = device(second, system)
    domain = first.domain()
    requester.attach(domain)
    assert requester.domain is domain


@pytest.mark.parametrize(("maker", "other"), [(vtd_unit, amd_unit), (amd_unit, mock_unit), (mock_unit, vtd_unit)])
def test_a_domain_of_another_kind_is_refused_and_nothing_changes(
    maker: Callable[[System], Unit], other: Callable[[System], Unit]
) -> None:
    system = System()
    unit = maker(system)
    requester = device(unit, system)
    mine = unit.domain()
    requester.attach(mine)
    with pytest.raises(InvalidArgument):
        requester.attach(other(system).domain())
    assert requester.domain is mine


def test_attach_replaces_and_counts() -> None:
    system = System()
    unit = vtd_unit(system)
    one, two = device(unit, system, "one"), device(unit, system, "two")
    a, b = unit.domain(), unit.domain()
    one.attach(a)
    one.attach(a)
    two.attach(a)
    assert (a.attached, b.attached) == (2, 0)
    one.attach(b)
    assert (a.attached, b.attached) == (1, 1)
    one.attach(None)
    one.attach(None)
    two.attach(None)
    assert (a.attached, b.attached) == (0, 0)
    assert one.domain is None


def test_a_device_without_unit_has_nothing_to_attach() -> None:
    system = System()
    domain = vtd_unit(system).domain()
    with pytest.raises(NoDevice):
        device(None, system).attach(domain)


def test_pasids_are_those_that_unit_and_device_have() -> None:
    system = System()
    unit = mock_unit(system)
    requester = device(unit, system, "mock")
    domain = unit.domain()
    with pytest.raises(InvalidArgument):
        requester.attach(domain, pasid=1)
    requester.max_pasid_log2 = 10
    with pytest.raises(InvalidArgument):
        requester.attach(domain, pasid=1024)
    requester.attach(domain, pasid=1023)
    assert requester.domain is None
    assert requester.domains == {1023: domain}
    requester.attach(None, pasid=1023)
    assert domain.attached == 0


def test_a_device_that_cannot_track_dirty_pages_refuses_such_a_domain() -> None:
    """mock_domain_nop_attach (7.3)."""
    system = System()
    unit = mock_unit(system)
    requester = device(unit, system, "mock")
    requester.dirty_tracking = False
    requester.attach(unit.domain())
    with pytest.raises(InvalidArgument):
        requester.attach(unit.domain(dirty=True))


def test_strict_isolation_refuses_a_unit_that_lets_dma_pass() -> None:
    policies: tuple[Isolation, ...] = ("strict", "kernel")
    for isolation in policies:
        system = System(isolation)
        unit = vtd_unit(system, geometry=Geometry(0, (1 << 32) - 1, False))
        requester = device(unit, system)
        if isolation == "kernel":
            requester.attach(unit.domain())
            continue
        with pytest.raises(NotPermitted, match="isolation=strict"):
            requester.attach(unit.domain())
        assert requester.domain is None


def test_groups_have_the_lowest_free_ids() -> None:
    system = System()
    unit = vtd_unit(system)
    requesters = [device(unit, system, str(index)) for index in range(3)]
    assert [requester.group.id for requester in requesters if requester.group] == [0, 1, 2]
    requesters[1].remove()
    requesters[1].remove()
    assert sorted(system.groups) == [0, 2]
    assert system.add_group().id == 1


def test_a_removed_device_is_blocked_and_its_group_stays_for_the_others() -> None:
    system = System()
    unit = vtd_unit(system)
    group = system.add_group()
    one, two = Requester(system, "one", unit, group), Requester(system, "two", unit, group)
    domain = unit.domain()
    one.attach(domain)
    one.remove()
    assert domain.attached == 0
    assert group.requesters == [two]
    assert system.groups[group.id] is group


def test_a_group_has_one_owner_at_a_time() -> None:
    system = System()
    unit = vtd_unit(system)
    requester = device(unit, system)
    group = requester.group
    assert group is not None
    me, other = object(), object()
    group.claim(me)
    group.claim(me)
    with pytest.raises(NotPermitted):
        group.claim(other)
    group.release(other)
    group.release(me)
    with pytest.raises(NotPermitted):
        group.claim(other)
    group.release(me)
    assert group.owner is None
    group.claim(other)
    assert group.owner is other


def test_a_group_in_use_without_an_owner_cannot_be_claimed() -> None:
    system = System()
    unit = vtd_unit(system)
    requester = device(unit, system)
    requester.attach(unit.domain())
    assert requester.group is not None
    with pytest.raises(Busy):
        requester.group.claim(object())
