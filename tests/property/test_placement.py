"""Where a container's mappings go: never over another, always inside the ranges, and found whenever there is room."""

from __future__ import annotations

from hypothesis import given, strategies as st

from ioas.api.placement import Placement
from ioas.api.space import IovaRange
from ioas.errors import NoSpace

PAGE = 4096
PAGES = 40
RANGES = (IovaRange(0, 16 * PAGE - 1), IovaRange(20 * PAGE, PAGES * PAGE - 1))

steps = st.lists(
    st.one_of(
        st.tuples(st.just("choose"), st.integers(1, 6)),
        st.tuples(st.just("fixed"), st.integers(0, PAGES - 1)),
        st.tuples(st.just("free"), st.integers(0, PAGES - 1)),
    ),
    max_size=60,
)


def room_for(count: int, used: set[int]) -> bool:
    """Whether `count` pages in a row are free in a range, page 0 aside (which nobody is given without asking)."""
    places = [range(max(start // PAGE, 1), (last + 1) // PAGE - count + 1) for start, last in RANGES]
    return any(used.isdisjoint(range(at, at + count)) for place in places for at in place)


@given(steps)
def test_places_are_free_and_found_while_there_are_any(steps: list[tuple[str, int]]) -> None:
    placement = Placement()
    taken: dict[int, int] = {}
    for what, number in steps:
        used = {page for start, count in taken.items() for page in range(start, start + count)}
        if what == "choose":
            try:
                at = placement.choose(number * PAGE, RANGES)
            except NoSpace:
                assert not room_for(number, used)
                continue
            pages = range(at // PAGE, at // PAGE + number)
            assert used.isdisjoint(pages)
            assert any(start <= at and at + number * PAGE - 1 <= last for start, last in RANGES)
            placement.take(at, number * PAGE)
            taken[at // PAGE] = number
        elif what == "fixed" and number not in used:
            placement.take(number * PAGE, PAGE)
            taken[number] = 1
        elif what == "free" and number in taken:
            count = taken.pop(number)
            placement.give_back(number * PAGE, (number + count) * PAGE - 1)
    assert placement.taken() == [(at * PAGE, (at + count) * PAGE - 1) for at, count in sorted(taken.items())]


def test_large_places_are_aligned_for_large_table_entries() -> None:
    huge = 2 << 20
    assert Placement().choose(huge + PAGE, (IovaRange(0, 64 * huge),)) == huge
    assert Placement().choose(PAGE, (IovaRange(0, 64 * huge),)) == PAGE
