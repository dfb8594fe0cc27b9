"""Claims on pages, against a count for each page."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, strategies as st

from ioas.errors import OutOfMemory
from ioas.soft.iommu import System
from ioas.soft.iommufd.pages import Owner, Pages
from ioas.soft.memory import AccountMode
from tests.support.caller import FakeMemory
from tests.support.ram import Ram

COUNT = 24
LIMIT = 18
Claim = tuple[int, int]


def make() -> tuple[System, FakeMemory, Ram, Pages]:
    system, memory, ram = System(), FakeMemory(LIMIT * 4096), Ram(COUNT)
    start = memory.map(COUNT, ram=ram)
    return system, memory, ram, Pages(system, Owner(memory, 1, AccountMode.USER), memory, memory, start, COUNT, True)


spans = st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)).map(lambda ends: (min(ends), max(ends)))
steps = st.lists(spans | st.integers(0, 99), max_size=40)


@given(steps)
def test_a_page_is_pinned_while_it_is_claimed_and_once(changes: list[Claim | int]) -> None:
    system, memory, ram, pages = make()
    claims: list[Claim] = []
    frames: dict[int, int] = {}
    for change in changes:
        needed = Counter(page for first, last in claims for page in range(first, last + 1))
        if isinstance(change, int):
            if claims:
                pages.release(*claims.pop(change % len(claims)))
        elif len(needed.keys() | set(range(change[0], change[1] + 1))) > LIMIT:
            try:
                pages.claim(*change)
            except OutOfMemory:
                pass
            else:
                raise AssertionError("claimed beyond the limit")
        else:
            pages.claim(*change)
            claims.append(change)
        needed = Counter(page for first, last in claims for page in range(first, last + 1))
        assert pages.pinned == system.memory.held_frames == memory.pinned_pages == len(needed)
        assert system.accounting.locked(1) == len(needed)
        frames = {page: frame for page, frame in frames.items() if page in needed}
        for first, last in claims:
            found = [
                run.pfn(at) for run, start, count in pages.segments(first, last) for at in range(start, start + count)
            ]
            assert len(found) == last - first + 1
            for page, frame in zip(range(first, last + 1), found, strict=True):
                assert frames.setdefault(page, frame) == frame, "a claimed page stays in its frame"
                assert system.memory.references(ram.key, page) == 1
        assert len(set(frames.values())) == len(frames)
    for claim in claims:
        pages.release(*claim)
    assert ram.idle
    assert system.memory.held_frames == system.accounting.locked(1) == 0
