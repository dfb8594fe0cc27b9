"""Where descriptors of ours are put: behind the last one if possible, never on one that is taken, never too low."""

from __future__ import annotations

from hypothesis import given, strategies as st

from ioas.run.numbers import FdRange, free_number, number_ranges

RANGES = (FdRange(10, 14), FdRange(30, 34), FdRange(60, 64))


@given(st.sets(st.integers(0, 70)), st.integers(0, 70), st.integers(-1, 70), st.integers(0, 70))
def test_a_number_is_free_in_range_below_the_limit_and_not_below_what_is_asked(
    taken: set[int], least: int, after: int, limit: int
) -> None:
    found = free_number(RANGES, lambda: limit, taken.__contains__, least, after)
    allowed = [
        number
        for index, (first, last) in enumerate(RANGES)
        for number in range(first, last + 1)
        if number >= least and number not in taken and (index == 0 or number < limit)
    ]
    assert (found in allowed) if allowed else (found is None)


def test_numbers_go_round() -> None:
    taken: set[int] = set()
    last, given_out = -1, []
    for _ in range(8):
        number = free_number(RANGES, lambda: 1000, taken.__contains__, 0, last)
        assert number is not None
        given_out.append(number)
        last = number
        taken = {number}
    assert given_out == [10, 11, 12, 13, 14, 10, 11, 12]


def test_the_limit_is_asked_only_when_the_first_range_is_full() -> None:
    def limit() -> int:
        raise AssertionError

    assert free_number(RANGES, limit, lambda number: number < 14, 0, -1) == 14


def test_the_first_range_lies_within_the_limit_of_this_process() -> None:
    first, *others = number_ranges()
    assert 0 < first.first <= first.last <= 1023
    assert [numbers.first > first.last for numbers in others] == [True, True]
