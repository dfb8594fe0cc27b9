"""Binding, attaching, replacing and detaching devices; groups of several; automatic page tables."""

from __future__ import annotations

import pytest

from ioas.errors import AddressInUse, BadAddress, Busy, InvalidArgument, NotFound, NotPermitted
from ioas.soft.iommu import Requester, System, amd_unit
from ioas.soft.iommufd import Context, Device
from tests.support.iommufd import MOCK, PAGE, Iommufd, requester

MSI = 0xFEE0_0000


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


@pytest.fixture
def device(iommufd: Iommufd) -> Device:
    return iommufd.bind(requester(iommufd.system))


@pytest.fixture
def pair(iommufd: Iommufd) -> tuple[Device, Device]:
    """Two devices of one group."""
    first = requester(iommufd.system, "0000:01:00.0")
    return iommufd.bind(first), iommufd.bind(requester(iommufd.system, "0000:01:00.1", first))


def dma(device: Device, iova: int) -> bool:
    """Whether the device reads there."""
    return device.requester.dma.read(iova, 1) is not None


# -- binding


def test_a_group_has_one_owner(iommufd: Iommufd, pair: tuple[Device, Device]) -> None:
    other = Context(iommufd.system)
    for bound in pair:
        with pytest.raises(NotPermitted):
            Device.bind(other, bound.requester)
    pair[0].unbind()
    with pytest.raises(NotPermitted):
        Device.bind(other, pair[0].requester)
    pair[1].unbind()
    Device.bind(other, pair[0].requester)


def test_a_failed_bind_leaves_no_object(iommufd: Iommufd, device: Device) -> None:
    other = Context(iommufd.system)
    with pytest.raises(NotPermitted):
        Device.bind(other, device.requester)
    assert len(other.objects) == 0
    other.close()


def test_a_device_without_an_iommu_is_invalid(iommufd: Iommufd) -> None:
    with pytest.raises(InvalidArgument, match="no IOMMU"):
        iommufd.bind(Requester(iommufd.system, "0000:09:00.0", None, iommufd.system.add_group()))


def test_a_bound_device_is_blocked_until_it_is_attached(device: Device, ioas: int, iommufd: Iommufd) -> None:
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0)
    assert not dma(device, 0)
    device.attach(ioas)
    assert dma(device, 0)
    device.detach()
    assert not dma(device, 0)


def test_unbinding_detaches(iommufd: Iommufd, device: Device, ioas: int) -> None:
    device.attach(ioas)
    device.unbind()
    assert device.requester.domain is None
    iommufd.destroy(ioas)
    iommufd.close()
    assert not iommufd.leaks()


# -- automatic page tables


def test_devices_that_can_share_an_automatic_table_do(iommufd: Iommufd, ioas: int, device: Device) -> None:
    other = iommufd.bind(requester(iommufd.system, "0000:02:00.0"))
    table = device.attach(ioas)
    assert other.attach(ioas) == table
    device.detach()
    with pytest.raises(Busy):
        iommufd.destroy(table)
    other.detach()
    with pytest.raises(NotFound):
        iommufd.destroy(table)


def test_a_device_of_another_kind_of_unit_gets_a_table_of_its_own(iommufd: Iommufd, ioas: int, device: Device) -> None:
    system = iommufd.system
    other = iommufd.bind(Requester(system, "0000:02:00.0", amd_unit(system), system.add_group()))
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0)
    assert device.attach(ioas) != other.attach(ioas)
    assert dma(device, 0)
    assert dma(other, 0)
    assert system.memory.held_frames == 1


def test_attaching_returns_the_table_and_mappings_made_before_are_in_it(
    iommufd: Iommufd, ioas: int, device: Device
) -> None:
    for index in range(50):
        iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, index * 3 * PAGE)
    device.attach(ioas)
    assert all(dma(device, index * 3 * PAGE) for index in range(50))
    assert not dma(device, PAGE)


def test_a_failed_attach_changes_nothing(iommufd: Iommufd, ioas: int, device: Device) -> None:
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0)
    iommufd.map(ioas, 1 << 31, PAGE, PAGE)
    ranges = iommufd.ranges(ioas)
    with pytest.raises(BadAddress):
        device.attach(ioas)
    assert iommufd.ranges(ioas) == ranges
    assert device.requester.domain is None
    assert iommufd.system.memory.held_frames == 0
    iommufd.unmap(ioas, PAGE, PAGE)
    device.attach(ioas)


def test_mappings_in_a_reserved_region_keep_the_device_out(iommufd: Iommufd, ioas: int, device: Device) -> None:
    iommufd.map(ioas, 1 << 31, PAGE, MSI)
    with pytest.raises(AddressInUse, match="msi region of 0000:01"):
        device.attach(ioas)
    assert iommufd.ranges(ioas)[1] == 1


def test_only_an_ioas_or_a_page_table_is_attached_to(iommufd: Iommufd, ioas: int, device: Device) -> None:
    with pytest.raises(NotFound):
        device.attach(99)
    with pytest.raises(InvalidArgument, match="neither"):
        device.attach(device.id)


def test_attaching_twice_is_busy(ioas: int, device: Device) -> None:
    table = device.attach(ioas)
    for target in (ioas, table):
        with pytest.raises(Busy):
            device.attach(target)


