"""One frame per page identity, as long as anything holds the page; contiguity as the extents say."""

from __future__ import annotations

import threading
from errno import EFAULT
from itertools import pairwise

import pytest

from ioas.errors import BadAddress, UsageError
from ioas.soft.memory import Held, Memory
from tests.support.ram import Patchwork, Ram


@pytest.fixture
def memory() -> Memory:
    return Memory()


def pfns(held: Held) -> list[int]:
    return [held.pfn(index) for index in range(held.pages)]


def test_a_page_has_the_same_frame_for_all_who_hold_it(memory: Memory) -> None:
    ram = Ram()
    whole = memory.hold(ram, 0, 16, True)
    part = memory.hold(ram, 5 << 12, 4, True)
    single = memory.hold(ram, 7 << 12, 1, False)
    assert pfns(part) == pfns(whole)[5:9]
    assert single.pfn(0) == whole.pfn(7)


def test_a_frame_stays_while_any_of_its_holders_does(memory: Memory) -> None:
    ram = Ram()
    first = memory.hold(ram, 0, 8, True)
    second = memory.hold(ram, 3 << 12, 1, True)
    frame = first.pfn(3)
    first.release()
    third = memory.hold(ram, 2 << 12, 4, True)
    assert second.pfn(0) == frame
    assert third.pfn(1) == frame


def test_a_long_hold_goes_around_pages_that_are_held_already(memory: Memory) -> None:
    ram = Ram()
    singles = {page: memory.hold(ram, page << 12, 1, True).pfn(0) for page in (0, 3, 4, 9)}
    pair = memory.hold(ram, 6 << 12, 2, True)
    long = pfns(memory.hold(ram, 0, 12, True))
    assert {page: long[page] for page in singles} == singles
    assert long[6:8] == pfns(pair)
    assert len(set(long)) == 12


def test_pages_of_different_backings_never_share_a_frame(memory: Memory) -> None:
    frames = [frame for _ in range(3) for frame in pfns(memory.hold(Ram(), 0, 5, True))]
    assert len(set(frames)) == 15


def test_ordinary_frames_are_never_contiguous(memory: Memory) -> None:
    ram = Ram()
    for start, count in ((0, 1), (1, 1), (2, 1), (3, 7), (10, 1), (11, 600), (611, 1)):
        memory.hold(ram, start << 12, count, True)
    frames = pfns(memory.hold(ram, 0, 612, True))
    assert all(b != a + 1 for a, b in pairwise(frames))


@pytest.mark.parametrize("order", [9, 18])
def test_huge_frames_are_contiguous_aligned_blocks_and_no_more(memory: Memory, order: int) -> None:
    size = 1 << order
    held = memory.hold(Ram(order=order, pages=1 << 30, count_pins=False), 0, 3 * size, True)
    firsts = [held.pfn(block * size) for block in range(3)]
    for block, first in enumerate(firsts):
        assert first % size == 0
        assert held.pfn(block * size + size - 1) == first + size - 1
    assert all(b != a + size for a, b in pairwise(firsts))


def test_parts_of_a_huge_page_pinned_one_by_one_are_contiguous(memory: Memory) -> None:
    ram = Ram(order=9)
    first = memory.hold(ram, 5 << 12, 1, True)
    second = memory.hold(ram, 6 << 12, 10, True)
    assert second.pfn(0) == first.pfn(0) + 1
    assert second.pfn(9) == first.pfn(0) + 10
    assert first.pfn(0) % 512 == 5


def test_a_huge_page_whose_part_has_an_ordinary_frame_keeps_it(memory: Memory) -> None:
    ram = Ram()
    small = memory.hold(ram, 700 << 12, 1, True)
    ram.order = 9
    held = memory.hold(ram, 0, 3 * 512, True)
    assert held.pfn(700) == small.pfn(0)
    assert held.pfn(511) == held.pfn(0) + 511
    assert held.pfn(1024 + 511) == held.pfn(1024) + 511
    assert len(set(pfns(held))) == 3 * 512


def test_a_hold_over_several_backings_is_in_the_order_of_addresses(memory: Memory) -> None:
    a, b = Ram(), Ram()
    held = memory.hold(Patchwork((a, 10, 2), (b, 0, 3), (a, 10, 1)), 0, 6, True)
    frames = pfns(held)
    assert frames[0] == frames[5]
    assert frames[:2] == pfns(memory.hold(a, 10 << 12, 2, True))
    assert frames[2:5] == pfns(memory.hold(b, 0, 3, True))


