"""Devices without an IOMMU in an iommufd, and IOMMU_IOAS_NOIOMMU_GET_PA (CONFIG_IOMMUFD_NOIOMMU, 7.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ioas.errors import (
    Busy,
    InvalidArgument,
    KernelError,
    NotFound,
    NotPermitted,
    NotSupported,
    Overflow,
)
from ioas.host import PAGE_SIZE, Capability
from ioas.soft.iommu import Requester, System
from ioas.soft.iommufd import Device, bind_device
from ioas.uapi import iommufd as uapi
from tests.support.caller import FakeCaller
from tests.support.iommufd import EVERYTHING, READ, Iommufd, requester
from tests.support.ram import Ram

IOVA = 0x7_0000_0000


@pytest.fixture
def iommufd() -> Iterator[Iommufd]:
    opened = Iommufd(System(low_memory=True))
    yield opened
    opened.close()
    assert not opened.leaks()


@pytest.fixture
def device(iommufd: Iommufd) -> Iterator[Device]:
    bound = bind_device(iommufd.context, untranslated(iommufd.system))
    yield bound
    bound.unbind()


@pytest.fixture
def ioas(iommufd: Iommufd, device: Device) -> int:
    """What the device is attached to."""
    number = iommufd.alloc()
    device.attach(number)
    return number


def untranslated(system: System, name: str = "0000:01:00.0") -> Requester:
    group = system.add_group("vfio-noiommu")
    return Requester(system, name, None, group)


def get_pa(iommufd: Iommufd, caller: FakeCaller | None = None, **fields: int) -> tuple[int, int]:
    """The physical address and the length."""
    command = iommufd.call(uapi.IOMMU_IOAS_NOIOMMU_GET_PA, uapi.iommu_ioas_noiommu_get_pa(**fields), caller)
    return command.out_phys, command.length


def test_physical_addresses_are_those_that_the_device_reaches(iommufd: Iommufd, device: Device, ioas: int) -> None:
    address = iommufd.caller.memory.map(2)
    iommufd.map(ioas, address, 2 * PAGE_SIZE, IOVA)
    where, length = get_pa(iommufd, ioas_id=ioas, iova=IOVA + PAGE_SIZE + 0x10, length=EVERYTHING)
    assert length == PAGE_SIZE - 0x10
    assert device.requester.dma.write(where, b"there")
    assert iommufd.caller.memory.read(address + PAGE_SIZE + 0x10, 5) == b"there"
    assert device.requester.dma.read(where, 5) == b"there"
    assert not iommufd.system.faults


def test_an_iova_means_nothing_to_the_device(iommufd: Iommufd, device: Device, ioas: int) -> None:
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE_SIZE, IOVA)
    assert not device.requester.dma.write(IOVA, b"lost")
    record = iommufd.system.faults[-1]
    assert (record.iova, record.reason, record.write) == (IOVA, "no memory", True)


def test_the_contiguous_length_ends_where_memory_is_scattered(iommufd: Iommufd, ioas: int) -> None:
    scattered = iommufd.caller.memory.map(4)
    iommufd.map(ioas, scattered, 4 * PAGE_SIZE, IOVA)
    assert get_pa(iommufd, ioas_id=ioas, iova=IOVA, length=EVERYTHING)[1] == PAGE_SIZE
    huge = iommufd.caller.memory.map(1024, ram=Ram(1024, order=9))
    iommufd.map(ioas, huge, 1024 * PAGE_SIZE, 2 * IOVA)
    for offset, left in ((0, 0), (1, 1), (PAGE_SIZE, PAGE_SIZE), (511 * PAGE_SIZE + 7, 511 * PAGE_SIZE + 7)):
        where, length = get_pa(iommufd, ioas_id=ioas, iova=2 * IOVA + offset, length=EVERYTHING)
        assert length == (2 << 20) - left
        assert where % (2 << 20) == offset


@pytest.mark.parametrize("most", [1, 0xFFF, PAGE_SIZE, PAGE_SIZE + 1, (2 << 20) - 1, 2 << 20, EVERYTHING])
def test_the_length_is_at_most_what_was_asked_for(iommufd: Iommufd, ioas: int, most: int) -> None:
    huge = iommufd.caller.memory.map(512, ram=Ram(512, order=9))
    iommufd.map(ioas, huge, 512 * PAGE_SIZE, IOVA)
    assert get_pa(iommufd, ioas_id=ioas, iova=IOVA, length=most)[1] == min(most, 2 << 20)


def test_the_length_ends_with_its_area(iommufd: Iommufd, ioas: int) -> None:
    huge = iommufd.caller.memory.map(512, ram=Ram(512, order=9))
    iommufd.map(ioas, huge, 3 * PAGE_SIZE, IOVA)
    iommufd.map(ioas, huge + 3 * PAGE_SIZE, PAGE_SIZE, IOVA + 3 * PAGE_SIZE)
    assert get_pa(iommufd, ioas_id=ioas, iova=IOVA + 0x800, length=EVERYTHING)[1] == 3 * PAGE_SIZE - 0x800


def test_a_page_has_one_address_however_it_is_mapped(iommufd: Iommufd, ioas: int) -> None:
    address = iommufd.caller.memory.map(1)
    iommufd.map(ioas, address, PAGE_SIZE, IOVA)
    iommufd.map(ioas, address, PAGE_SIZE, 2 * IOVA, flags=READ)
    first = get_pa(iommufd, ioas_id=ioas, iova=IOVA, length=1)
    assert first == get_pa(iommufd, ioas_id=ioas, iova=2 * IOVA, length=1)


def refused_lookups(ioas: int) -> list[tuple[type[KernelError], dict[str, int], str]]:
    """In the order of the kernel's checks: each is also wrong in all that the later ones are."""
    return [
        (NotSupported, {"flags": 1, "length": 0, "ioas_id": 99}, "field flags"),
        (NotSupported, {"__reserved": 1, "length": 0, "ioas_id": 99}, "field flags"),
        (InvalidArgument, {"length": 0, "iova": EVERYTHING, "ioas_id": 99}, "field length"),
        (Overflow, {"length": 1, "iova": EVERYTHING, "ioas_id": 99}, "field iova"),
        (NotFound, {"length": 1, "iova": EVERYTHING - 1, "ioas_id": 99}, "object 99"),
        (NotFound, {"length": 1, "iova": EVERYTHING - 1, "ioas_id": ioas}, "address 0xfffffffffffffffe"),
        (NotFound, {"length": EVERYTHING, "iova": IOVA - 1, "ioas_id": ioas}, f"address {IOVA - 1:#x}"),
    ]