def test_detaching_nothing_does_nothing(ioas: int, device: Device) -> None:
    device.detach()
    device.attach(ioas)
    device.detach()
    device.detach()
    device.attach(ioas)


# -- groups of several devices


def test_a_group_uses_one_page_table(iommufd: Iommufd, pair: tuple[Device, Device], ioas: int) -> None:
    first, second = pair
    table = first.attach(ioas)
    with pytest.raises(InvalidArgument, match="0000:01"):
        second.attach(iommufd.hwpt(second.id, ioas))
    assert second.attach(ioas) == table


def test_the_whole_group_follows_its_first_device(iommufd: Iommufd, pair: tuple[Device, Device], ioas: int) -> None:
    first, second = pair
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0)
    first.attach(ioas)
    assert dma(second, 0)
    second.attach(ioas)
    first.detach()
    assert dma(first, 0)
    second.detach()
    assert not dma(first, 0)
    assert not dma(second, 0)


def test_each_device_reserves_its_own_regions(iommufd: Iommufd, pair: tuple[Device, Device], ioas: int) -> None:
    from ioas.soft.iommu import ReservedRegion

    first, second = pair
    second.requester.direct_regions.append(ReservedRegion(0x10_0000, 0x10_FFFF, "direct"))
    second.requester.direct_regions.append(ReservedRegion(0x20_0000, 0x20_FFFF, "direct-relaxable"))
    first.attach(ioas)
    before = iommufd.ranges(ioas)
    second.attach(ioas)
    assert iommufd.ranges(ioas)[0][:2] == [(0, 0xF_FFFF), (0x11_0000, 0xFEDF_FFFF)]
    second.detach()
    assert iommufd.ranges(ioas) == before


def test_replacing_moves_the_whole_group(iommufd: Iommufd, pair: tuple[Device, Device], ioas: int) -> None:
    first, second = pair
    target = iommufd.alloc()
    iommufd.map(target, iommufd.caller.memory.map(1), PAGE, 0)
    old = first.attach(ioas)
    second.attach(ioas)
    new = second.replace(target)
    assert dma(first, 0)
    with pytest.raises(NotFound):
        iommufd.destroy(old)
    assert iommufd.ranges(ioas)[1] == 1
    assert iommufd.ranges(target)[1] == PAGE
    first.detach()
    with pytest.raises(Busy):
        iommufd.destroy(new)
    second.detach()
    iommufd.destroy(target)


# -- replacing


def test_replacing_wants_an_attached_device(ioas: int, device: Device) -> None:
    with pytest.raises(InvalidArgument):
        device.replace(ioas)


def test_replacing_a_table_by_itself_changes_nothing(ioas: int, device: Device) -> None:
    table = device.attach(ioas)
    assert device.replace(ioas) == device.replace(table) == table


def test_a_failed_replace_leaves_the_device_where_it_was(iommufd: Iommufd, ioas: int, device: Device) -> None:
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE, 0)
    device.attach(ioas)
    ranges = iommufd.ranges(ioas)
    bad, good = iommufd.alloc(), iommufd.caller.memory.map(1)
    for address, iova, error in ((1 << 31, 0, BadAddress), (good, MSI, AddressInUse), (0, 1 << 50, AddressInUse)):
        iommufd.map(bad, address, PAGE, iova)  # pages are pinned before regions are reserved
        with pytest.raises(error):
            device.replace(bad)
        iommufd.unmap(bad)
    assert dma(device, 0)
    assert iommufd.ranges(ioas) == ranges
    iommufd.destroy(bad)


def test_a_page_table_of_another_format_does_not_suit(iommufd: Iommufd, ioas: int, device: Device) -> None:
    _, table, _ = iommufd.mock(iommufd.alloc())
    with pytest.raises(InvalidArgument):
        device.attach(table)
    device.attach(ioas)
    with pytest.raises(InvalidArgument):
        device.replace(table)


def test_a_second_domain_is_filled_from_the_pages_of_the_first(iommufd: Iommufd, ioas: int, device: Device) -> None:
    device.attach(ioas)
    buffer = iommufd.caller.memory.map(1)
    iommufd.caller.memory.write(buffer, b"then")
    iommufd.map(ioas, buffer, PAGE, MOCK)
    iommufd.caller.memory.unmap(buffer, 1)
    iommufd.mock(ioas)
    device.detach()
    other = iommufd.bind(requester(iommufd.system, "0000:05:00.0"))
    other.attach(ioas)
    assert other.requester.dma.read(MOCK, 4) == b"then"
    assert iommufd.system.memory.held_frames == 1


def test_strict_isolation_is_a_refusal_of_its_own() -> None:
    from ioas.soft.iommu import Geometry, vtd_unit

    iommufd = Iommufd(System(isolation="strict"))
    unit = vtd_unit(iommufd.system, geometry=Geometry(0, (1 << 48) - 1, force_aperture=False))
    device = iommufd.bind(Requester(iommufd.system, "0000:01:00.0", unit, iommufd.system.add_group()))
    with pytest.raises(NotPermitted, match="strict"):
        device.attach(iommufd.alloc())
