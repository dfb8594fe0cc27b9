"""IOMMU_TEST_CMD: the operations that the other tests lean on, where they refuse."""

from __future__ import annotations

import pytest

from ioas.errors import AddressInUse, InputOutput, InvalidArgument, NotFound, NotSupported, Overflow
from ioas.uapi import iommufd_test as uapi
from tests.support.iommufd import EVERYTHING, MOCK, PAGE, Iommufd, requester


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


@pytest.mark.parametrize("op", [0, 24])
def test_unknown_operations_are_not_supported(iommufd: Iommufd, op: int) -> None:
    with pytest.raises(NotSupported):
        iommufd.test(op)


def test_ids_are_those_of_the_kernel(iommufd: Iommufd, ioas: int) -> None:
    assert iommufd.mock(ioas) == (2, 4, 3)
    assert iommufd.mock(ioas) == (5, 4, 6)


def test_a_mock_device_that_cannot_be_attached_is_not_made(iommufd: Iommufd, ioas: int) -> None:
    iommufd.map(ioas, 1 << 31, PAGE, iova=0)
    with pytest.raises(AddressInUse):
        iommufd.mock(ioas)
    with pytest.raises(NotFound):
        iommufd.mock(99)
    with pytest.raises(InvalidArgument):
        iommufd.mock(ioas, 2)
    assert not iommufd.system.groups
    assert iommufd.alloc() == ioas + 1


def test_names_of_mock_devices_are_used_again(iommufd: Iommufd, ioas: int) -> None:
    first, _, _ = iommufd.mock(ioas)
    iommufd.mock(ioas)
    iommufd.destroy(first)
    iommufd.mock(ioas)
    names = {one.name for group in iommufd.system.groups.values() for one in group.requesters}
    assert names == {"iommufd_mock0", "iommufd_mock1"}


def test_a_mock_device_can_be_moved(iommufd: Iommufd, ioas: int) -> None:
    mock, table, device = iommufd.mock(ioas)
    replace = uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE
    by_hand = iommufd.hwpt(device, ioas)
    assert iommufd.test(replace, mock, mock_domain_replace={"pt_id": by_hand}).mock_domain_replace.pt_id == by_hand
    with pytest.raises(NotFound):
        iommufd.destroy(table)
    with pytest.raises(NotFound):
        iommufd.test(replace, 0, mock_domain_replace={"pt_id": by_hand})
    with pytest.raises(NotFound):
        iommufd.test(replace, mock, mock_domain_replace={"pt_id": 99})


def test_cache_entries_hold_their_first_value(iommufd: Iommufd, ioas: int) -> None:
    _, _, device = iommufd.mock(ioas)

    def check(number: int, entry: int, value: int) -> None:
        iommufd.test(uapi.IOMMU_TEST_OP_DEV_CHECK_CACHE, number, check_dev_cache={"id": entry, "cache": value})

    for entry in range(4):
        check(device, entry, uapi.IOMMU_TEST_DEV_CACHE_DEFAULT)
    real = iommufd.bind(requester(iommufd.system))
    for number, entry, value in ((device, 0, 1), (device, 4, 0xBADDAD), (real.id, 0, 0xBADDAD)):
        with pytest.raises(InvalidArgument):
            check(number, entry, value)
    with pytest.raises(NotFound):
        check(99, 0, 0)


def test_check_map_wants_the_very_page(iommufd: Iommufd, ioas: int) -> None:
    _, table, _ = iommufd.mock(ioas)
    buffer = iommufd.caller.memory.map(3)
    iommufd.map(ioas, buffer, 2 * PAGE, MOCK)

    def check(number: int, iova: int, length: int, address: int) -> None:
        iommufd.test(
            uapi.IOMMU_TEST_OP_MD_CHECK_MAP, number, check_map={"iova": iova, "length": length, "uptr": address}
        )

    check(table, MOCK, 2 * PAGE, buffer)
    check(table, MOCK + 2048, PAGE, buffer + 2048)
    for iova, length, address in (
        (MOCK, 2 * PAGE, buffer + PAGE),
        (MOCK, 3 * PAGE, buffer),
        (MOCK, 2 * PAGE, buffer + 2048),
        (MOCK + 1, PAGE, buffer + 1),
        (MOCK, EVERYTHING - 2047, buffer),
    ):
        with pytest.raises(InvalidArgument):
            check(table, iova, length, address)
    with pytest.raises(NotFound):
        check(ioas, MOCK, PAGE, buffer)


def test_the_last_page_of_all_ends_too_far(iommufd: Iommufd, ioas: int) -> None:
    _, table, _ = iommufd.mock(ioas)
    check = {"iova": MOCK, "length": 2048, "uptr": (1 << 64) - PAGE}
    with pytest.raises(Overflow):
        iommufd.test(uapi.IOMMU_TEST_OP_MD_CHECK_MAP, table, check_map=check)


def test_check_refs_counts_pins(iommufd: Iommufd, ioas: int) -> None:
    iommufd.mock(ioas)
    buffer = iommufd.caller.memory.map(2)
    iommufd.map(ioas, buffer, PAGE, MOCK)
    iommufd.map(ioas, buffer, 2 * PAGE, MOCK + 8 * PAGE)

    def check(address: int, length: int, refs: int) -> None:
        iommufd.test(uapi.IOMMU_TEST_OP_MD_CHECK_REFS, check_refs={"uptr": address, "length": length, "refs": refs})

    check(buffer, PAGE, 2)
    check(buffer + PAGE, PAGE, 1)
    with pytest.raises(InputOutput, match="2 times"):
        check(buffer, PAGE, 0)
    with pytest.raises(InvalidArgument):
        check(buffer + 1, PAGE, 0)


def test_reserving_checks_its_range(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(InvalidArgument):
        iommufd.reserve(ioas, 0, 0)
    with pytest.raises(Overflow):
        iommufd.reserve(ioas, 2, EVERYTHING)
    with pytest.raises(NotFound):
        iommufd.reserve(99, 0, 1)
    iommufd.map(ioas, 1 << 31, PAGE, iova=PAGE)
    with pytest.raises(AddressInUse):
        iommufd.reserve(ioas, 0, PAGE + 1)


def test_the_memory_limit_is_taken_and_means_nothing(iommufd: Iommufd) -> None:
    op = uapi.IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT
    iommufd.test(op, memory_limit={"limit": 12})
    with pytest.raises(InvalidArgument):
        iommufd.test(op, memory_limit={"limit": 11})