def test_a_lookup_is_refused_as_the_kernel_does(iommufd: Iommufd, ioas: int) -> None:
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE_SIZE, IOVA)
    for error, fields, culprit in refused_lookups(ioas):
        with pytest.raises(error) as info:
            get_pa(iommufd, **fields)
        assert str(info.value.refusal.culprit) == culprit, fields


def test_a_lookup_is_for_sys_rawio_whatever_else_is_wrong(iommufd: Iommufd) -> None:
    nobody = FakeCaller(set(Capability) - {Capability.SYS_RAWIO})
    with pytest.raises(NotPermitted) as info:
        get_pa(iommufd, nobody, flags=1, ioas_id=99)
    assert str(info.value.refusal.culprit) == "capability CAP_SYS_RAWIO"


def test_a_device_is_no_address_space(iommufd: Iommufd, device: Device) -> None:
    with pytest.raises(NotFound):
        get_pa(iommufd, ioas_id=device.id, iova=0, length=1)


def test_no_lookup_where_no_device_without_an_iommu_is(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE_SIZE, IOVA)
    with pytest.raises(NotSupported, match="has no page table yet"):
        get_pa(iommufd, ioas_id=ioas, iova=IOVA, length=1)
    translated = iommufd.bind(requester(iommufd.system, "0000:02:00.0"))
    translated.attach(ioas)
    with pytest.raises(NotSupported, match="behind dmar0"):
        get_pa(iommufd, ioas_id=ioas, iova=IOVA, length=1)
    translated.unbind()


def test_memory_is_pinned_with_the_attachment_and_as_long(iommufd: Iommufd, device: Device) -> None:
    ioas = iommufd.alloc()
    iommufd.map(ioas, iommufd.caller.memory.map(3), 3 * PAGE_SIZE, IOVA)
    assert iommufd.caller.memory.pinned_pages == 0
    device.attach(ioas)
    assert iommufd.caller.memory.pinned_pages == 3
    where, _ = get_pa(iommufd, ioas_id=ioas, iova=IOVA, length=1)
    iommufd.unmap(ioas)
    assert iommufd.caller.memory.pinned_pages == 0
    assert not device.requester.dma.write(where, b"too late")


