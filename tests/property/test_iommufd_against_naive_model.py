"""Random sequences of calls give what the naive model gives, devices see what it says, and nothing leaks.

Addresses, lengths and IOVA are multiples of 1 KiB: finer than the mock unit's granule, so misalignment is met too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import errorcode
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from ioas.errors import KernelError
from ioas.host import Capability
from ioas.soft.iommu import Requester
from ioas.soft.iommufd import Device
from tests.property.naive_iommufd import PAGE, READ, TOP, Machine, Pin, Refused, Space
from tests.support.caller import FakeCaller
from tests.support.iommufd import Iommufd, requester
from tests.support.ram import Ram

T = TypeVar("T")

KIB = 1024
LIMIT = 24
WINDOW = 48
"""Pages of the caller's memory that mappings are made of; some are holes, some can only be read."""
BASE = 1 << 24

offsets = st.integers(0, WINDOW * 4 - 1).map(lambda value: value * KIB) | st.integers(0, WINDOW - 1).map(PAGE.__mul__)
lengths = st.integers(1, 24).map(KIB.__mul__) | st.integers(1, 12).map(PAGE.__mul__)
iovas = (
    st.none()
    | offsets.map(BASE.__add__)
    | st.integers(0, 40).map(lambda value: BASE + value * PAGE)
    | st.sampled_from([0, BASE - PAGE, 0xFEE0_0000 - PAGE, 0xFEEF_F000, (1 << 31) - PAGE, (1 << 48) - PAGE])
)
prots = st.sampled_from([3, 3, 3, 1, 2])
seldom = st.integers(0, 7).map(lambda value: value == 7)
FLAGS = {1: 4, 2: 2, 3: 6}
"""From permissions to the flags of IOMMU_IOAS_MAP."""


def _answer(call: Callable[[], T]) -> tuple[T | None, int | None]:
    """The result of a call, or its errno."""
    try:
        return call(), None
    except (KernelError, Refused) as error:
        return None, error.errno


def _name(errno: int | None) -> str:
    return "success" if errno is None else errorcode[errno]


