"""Frames against a naive model: a dict from page to frame, and a list of who holds what."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings, strategies as st

from ioas.soft.memory import Held, Memory
from tests.support.ram import Ram

PAGES = 3000
SPANS = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(1, 12)),
    st.tuples(st.integers(0, PAGES), st.integers(1, 1)),
    st.tuples(st.integers(0, PAGES), st.integers(1, 1500)),
)
HOLDS = st.tuples(st.just("hold"), st.integers(0, 1), SPANS, st.sampled_from([0, 0, 9]))
RELEASES = st.tuples(st.just("release"), st.integers(0, 20))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(HOLDS, HOLDS, RELEASES), max_size=25))
def test_every_page_has_one_frame_while_it_is_held(actions: list[tuple]) -> None:  # type: ignore[type-arg]
    memory = Memory()
    rams = [Ram(pages=2 * PAGES), Ram(pages=2 * PAGES)]
    holds: list[tuple[Held, int, range]] = []
    for action in actions:
        if action[0] == "hold":
            _, which, (start, count), order = action
            rams[which].order = order
            held = memory.hold(rams[which], start << 12, count, True)
            assert held.pages == count
            holds.append((held, which, range(start, start + count)))
        elif holds:
            holds.pop(action[1] % len(holds))[0].release()
        check(memory, rams, holds)
    for held, _, _ in holds:
        held.release()
    assert memory.held_frames == 0
    assert all(ram.idle for ram in rams)
    assert (memory._runs, memory._backings) == ({}, {})


def check(memory: Memory, rams: list[Ram], holds: list[tuple[Held, int, range]]) -> None:
    frames: dict[tuple[int, int], int] = {}
    pins: Counter[tuple[int, int]] = Counter()
    for held, which, pages in holds:
        found = [run.pfn(first + i) for run, first, count in held.segments for i in range(count)]
        for page, frame in zip(pages, found, strict=True):
            assert frames.setdefault((which, page), frame) == frame
            pins[which, page] += 1
    assert len(set(frames.values())) == len(frames), "two pages in one frame"
    for (which, page), count in list(pins.items())[:: max(1, len(pins) // 20)]:
        assert memory.references(rams[which].key, page) == count
        assert rams[which].pinned[page] == count