def test_attaching_reserves_nothing_and_all_64_bits_can_be_mapped(iommufd: Iommufd, ioas: int) -> None:
    assert iommufd.ranges(ioas) == ([(0, EVERYTHING)], PAGE_SIZE)
    last = (1 << 64) - 2 * PAGE_SIZE
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE_SIZE, last)
    assert get_pa(iommufd, ioas_id=ioas, iova=last, length=EVERYTHING)[1] == PAGE_SIZE


def test_two_devices_share_a_page_table_and_go_one_by_one(iommufd: Iommufd, device: Device) -> None:
    other = bind_device(iommufd.context, untranslated(iommufd.system, "0000:02:00.0"))
    ioas = iommufd.alloc()
    assert device.attach(ioas) == other.attach(ioas)
    with pytest.raises(Busy):
        device.attach(ioas)
    another = iommufd.alloc()
    assert device.replace(another) != other.attach  # a group of one: the other stays where it is
    other.unbind()


def only_plain_tables() -> list[Callable[[Iommufd, int, int], object]]:
    return [
        lambda iommufd, device, ioas: iommufd.hwpt(device, ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT),
        lambda iommufd, device, ioas: iommufd.hwpt(device, ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING),
        lambda iommufd, device, ioas: iommufd.hwpt(device, ioas, uapi.IOMMU_HWPT_ALLOC_PASID),
        lambda iommufd, device, ioas: iommufd.hwpt(device, ioas, data_type=1, data_len=8, data_uptr=PAGE_SIZE),
        lambda iommufd, device, ioas: iommufd.call(uapi.IOMMU_GET_HW_INFO, uapi.iommu_hw_info(dev_id=device)),
        lambda iommufd, device, ioas: iommufd.call(
            uapi.IOMMU_VIOMMU_ALLOC, uapi.iommu_viommu_alloc(type=1, dev_id=device, hwpt_id=ioas)
        ),
    ]


@pytest.mark.parametrize("ask", only_plain_tables())
def test_what_takes_an_iommu_is_not_supported(
    iommufd: Iommufd, device: Device, ioas: int, ask: Callable[[Iommufd, int, int], object]
) -> None:
    with pytest.raises(NotSupported) as info:
        ask(iommufd, device.id, ioas)
    assert str(info.value.refusal.culprit) in ("device 0000:01:00.0", "device no-IOMMU mode", "field type")


def test_a_nested_table_is_refused_before_its_parent_is_looked_at(iommufd: Iommufd, device: Device, ioas: int) -> None:
    parent = iommufd.hwpt(device.id, ioas)
    with pytest.raises(NotSupported) as info:
        iommufd.hwpt(device.id, parent, data_type=1, data_len=8, data_uptr=PAGE_SIZE)
    assert str(info.value.refusal.culprit) == "device 0000:01:00.0"
    iommufd.destroy(parent)


def test_pasids_need_a_table_that_cannot_be_had(iommufd: Iommufd, device: Device, ioas: int) -> None:
    with pytest.raises(InvalidArgument):
        device.attach(ioas, 1)


def test_requests_with_a_pasid_go_nowhere(iommufd: Iommufd, device: Device) -> None:
    assert device.requester.dma.read(0x1000, 4, pasid=1) is None
    assert iommufd.system.faults[-1].reason == "pasid"


def test_no_dma_reaches_a_page_table(iommufd: Iommufd, device: Device, ioas: int) -> None:
    iommufd.map(ioas, iommufd.caller.memory.map(1), PAGE_SIZE, IOVA)
    for frame, words in list(iommufd.system.memory.tables.items()):
        before = bytes(words)
        assert not device.requester.dma.write(frame << 12, bytes(PAGE_SIZE))
        assert device.requester.dma.read(frame << 12, 8) is None
        assert bytes(words) == before


def test_a_transfer_ends_at_the_first_byte_that_no_memory_answers_for(
    iommufd: Iommufd, device: Device, ioas: int
) -> None:
    huge = iommufd.caller.memory.map(512, ram=Ram(512, order=9))
    iommufd.map(ioas, huge, 2 * PAGE_SIZE, IOVA)
    where, _ = get_pa(iommufd, ioas_id=ioas, iova=IOVA, length=1)
    assert not device.requester.dma.write(where + 0x10, b"x" * (3 * PAGE_SIZE))
    assert iommufd.system.faults[-1].iova == where + 2 * PAGE_SIZE
    assert iommufd.caller.memory.read(huge + 0x10, 2 * PAGE_SIZE - 0x10) == b"x" * (2 * PAGE_SIZE - 0x10)
    assert device.requester.dma.read(where, 2 * PAGE_SIZE + 1) is None
    assert iommufd.system.faults[-1].iova == where + 2 * PAGE_SIZE
