"""Pages whose place a program has been told, without a pin: frames while they are there, and low frames."""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT

import pytest

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.memory import Memory, Sighting, Sightings
from ioas.soft.memory.frames import LOW_FRAMES, LowFrames
from tests.support.ram import Ram, RamPin


class Place:
    """Where pages are, until somebody takes them away."""

    def __init__(self) -> None:
        self.there = True
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.there


@pytest.fixture
def memory() -> Memory:
    return Memory(low=True)


@pytest.fixture
def sightings(memory: Memory) -> Sightings:
    return Sightings(memory)


def see(sightings: Sightings, ram: Ram, place: Place, page: int = 0, order: int = 0) -> Sighting:
    return sightings.see(ram, page * PAGE_SIZE, order, True, place)


def test_a_page_that_was_seen_is_reached_by_its_frame(sightings: Sightings) -> None:
    ram = Ram()
    where = see(sightings, ram, Place(), 5).pfn << 12
    sightings.scatter(where + 8, memoryview(b"here"))
    assert bytes(ram.page(5)[8:12]) == b"here"
    assert sightings.gather(where + 8, 4) == b"here"


def test_a_page_that_is_gone_is_not_written_to(sightings: Sightings, memory: Memory) -> None:
    ram, place = Ram(), Place()
    where = see(sightings, ram, place).pfn << 12
    place.there = False
    for access in (lambda: sightings.scatter(where, memoryview(b"wild")), lambda: sightings.gather(where, 4)):
        with pytest.raises(KernelError):
            access()
    assert bytes(ram.page(0)[:4]) == bytes(4)
    assert (len(sightings), memory.held_frames, sum(ram.pinned.values())) == (0, 0, 0)


def test_a_pin_keeps_the_frame_of_a_page_that_is_gone(sightings: Sightings, memory: Memory) -> None:
    ram, place = Ram(), Place()
    sighting = see(sightings, ram, place)
    held = memory.hold(ram, 0, 1, True)
    assert held.pfn(0) == sighting.pfn
    place.there = False
    sightings.scatter(sighting.pfn << 12, memoryview(b"held"))
    assert bytes(ram.page(0)[:4]) == b"held"
    assert sighting.gone
    held.release()


def test_only_what_an_access_meets_is_asked_about(sightings: Sightings) -> None:
    ram, places = Ram(), [Place(), Place(), Place()]
    seen = [see(sightings, ram, place, page) for page, place in enumerate(places)]
    sightings.gather(seen[1].pfn << 12, PAGE_SIZE)
    assert [place.asked for place in places] == [0, 1, 0]


def test_a_page_may_be_seen_in_several_places(sightings: Sightings) -> None:
    ram, first, second = Ram(), Place(), Place()
    one, two = see(sightings, ram, first), see(sightings, ram, second)
    assert one.pfn == two.pfn
    first.there = False
    sightings.gather(one.pfn << 12, 1)
    assert (one.gone, two.gone) == (True, False)


def test_a_huge_page_is_seen_as_a_whole_and_contiguous(sightings: Sightings) -> None:
    ram, place = Ram(1024, order=9), Place()
    sighting = see(sightings, ram, place, 512, order=9)
    assert sighting.contiguous
    where = (sighting.pfn << 12) + 300 * PAGE_SIZE - 2
    sightings.scatter(where, memoryview(b"over"))
    assert bytes(ram.page(811)[-2:]) + bytes(ram.page(812)[:2]) == b"over"
    place.there = False
    with pytest.raises(KernelError):
        sightings.gather(where, 4)


def test_a_huge_page_of_which_parts_have_frames_is_not_contiguous(sightings: Sightings, memory: Memory) -> None:
    ram = Ram(512, order=0)
    held = memory.hold(ram, 7 * PAGE_SIZE, 1, True)
    ram.order = 9
    assert not see(sightings, ram, Place(), order=9).contiguous
    held.release()


def test_what_is_gone_is_forgotten_before_there_is_too_much(sightings: Sightings, memory: Memory) -> None:
    ram = Ram()
    places = [Place() for _ in range(1000)]
    for page, place in enumerate(places):
        see(sightings, ram, place, page)
        place.there = False
    assert len(sightings) <= 512
    sightings.close()
    assert (len(sightings), memory.held_frames) == (0, 0)


def test_a_page_that_cannot_be_pinned_has_no_frame(sightings: Sightings, memory: Memory) -> None:
    class Unreachable(Ram):
        def pin(self, start: int, count: int, write: bool) -> RamPin:
            raise refuse(EFAULT, "no such memory", "address", start)

    with pytest.raises(KernelError):
        see(sightings, Unreachable(), Place())
    assert (len(sightings), memory.held_frames) == (0, 0)


def low_blocks(order: int) -> Callable[[], int]:
    """How many blocks of a size there are below 256 MiB."""

    def count() -> int:
        frames = LowFrames()
        taken: set[int] = set()
        while base := frames.take(order):
            assert base % (1 << order) == 0
            assert 0 < base <= LOW_FRAMES - (1 << order)
            assert frames.base(base + (1 << order) - 1) == base
            taken.add(base)
        return len(taken)

    return count


@pytest.mark.parametrize(("order", "blocks"), [(1, 127 * 256), (8, 254), (9, 127), (10, 63), (14, 3), (15, 1), (16, 0)])
def test_low_frames_are_all_given_out_but_the_lowest(order: int, blocks: int) -> None:
    assert low_blocks(order)() == blocks


def test_low_frames_that_come_back_are_given_out_again() -> None:
    frames = LowFrames()
    large = [frames.take(10) for _ in range(63)]
    assert (frames.take(10), frames.take(1) > 0) == (0, True)
    frames.give(large[7])
    assert frames.take(9) == large[7]
    small = frames.take(3)
    frames.give(small)
    assert frames.take(3) == small


def test_pages_go_elsewhere_when_low_frames_are_used_up(memory: Memory) -> None:
    ram = Ram(1 << 18, order=18)
    low = memory.hold(Ram(512, order=9), 0, 512, True)
    high = memory.hold(ram, 0, 1 << 18, True)
    assert low.pfn(0) < LOW_FRAMES < high.pfn(0)
    memory.write(high.pfn(12345) << 12, b"far")
    assert bytes(ram.page(12345)[:3]) == b"far"
    low.release()
    high.release()