def test_part_gives_the_segments_of_a_range(memory: Memory) -> None:
    a, b = Ram(), Ram()
    held = memory.hold(Patchwork((a, 0, 4), (b, 0, 4), (a, 4, 4)), 0, 12, True)
    frames = [run.pfn(first + i) for run, first, count in held.part(3, 6) for i in range(count)]
    assert frames == pfns(held)[3:9]
    assert [segment.count for segment in held.part(3, 6)] == [1, 4, 1]
    assert [segment.count for segment in held.segments] == [4, 4, 4]


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, 0), (0, 5), (4, 1)])
def test_a_part_beyond_what_is_held_is_refused(memory: Memory, first: int, count: int) -> None:
    held = memory.hold(Ram(), 0, 4, True)
    with pytest.raises(UsageError):
        held.part(first, count)


def test_frames_are_used_again(memory: Memory) -> None:
    ram = Ram()
    held = memory.hold(ram, 0, 100, True)
    frames = pfns(held)
    held.release()
    assert pfns(memory.hold(ram, 1 << 20, 100, True)) == frames


def test_a_hold_beyond_the_largest_run_is_cut(memory: Memory) -> None:
    pages = (1 << 26) + 5
    held = memory.hold(Ram(pages=1 << 40, count_pins=False), 0, pages, True)
    assert [segment.count for segment in held.segments] == [1 << 26, 5]
    assert held.pfn(pages - 1) != held.pfn(0)


def test_addresses_fit_into_51_bits(memory: Memory) -> None:
    held = memory.hold(Ram(pages=1 << 40, order=18, count_pins=False), 0, 1 << 27, True)
    assert max(held.pfn(0), held.pfn((1 << 27) - 1)) << 12 < 1 << 51


def test_a_refused_pin_leaves_nothing(memory: Memory) -> None:
    ram = Ram(pages=4)
    with pytest.raises(BadAddress):
        memory.hold(ram, 2 << 12, 3, True)
    assert memory.held_frames == 0
    assert ram.idle


def test_release_unpins_once(memory: Memory) -> None:
    ram = Ram()
    held = memory.hold(ram, 0, 3, True)
    assert memory.held_frames == 3
    held.release()
    held.release()
    assert memory.held_frames == 0
    assert ram.idle
    assert held.segments == []


def test_references_count_every_hold_of_a_page(memory: Memory) -> None:
    ram = Ram()
    holds = [memory.hold(ram, 0, 4, True), memory.hold(ram, 1 << 12, 1, True), memory.hold(ram, 1 << 12, 2, True)]
    assert [memory.references(ram.key, page) for page in range(5)] == [1, 3, 2, 1, 0]
    for held in holds:
        held.release()
    assert [memory.references(ram.key, page) for page in range(5)] == [0] * 5


def test_memory_is_read_and_written_across_frames(memory: Memory) -> None:
    ram = Ram()
    held = memory.hold(ram, 0, 4, True)
    for page in range(4):
        ram.page(page)[:] = bytes([page + 1]) * 4096
    assert memory.read((held.pfn(2) << 12) + 4090, 6) == b"\3" * 6
    memory.write((held.pfn(1) << 12) + 4000, b"x" * 96)
    assert ram.page(1)[4000:] == b"x" * 96
    pieces = [((held.pfn(0) << 12) + 4095, 1), (held.pfn(1) << 12, 2), (held.pfn(3) << 12, 1)]
    assert memory.gather(pieces) == b"\1\2\2\4"
    memory.scatter(pieces, memoryview(b"abcd"))
    assert memory.gather(pieces) == b"abcd"


def test_contiguous_frames_are_one_access(memory: Memory) -> None:
    ram = Ram(order=9)
    held = memory.hold(ram, 0, 512, True)
    calls = []
    ram.before_read = lambda offset, length: calls.append((offset, length))
    memory.read(held.pfn(0) << 12, 512 << 12)
    assert calls == [(0, 512 << 12)]


def test_scattered_frames_of_neighbouring_pages_are_one_access(memory: Memory) -> None:
    ram = Ram()
    held = memory.hold(ram, 0, 16, True)
    calls = []
    ram.before_read = lambda offset, length: calls.append((offset, length))
    memory.gather([(held.pfn(index) << 12, 4096) for index in range(16)])
    assert calls == [(0, 16 << 12)]


