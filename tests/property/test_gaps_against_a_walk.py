"""The gap index gives what walking over all used ranges gives, after any changes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, strategies as st

from ioas.soft.iommufd.gaps import Fit, GapIndex
from ioas.soft.iommufd.ranges import Span

TOP = 1 << 22
END = (1 << 64, 1 << 64)


def walk(windows: Sequence[Span], used: Sequence[Span], fit: Fit) -> int | None:
    """The lowest place, found the slow way and as the kernel does: in the empty window, then from there on."""
    for window_start, window_last in windows:
        position = fit.place(window_start, window_last)
        if position is None:
            continue
        for start, last in [*sorted(used), END]:
            gap_last = min(start - 1, window_last)
            if position <= gap_last and (place := fit.place(position, gap_last)) is not None:
                return place
            position = max(position, last + 1)
    return None


def fits(length: int, address: int) -> Fit:
    """As `Room.place` asks."""
    alignment = min(1 << (length - 1).bit_length(), 2 << 20)
    return Fit(length, min(alignment, address & -address) if address else alignment, address % 4096)


@st.composite
def windows(draw: st.DrawFn) -> list[Span]:
    cuts = sorted(draw(st.sets(st.integers(1, TOP >> 10), min_size=2, max_size=8)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return [(start << 10, (last << 10) - 1) for start, last in pairs]


lengths = st.sampled_from([1, 2, 511, 2048, 4096, 8192, 12288, 65536]) | st.integers(1, 40_000)
addresses = st.sampled_from([0, 4096, 8192, 2048, 1 << 21]) | st.integers(0, TOP)
steps = st.lists(
    st.tuples(st.just("place"), lengths, addresses)
    | st.tuples(st.just("take"), st.integers(0, TOP), st.integers(1, 20_000))
    | st.tuples(st.just("give"), st.integers(0, 99), st.just(0)),
    max_size=60,
)


@given(windows(), steps)
def test_the_lowest_gap_is_found_after_any_changes(spans: list[Span], changes: list[tuple[str, int, int]]) -> None:
    gaps = GapIndex(spans, [])
    used: list[Span] = []
    for change, first, second in changes:
        if change == "place":
            fit = fits(first, second)
            found = gaps.first_fit(fit)
            assert (None if found is None else found.address) == walk(spans, used, fit)
            if found is not None:
                used.append((found.address, found.address + first - 1))
                gaps.take(found.gap, *used[-1])
        elif change == "take":
            start, last = first, first + second - 1
            if not any(a <= last and start <= b for a, b in used):
                gaps.take_above(max((b + 1 for _, b in used if b < start), default=0), start, last)
                used.append((start, last))
        elif used:
            gaps.give(*used.pop(first % len(used)))
        assert list(gaps) == list(GapIndex(spans, sorted(used)))


@given(st.integers(1, 1 << 40), lengths, addresses)
def test_a_certain_gap_fits_wherever_it_starts(start: int, length: int, address: int) -> None:
    fit = fits(length, address)
    assert fit.place(start, start + fit.certain - 1) is not None
