"""Where automatic placement puts a mapping (iopt_alloc_iova)."""

from __future__ import annotations

import pytest

from ioas.errors import InvalidArgument, NoSpace, Overflow
from tests.support.iommufd import EVERYTHING, MOCK, PAGE, Iommufd

HUGE = 2 << 20
VA = 1 << 31
"""An address with more alignment than matters; nothing is pinned here, so nothing needs to be there."""


@pytest.fixture
def iommufd() -> Iommufd:
    return Iommufd()


@pytest.fixture
def ioas(iommufd: Iommufd) -> int:
    return iommufd.alloc()


@pytest.mark.parametrize(
    ("address", "length", "iova"),
    [
        (VA, PAGE, PAGE),  # never below a page
        (VA, 1, PAGE),
        (VA, 3 * PAGE, 4 * PAGE),  # a power of two above the length
        (VA + PAGE, 3 * PAGE, PAGE),  # but no more than the address has
        (VA, HUGE, HUGE),
        (VA, 8 * HUGE, HUGE),  # and no more than a huge page
        (VA + 0x800, PAGE, 0x1800),  # the offset in the page is kept
        (VA + 0xC00, 0x400, 0x1C00),
        (VA + 5, 10, PAGE + 5),
        (0, 3 * PAGE, 4 * PAGE),
    ],
)
def test_the_result_keeps_what_alignment_the_address_has(
    iommufd: Iommufd, ioas: int, address: int, length: int, iova: int
) -> None:
    assert iommufd.map(ioas, address, length) == iova


def test_the_lowest_gap_that_fits_is_taken(iommufd: Iommufd, ioas: int) -> None:
    assert [iommufd.map(ioas, VA + PAGE, PAGE) for _ in range(5)] == [PAGE * n for n in range(1, 6)]
    iommufd.unmap(ioas, 2 * PAGE, PAGE)
    iommufd.unmap(ioas, 4 * PAGE, PAGE)
    assert iommufd.map(ioas, VA + PAGE, 2 * PAGE) == 6 * PAGE
    assert iommufd.map(ioas, VA + PAGE, PAGE) == 2 * PAGE
    assert iommufd.map(ioas, VA + PAGE, PAGE) == 4 * PAGE


def test_an_offset_lifts_the_start_of_the_window_before_gaps_are_looked_at(iommufd: Iommufd, ioas: int) -> None:
    assert iommufd.map(ioas, VA, 1) == PAGE
    assert iommufd.map(ioas, VA + 1, 1) == PAGE + 1
    assert iommufd.map(ioas, VA + 8, 1) == PAGE + 8  # and not PAGE + 2 with the 8 or'ed in
    assert iommufd.map(ioas, VA + 8, 1) == PAGE + 9


def test_fixed_mappings_are_seen_when_they_come_and_when_they_go(iommufd: Iommufd, ioas: int) -> None:
    assert iommufd.map(ioas, VA, PAGE) == PAGE
    iommufd.map(ioas, VA, 3 * PAGE, iova=2 * PAGE)
    assert iommufd.map(ioas, VA, PAGE) == 5 * PAGE
    iommufd.unmap(ioas, 2 * PAGE, 3 * PAGE)
    iommufd.map(ioas, VA, PAGE, iova=3 * PAGE)
    assert [iommufd.map(ioas, VA, PAGE) for _ in range(3)] == [2 * PAGE, 4 * PAGE, 6 * PAGE]


def test_gaps_grow_together_again(iommufd: Iommufd, ioas: int) -> None:
    places = [iommufd.map(ioas, VA, PAGE) for _ in range(8)]
    for iova in places[1::2] + places[::2]:
        iommufd.unmap(ioas, iova, PAGE)
    assert iommufd.map(ioas, VA + PAGE, 8 * PAGE) == PAGE


def test_reserved_iova_is_passed_over_also_when_it_is_reserved_later(iommufd: Iommufd, ioas: int) -> None:
    iommufd.unmap(ioas, iommufd.map(ioas, VA, PAGE), PAGE)
    iommufd.reserve(ioas, 4 * PAGE, 100 * PAGE)
    assert [iommufd.map(ioas, VA + PAGE, 2 * PAGE) for _ in range(2)] == [PAGE, 104 * PAGE]


def test_a_device_moves_the_window(iommufd: Iommufd, ioas: int) -> None:
    buffer = iommufd.caller.memory.map(1)
    mock, _, _ = iommufd.mock(ioas)
    assert iommufd.map(ioas, buffer, PAGE) == MOCK
    iommufd.unmap(ioas)
    iommufd.destroy(mock)
    assert iommufd.map(ioas, buffer, PAGE) == PAGE


def test_no_gap_is_no_space(iommufd: Iommufd, ioas: int) -> None:
    iommufd.reserve(ioas, 6, 0xFFFF_FFFF_FFFF_8001)
    with pytest.raises(NoSpace):
        iommufd.map(ioas, VA, 5 * PAGE)


def test_nothing_is_placed_in_the_last_page(iommufd: Iommufd, ioas: int) -> None:
    iommufd.reserve(ioas, 0, EVERYTHING - 2 * PAGE + 2)
    with pytest.raises(NoSpace):
        iommufd.map(ioas, VA, PAGE)
    iommufd.map(ioas, VA, PAGE, iova=EVERYTHING - PAGE + 1)


def test_half_of_all_iova_overflows(iommufd: Iommufd, ioas: int) -> None:
    with pytest.raises(Overflow):
        iommufd.map(ioas, 0, EVERYTHING // 2)


def test_an_address_with_less_alignment_than_the_ioas_wants_is_invalid(iommufd: Iommufd, ioas: int) -> None:
    iommufd.mock(ioas)
    with pytest.raises(InvalidArgument, match="1024"):
        iommufd.map(ioas, iommufd.caller.memory.map(2) + 1024, PAGE)


def test_a_copy_is_placed_by_the_address_of_its_first_byte(iommufd: Iommufd, ioas: int) -> None:
    iommufd.map(ioas, VA, 8 * PAGE, iova=64 * PAGE)
    assert iommufd.copy(ioas, 66 * PAGE, 4 * PAGE, ioas) == 2 * PAGE
