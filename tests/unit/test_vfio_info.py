"""GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, and unknown requests (vfio_pci_core.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, ENOTTY

import pytest

from ioas.soft.vfio.capability_chain import InfoCapability, chain
from ioas.uapi import iommufd, vfio
from tests.support.models import Rich, Unresettable
from tests.support.vfio_client import ERR, INTX, MSI, MSIX, REQ, bound, refused

READ_WRITE = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE


def test_a_device_has_9_regions_5_interrupt_indexes_and_says_whether_it_can_be_reset() -> None:
    with bound() as client:
        info = client.call(vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info(argsz=24, cap_offset=7))
        assert (info.num_regions, info.num_irqs, info.cap_offset) == (9, 5, 0)
        assert info.flags == vfio.VFIO_DEVICE_FLAGS_PCI | vfio.VFIO_DEVICE_FLAGS_RESET


def test_a_device_on_the_root_bus_without_a_reset_of_its_own_does_not_offer_one() -> None:
    with bound("edu,addr=0000:00:08.0") as client:
        info = client.call(vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info(argsz=24))
        assert info.flags == vfio.VFIO_DEVICE_FLAGS_PCI


@pytest.mark.parametrize(("argsz", "written"), [(16, 16), (20, 20), (24, 24), (4096, 24)])
def test_get_info_writes_no_more_than_argsz(argsz: int, written: int) -> None:
    with bound() as client:
        data = bytearray(argsz.to_bytes(4, "little") + b"\x77" * 60)
        client.device.ioctl(client.caller, vfio.VFIO_DEVICE_GET_INFO, data)
        assert data[written:] == b"\x77" * (64 - written)
        assert data[:written].count(0x77) == 0


def test_an_argsz_below_the_first_version_is_einval() -> None:
    with bound() as client:
        for request, least in (
            (vfio.VFIO_DEVICE_GET_INFO, 16),
            (vfio.VFIO_DEVICE_GET_REGION_INFO, 32),
            (vfio.VFIO_DEVICE_GET_IRQ_INFO, 16),
            (vfio.VFIO_DEVICE_SET_IRQS, 20),
            (vfio.VFIO_DEVICE_FEATURE, 8),
            (vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, 12),
            (vfio.VFIO_DEVICE_PCI_HOT_RESET, 12),
            (vfio.VFIO_DEVICE_IOEVENTFD, 28),
        ):
            for argsz in (0, least - 1):
                with refused(EINVAL):
                    client.device.ioctl(client.caller, request, bytearray(argsz.to_bytes(4, "little") + bytes(60)))


def test_regions_lie_at_their_index_shifted_by_40() -> None:
    with bound(Rich()) as client:
        sizes = []
        for index in range(8):
            info, _ = client.region(index)
            assert info.offset == index << 40
            sizes.append((info.size, info.flags))
        rom = 8192, vfio.VFIO_REGION_INFO_FLAG_READ
        absent = 0, 0
        assert sizes == [
            (0x4000, READ_WRITE),
            absent,
            (32, READ_WRITE),
            absent,
            (0x1000, READ_WRITE),
            absent,
            rom,
            (4096, READ_WRITE),
        ]


def test_a_conventional_function_has_256_bytes_of_configuration_space() -> None:
    with bound() as client:
        assert client.region(7)[0].size == 256


@pytest.mark.parametrize("index", [8, 9, 0xFFFF_FFFF])
def test_a_region_that_no_device_has_is_einval(index: int) -> None:
    with bound() as client, refused(EINVAL):
        client.region(index)


def test_a_rom_without_a_valid_image_has_size_0() -> None:
    with bound(Unresettable()) as client:
        assert client.region(6)[0].size == 0


def test_the_bar_of_the_msix_table_says_that_it_may_be_mapped_where_bars_can_be_mapped() -> None:
    with bound(Rich()) as client:
        client.host.devices["0000:01:00.0"].mappable_bars = frozenset({0, 4})
        plain, _ = client.region(0)
        assert plain.flags == READ_WRITE | vfio.VFIO_REGION_INFO_FLAG_MMAP
        short, tail = client.region(4, argsz=32, room=8)
        flags = READ_WRITE | vfio.VFIO_REGION_INFO_FLAG_MMAP | vfio.VFIO_REGION_INFO_FLAG_CAPS
        assert (short.flags, short.argsz, short.cap_offset, tail) == (flags, 40, 0, bytes(8))
        whole, tail = client.region(4, argsz=40, room=8)
        assert (whole.argsz, whole.cap_offset) == (40, 32)
        header = vfio.vfio_info_cap_header.from_buffer_copy(tail)
        assert (header.id, header.version, header.next) == (vfio.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, 0)


def test_capabilities_are_chained_by_offsets_from_the_start_of_the_answer() -> None:
    data = chain([InfoCapability(1, 2, b"12345"), InfoCapability(3)], 32)
    first = vfio.vfio_info_cap_header.from_buffer_copy(data)
    assert (first.id, first.version, first.next, len(data)) == (1, 2, 48, 24)
    second = vfio.vfio_info_cap_header.from_buffer_copy(data[first.next - 32 :])
    assert (second.id, second.version, second.next) == (3, 1, 0)
    assert chain([], 32) == b""


def test_interrupt_indexes_have_the_counts_of_the_function() -> None:
    with bound(Rich()) as client:
        assert [client.irq_info(index).count for index in (INTX, MSI, MSIX, ERR, REQ)] == [1, 4, 8, 1, 1]
    with bound() as client:
        assert [client.irq_info(index).count for index in (INTX, MSI, MSIX, ERR, REQ)] == [1, 1, 0, 1, 1]


def test_interrupt_flags_are_those_of_7_3() -> None:
    level = vfio.VFIO_IRQ_INFO_MASKABLE | vfio.VFIO_IRQ_INFO_AUTOMASKED
    with bound(Rich()) as client:
        flags = [client.irq_info(index).flags for index in (INTX, MSI, MSIX, ERR, REQ)]
        fixed = vfio.VFIO_IRQ_INFO_NORESIZE
        assert flags == [vfio.VFIO_IRQ_INFO_EVENTFD | more for more in (level, fixed, 0, fixed, fixed)]


def test_an_interrupt_index_beyond_the_last_is_einval() -> None:
    with bound() as client, refused(EINVAL):
        client.irq_info(5)


@pytest.mark.parametrize(
    "request_number",
    [0x1234, 0x3BFE, iommufd.IOMMU_IOAS_ALLOC, vfio.VFIO_GROUP_GET_STATUS, vfio.VFIO_DEVICE_GET_INFO | 1 << 30],
)
def test_an_unknown_request_is_enotty(request_number: int) -> None:
    with bound() as client, refused(ENOTTY):
        client.device.ioctl(client.caller, request_number, bytearray(64))