class Comparison(RuleBasedStateMachine):
    """Every rule makes one call on both, and compares what came of it."""

    spaces: Bundle[tuple[int, Space]] = Bundle("spaces")
    accesses: Bundle[tuple[int, Space]] = Bundle("accesses")

    def __init__(self) -> None:
        super().__init__()
        self.caller = FakeCaller([Capability.SYS_ADMIN], memlock=LIMIT * PAGE)
        self.real = Iommufd(caller=self.caller)
        self.model = Machine(LIMIT)
        self.rams: list[Ram] = []
        self.devices: dict[tuple[int, str], Device | int] = {}
        self.requesters: dict[int, Requester] = {}
        self.pins: dict[int, list[tuple[int, Pin]]] = {}
        self.open: dict[int, Space] = {}
        self.live: dict[int, Space] = {}
        self.seen: dict[int, set[int]] = {}
        """By space: where an area has begun or ended."""
        self.window = self.caller.memory.map(WINDOW)
        self.show(0, WINDOW, True)

    def both(self, real: Callable[[], T], model: Callable[[], Any]) -> T | None:
        """Make the call on both; the real result when both succeed with the same."""
        expected, wanted = _answer(model)
        found, errno = _answer(real)
        assert errno == wanted, f"{_name(errno)}, expected {_name(wanted)}"
        if isinstance(expected, int):
            assert found == expected
        return found

    # -- the caller's memory

    def show(self, first: int, count: int, writable: bool) -> None:
        ram = Ram(WINDOW)
        self.rams.append(ram)
        self.caller.memory.map(count, at=self.window + first * PAGE, ram=ram, first=first, write=writable)
        for index in range(first, first + count):
            ram.page(index)[:] = (len(self.rams) << 16 | index).to_bytes(4, "little") * (PAGE // 4)
            self.model.memory[self.window // PAGE + index] = (len(self.rams), index), writable

    @rule(first=st.integers(0, WINDOW - 1), count=st.integers(0, 8), writable=st.sampled_from([True, True, False]))
    def other_memory_is_mapped_there(self, first: int, count: int, writable: bool) -> None:
        """Or none, when `count` is 0."""
        if count:
            self.show(first, min(count, WINDOW - first), writable)
        elif self.model.memory.pop(self.window // PAGE + first, None):
            self.caller.memory.unmap(self.window + first * PAGE, 1)

    # -- address spaces

    @initialize(target=spaces, kinds=st.sampled_from(["", "vtd", "vtd", "mock"]))
    def two_spaces(self, kinds: str) -> Any:
        first, second = self.new_space(), self.new_space()
        if kinds:
            self.attach(first, kinds)
        return multiple(first, second)

    @precondition(lambda self: len(self.live) < 3)
    @rule(target=spaces)
    def alloc(self) -> tuple[int, Space]:
        return self.new_space()

    def new_space(self) -> tuple[int, Space]:
        number, space = self.real.alloc(), Space()
        self.live[number] = space
        self.seen[number] = set()
        return number, space

    @rule(target=spaces, which=consumes(spaces), rarely=seldom)
    def destroy(self, which: tuple[int, Space], rarely: bool) -> Any:
        number, space = which
        if not rarely:
            return which
        busy = space.devices or space.accesses
        try:
            self.real.destroy(number)
        except KernelError:
            assert busy
            return which
        assert not busy
        self.model.unmap(space, 0, TOP, [])
        del self.live[number]
        return multiple()

    # -- mappings

    @rule(which=spaces, offset=offsets, length=lengths, iova=iovas, prot=prots)
    def map(self, which: tuple[int, Space], offset: int, length: int, iova: int | None, prot: int) -> None:
        number, space = which
        address = self.window + offset
        self.both(
            lambda: self.real.map(number, address, length, iova, FLAGS[prot]),
            lambda: self.model.map(space, address, length, iova, prot),
        )

    @rule(which=spaces, first=st.integers(0, WINDOW - 9), count=st.integers(1, 8), place=st.none() | st.integers(0, 99))
    def map_pages(self, which: tuple[int, Space], first: int, count: int, place: int | None) -> None:
        self.map(which, first * PAGE, count * PAGE, None if place is None else BASE + place * PAGE, 3)

    @precondition(lambda self: self.mapped())
    @rule(data=st.data(), goal=spaces, iova=iovas, prot=prots, past=st.sampled_from([0, 0, 0, KIB, 2 * PAGE]))
    def copy(self, data: st.DataObject, goal: tuple[int, Space], iova: int | None, prot: int, past: int) -> None:
        number, space, start, length = self.draw_range(data, past)
        self.both(
            lambda: self.real.copy(number, start, length, goal[0], iova, FLAGS[prot]),
            lambda: self.model.copy(space, start, length, goal[1], iova, prot),
        )

    def mapped(self) -> list[tuple[int, Space]]:
        """The spaces in which anything is mapped."""
        return [(number, space) for number, space in self.live.items() if space.areas]

    def draw_range(self, data: st.DataObject, past: int) -> tuple[int, Space, int, int]:
        """A space, and a range that begins in an area and ends in that or another, or `past` its end."""
        number, space = data.draw(st.sampled_from(self.mapped()), "space")
        areas = space.sorted()
        first = data.draw(st.integers(0, len(areas) - 1), "first")
        last = data.draw(st.sampled_from([first, first, min(first + 1, len(areas) - 1)]), "last")
        unit = data.draw(st.sampled_from([KIB, PAGE, PAGE, 1 << 40]), "unit")
        start = areas[first].start
        start += data.draw(st.integers(0, (areas[first].last - start) // unit), "start") * unit
        end = areas[last].last - data.draw(st.integers(0, max(areas[last].last - start, 0) // unit), "end") * unit
        return number, space, start, max(end - start + 1 + past, KIB)

    @rule(which=spaces, data=st.data(), slack=st.sampled_from([0, 0, 0, KIB, PAGE, -KIB]))
    def unmap(self, which: tuple[int, Space], data: st.DataObject, slack: int) -> None:
        number, space = which
        if not space.areas:
            return
        first = data.draw(st.sampled_from(space.sorted()), "first")
        last = data.draw(st.sampled_from([area for area in space.sorted() if area.start >= first.start]), "last")
        start, length = max(first.start - slack, 0), last.last - first.start + 1 + slack
        if length <= 0:
            return
        held = [pin for items in self.pins.values() for _, pin in items]
        self.both(
            lambda: self.real.unmap(number, start, length),
            lambda: self.model.unmap(space, start, start + length - 1, held),
        )
        self.forget_pins(held)

    @precondition(lambda self: self.mapped())
    @rule(data=st.data())
    def unmap_an_area(self, data: st.DataObject) -> None:
        number, space = data.draw(st.sampled_from(self.mapped()), "space")
        area = data.draw(st.sampled_from(space.sorted()), "area")
        held = [pin for items in self.pins.values() for _, pin in items]
        self.both(
            lambda: self.real.unmap(number, area.start, area.last - area.start + 1),
            lambda: self.model.unmap(space, area.start, area.last, held),
        )
        self.forget_pins(held)

    @precondition(lambda self: self.mapped())
    @rule(data=st.data(), iova=st.none() | st.integers(0, 99), first=st.integers(0, 3), rest=st.integers(0, 3))
    def copy_part_of_an_area(self, data: st.DataObject, iova: int | None, first: int, rest: int) -> None:
        number, space = data.draw(st.sampled_from(self.mapped()), "space")
        area = data.draw(st.sampled_from(space.sorted()), "area")
        goal = data.draw(st.sampled_from(sorted(self.live)), "goal")
        length = area.last + 1 - area.start - (first + rest) * PAGE
        if length <= 0:
            return
        start, place = area.start + first * PAGE, None if iova is None else BASE + iova * PAGE
        self.both(
            lambda: self.real.copy(number, start, length, goal, place, FLAGS[area.prot]),
            lambda: self.model.copy(space, start, length, self.live[goal], place, area.prot),
        )

    @rule(which=spaces, rarely=seldom)
    def unmap_everything(self, which: tuple[int, Space], rarely: bool) -> None:
        if not rarely:
            return
        held = [pin for items in self.pins.values() for _, pin in items]
        self.both(lambda: self.real.unmap(which[0]), lambda: self.model.unmap(which[1], 0, TOP, held))
        self.forget_pins(held)

    def forget_pins(self, held: list[Pin]) -> None:
        for fd, items in self.pins.items():
            self.pins[fd] = [item for item in items if item[1] in held]

    @rule(
        which=spaces,
        ranges=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=3),
        base=st.sampled_from([BASE, BASE, 0]),
    )
    def allow(self, which: tuple[int, Space], ranges: list[tuple[int, int]], base: int) -> None:
        spans = [(base + start * KIB, max(base + (start + size) * KIB - 1, 0)) for start, size in ranges]
        self.both(lambda: self.real.allow(which[0], spans), lambda: self.model.allow(which[1], spans))

    # -- devices

    @rule(which=spaces, kind=st.sampled_from(["vtd", "mock"]))
    def attach(self, which: tuple[int, Space], kind: str) -> None:
        number, space = which
        if kind in space.devices:
            return
        device = self.both(lambda: self.plug(number, kind), lambda: self.model.attach(space, kind))
        if device is not None:
            self.devices[number, kind] = device

    def plug(self, number: int, kind: str) -> Device | int:
        if kind == "mock":
            return self.real.mock(number)[0]
        if number not in self.requesters:
            self.requesters[number] = requester(self.real.system, f"0000:{number:02x}:00.0")
        device = self.real.bind(self.requesters[number])
        try:
            device.attach(number)
        except KernelError:
            device.unbind()
            raise
        return device

    @rule(which=spaces, kind=st.sampled_from(["vtd", "mock"]))
    def detach(self, which: tuple[int, Space], kind: str) -> None:
        number, space = which
        if kind not in space.devices:
            return
        device = self.devices.pop((number, kind))
        if isinstance(device, Device):
            device.detach()
            device.unbind()
        else:
            self.real.destroy(device)
        self.model.detach(space, kind)

    # -- accesses

    @precondition(lambda self: len(self.open) < 3)
    @rule(target=accesses, which=spaces)
    def open_access(self, which: tuple[int, Space]) -> Any:
        fd = self.both(lambda: self.real.access(which[0]), lambda: self.model.open_access(which[1]))
        if fd is None:
            return multiple()
        self.pins[fd] = []
        self.open[fd] = which[1]
        return fd, which[1]

    @precondition(lambda self: any(space.accesses for _, space in self.mapped()))
    @rule(data=st.data(), past=st.sampled_from([0, 0, 0, PAGE]), write=st.booleans())
    def pin(self, data: st.DataObject, past: int, write: bool) -> None:
        _, space, start, length = self.draw_range(data, past)
        length = min(length, 16 << 20)  # the test operation takes no more
        fds = [fd for fd, where in self.open.items() if where is space]
        if not fds:
            return
        fd = data.draw(st.sampled_from(fds), "access")
        pin = None

        def model() -> None:
            nonlocal pin
            pin = self.model.pin(space, start, length, write)

        number = self.both(lambda: self.real.pin(fd, start, length, write=write), model)
        if number is not None and pin is not None:
            self.pins[fd].append((number, pin))

    @rule(access=accesses, data=st.data())
    def unpin(self, access: tuple[int, Space], data: st.DataObject) -> None:
        fd, _ = access
        if self.pins[fd]:
            number, pin = data.draw(st.sampled_from(self.pins[fd]), "pin")
            self.real.unpin(fd, number)
            self.model.unpin(pin)
            self.pins[fd].remove((number, pin))

    @rule(access=consumes(accesses))
    def close_access(self, access: tuple[int, Space]) -> None:
        fd, space = access
        self.caller.files.pop(fd).close()  # type: ignore[union-attr]
        for _, pin in self.pins.pop(fd):
            self.model.unpin(pin)
        self.model.close_access(space)
        del self.open[fd]

    # -- what must hold at all times

    @invariant()
    def as_many_pages_are_pinned_and_charged_as_the_model_says(self) -> None:
        counts = {
            self.real.system.memory.held_frames,
            self.real.system.accounting.locked(self.caller.uid),
            self.caller.memory.pinned_pages,
            sum(sum(ram.pinned.values()) for ram in self.rams),
        }
        if min(counts) != max(counts):  # a pin that was split is given back whole
            assert max(counts) == sum(sum(ram.pinned.values()) for ram in self.rams)
        assert min(counts) == self.model.pinned

    @invariant()
    def devices_see_what_the_model_says(self) -> None:
        for (number, _), device in self.devices.items():
            if isinstance(device, Device):
                for area in self.live[number].areas.values():
                    self.seen[number] |= {area.start, area.last - 3, area.last + 1}
                for iova in self.seen[number]:
                    found = device.requester.dma.read(iova, 4)
                    assert found == self.bytes_at(self.live[number], iova), hex(iova)

    def bytes_at(self, space: Space, iova: int) -> bytes | None:
        """What a device must read there: four bytes that name the page; None where it must not reach."""
        area = next(iter(space.meeting(iova, iova)), None)
        if area is None or not area.prot & READ:
            return None
        ram, index = area.pages.held[area.index(iova)]
        return (ram << 16 | index).to_bytes(4, "little")

    def teardown(self) -> None:
        for device in self.devices.values():
            if isinstance(device, Device):
                device.unbind()
        self.real.close()
        assert not self.real.leaks()
        assert all(ram.idle for ram in self.rams)


Comparison.TestCase.settings = settings(
    max_examples=int(os.environ.get("IOAS_SEQUENCES", "100")),
    stateful_step_count=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestComparison = Comparison.TestCase