def test_where_no_frame_is_nothing_answers(memory: Memory) -> None:
    held = memory.hold(Ram(), 0, 1, True)
    address = held.pfn(0) << 12
    for start, length in ((0, 8), (address + 4092, 8), (1 << 45, 1), ((1 << 63), 1)):
        with pytest.raises(BadAddress) as caught:
            memory.read(start, length)
        assert caught.value.errno == EFAULT
    with pytest.raises(BadAddress):
        memory.write(address + 4092, bytes(8))
    held.release()
    with pytest.raises(BadAddress):
        memory.read(address, 1)


def test_an_unheld_part_of_a_run_does_not_answer(memory: Memory) -> None:
    ram = Ram()
    whole = memory.hold(ram, 0, 8, True)
    kept = memory.hold(ram, 4 << 12, 1, True)
    frames = pfns(whole)
    whole.release()
    assert memory.read(frames[4] << 12, 4) == bytes(4)
    with pytest.raises(BadAddress):
        memory.read(frames[5] << 12, 4)
    kept.release()
    assert memory.held_frames == 0


def test_access_goes_through_a_pin_that_is_still_there(memory: Memory) -> None:
    """Each pin's own way to the bytes ends with the pin; the frame must then lead through another's."""
    ram = Ram()
    first, second = memory.hold(ram, 0, 4, True), memory.hold(ram, 2 << 12, 2, True)
    address = second.pfn(0) << 12
    memory.write(address, b"mine")
    first.release()
    assert memory.read(address, 4) == b"mine"


def test_a_release_waits_for_an_access_through_its_own_pin(memory: Memory) -> None:
    ram = Ram()
    first, second = memory.hold(ram, 0, 1, True), memory.hold(ram, 0, 1, True)
    address = first.pfn(0) << 12
    inside, go_on = threading.Event(), threading.Event()
    results: list[object] = []

    def pause(offset: int, length: int) -> None:
        inside.set()
        go_on.wait()
        results.append("moving")

    ram.before_read = pause
    reader = threading.Thread(target=memory.read, args=(address, 4))
    reader.start()
    inside.wait()

    def release() -> None:
        first.release()
        results.append("released")

    releaser = threading.Thread(target=release)
    releaser.start()
    while memory.held_frames == 2:  # the release is under way, and must now wait
        pass
    go_on.set()
    reader.join()
    releaser.join()
    assert results == ["moving", "released"]
    second.release()
    assert ram.idle


def test_table_frames_are_zero_and_readable_by_address(memory: Memory) -> None:
    pfn, words = memory.table()
    assert words.tolist() == [0] * 512
    words[3] = 0x1122334455667788
    assert memory.read((pfn << 12) + 24, 8) == bytes.fromhex("8877665544332211")
    memory.write((pfn << 12) + 8, b"\1")
    assert words[1] == 1
    assert memory.tables[pfn] is words
    memory.free_table(pfn)
    assert memory.table_frames == 0
    with pytest.raises(KeyError):
        memory.free_table(pfn)
    again, words = memory.table()
    assert again == pfn
    assert words[3] == 0


@pytest.mark.parametrize("index", [1, 3, 4, 5, 9])
def test_a_hold_can_be_split_and_each_part_let_go_alone(memory: Memory, index: int) -> None:
    a, b = Ram(), Ram()
    held = memory.hold(Patchwork((a, 0, 4), (b, 0, 6)), 0, 10, True)
    frames = pfns(held)
    left, right = held.split(index)
    assert pfns(left) + pfns(right) == frames
    assert (left.pages, right.pages, memory.held_frames) == (index, 10 - index, 10)
    held.release()
    left.release()
    assert memory.held_frames == 10 - index
    assert pfns(right) == frames[index:]
    assert memory.read(frames[9] << 12, 4) == bytes(4)
    assert not b.idle, "the pin ends with the last part"
    right.release()
    assert memory.held_frames == 0
    assert a.idle
    assert b.idle


@pytest.mark.parametrize("index", [0, 10, -1])
def test_a_split_needs_two_parts(memory: Memory, index: int) -> None:
    held = memory.hold(Ram(), 0, 10, True)
    with pytest.raises(UsageError):
        held.split(index)
    assert held.pages == 10
