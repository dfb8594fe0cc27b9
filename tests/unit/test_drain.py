"""When UNMAP or detach returns, no DMA to the old pages can land.

Each check is a function that raises AssertionError when something lands too late. It runs on the code as it is, and
again on mutants that lack the drain or the IOTLB flush, on which it must fail: so the checks are known to see what
they are there to see. There is no sleeping: the device model stops inside its transfer at a gate, which opens when
the other side has either returned or come to wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from ioas.soft.iommu import (
    Domain,
    Prot,
    Requester,
    System,
    Unit,
    amd_unit,
    epoch as epoch_module,
    iotlb,
    mock_unit,
    vtd_unit,
)
from ioas.soft.iommu.epoch import Epoch
from ioas.soft.iommu.walker import walk
from tests.support.ram import Ram

RW = Prot.READ | Prot.WRITE
IOVA = 1 << 30
TIMEOUT = 60

UNITS = pytest.mark.parametrize("maker", [vtd_unit, amd_unit, mock_unit])


class World:
    """A device that copies into a page, and a client that owns the page and wants it back."""

    def __init__(self, maker: Callable[[System], Unit] = vtd_unit) -> None:
        self.system = System()
        self.unit = maker(self.system)
        self.device = Requester(self.system, "0000:01:00.0", self.unit, None)
        self.domain: Domain = self.unit.domain()
        self.device.attach(self.domain)
        self.ram = Ram()
        self.held = self.system.memory.hold(self.ram, 0, 16, True)
        self.map()

    def map(self) -> None:
        self.domain.map(IOVA, self.held.segments, 0, 16 << 12, RW)

    def unmap(self) -> None:
        self.domain.unmap(IOVA, 16 << 12)

    def detach(self) -> None:
        self.device.attach(None)

    def replace(self) -> None:
        self.device.attach(self.unit.domain())


TAKE_AWAY = pytest.mark.parametrize("take_away", [World.unmap, World.detach, World.replace])


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released when a drain comes to wait."""
    semaphore = threading.Semaphore(0)

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            semaphore.release()
            return super().wait(TIMEOUT if timeout is None else timeout)

    monkeypatch.setattr(epoch_module, "threading", SimpleNamespace(Event=Event, Lock=threading.Lock))
    return semaphore


def no_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Domain, "drain", lambda self: None)


def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Domain, "flush", lambda self, start, last: None)


def drain_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Epoch, "_wait_for", lambda self, epoch: None)


def check_busy_copy(world: World, take_away: Callable[[World], None], waiting: threading.Semaphore) -> None:
    """A transfer that has been translated, and is about to move its bytes, when its pages are taken away."""
    translated, gate = threading.Event(), threading.Event()
    log: list[str] = []

    def stop_at_the_gate(offset: int, length: int) -> None:
        translated.set()
        assert gate.wait(TIMEOUT)
        log.append("landed")

    def client() -> None:
        take_away(world)
        log.append("returned")
        waiting.release()

    world.ram.before_write = stop_at_the_gate
    model = threading.Thread(target=world.device.dma.write, args=(IOVA + 100, b"late"))
    model.start()
    assert translated.wait(TIMEOUT)
    unmapper = threading.Thread(target=client)
    unmapper.start()
    assert waiting.acquire(timeout=TIMEOUT)  # it has returned, or waits for the transfer
    gate.set()
    model.join(TIMEOUT)
    unmapper.join(TIMEOUT)
    assert log == ["landed", "returned"], "DMA landed after the pages had been given back"


@UNITS
@TAKE_AWAY
def test_a_transfer_under_way_is_waited_for(
    maker: Callable[[System], Unit], take_away: Callable[[World], None], waiting: threading.Semaphore
) -> None:
    check_busy_copy(World(maker), take_away, waiting)


@TAKE_AWAY
@pytest.mark.parametrize("mutate", [no_drain, drain_that_does_not_wait])
def test_without_the_drain_that_check_fails(
    take_away: Callable[[World], None],
    mutate: Callable[[pytest.MonkeyPatch], None],
    waiting: threading.Semaphore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError, match="DMA landed after"):
        check_busy_copy(World(), take_away, waiting)


def check_remembered_translation(world: World, unmap: Callable[[World], None]) -> None:
    """A device that has used a page, so that the IOTLB knows it, uses it again after the unmapping."""
    assert world.device.dma.write(IOVA, b"before")
    unmap(world)
    world.ram.page(0)[:6] = b"client"
    landed = world.device.dma.write(IOVA, b"device")
    assert bytes(world.ram.page(0)[:6]) == b"client", "DMA landed through a stale translation"
    assert not landed
    assert world.system.faults[-1].reason == "not mapped"


def unmap_page(world: World) -> None:
    world.domain.unmap(IOVA, 4096)


@UNITS
@pytest.mark.parametrize("unmap", [World.unmap, unmap_page])
def test_what_was_unmapped_is_not_translated_any_more(
    maker: Callable[[System], Unit], unmap: Callable[[World], None]
) -> None:
    world = World(maker)
    if unmap is unmap_page:
        world.unmap()
        for page in range(16):
            world.domain.map(IOVA + (page << 12), world.held.part(page, 1), 0, 4096, RW)
    check_remembered_translation(world, unmap)


@pytest.mark.parametrize("unmap", [World.unmap, unmap_page])
def test_without_the_flush_that_check_fails(unmap: Callable[[World], None], monkeypatch: pytest.MonkeyPatch) -> None:
    no_flush(monkeypatch)
    with pytest.raises(AssertionError, match="stale translation"):
        check_remembered_translation(World(), unmap)


def check_transfer_during_drain(world: World, waiting: threading.Semaphore) -> None:
    """While an unmapping waits for an old transfer, a new one must not be translated any more: nobody waits for it."""
    assert world.device.dma.write(IOVA, b"before")
    translated, gate = threading.Event(), threading.Event()

    def stop_at_the_gate(offset: int, length: int) -> None:
        translated.set()
        assert gate.wait(TIMEOUT)

    world.ram.before_write = stop_at_the_gate
    old = threading.Thread(target=world.device.dma.write, args=(IOVA + 8192, b"old"))
    old.start()
    assert translated.wait(TIMEOUT)
    world.ram.before_write = lambda offset, length: None
    unmapper = threading.Thread(target=world.unmap)
    unmapper.start()
    assert waiting.acquire(timeout=TIMEOUT)
    try:
        assert not world.device.dma.write(IOVA, b"young"), "DMA was translated while it was being unmapped"
    finally:
        gate.set()
        old.join(TIMEOUT)
        unmapper.join(TIMEOUT)
    assert bytes(world.ram.page(0)[:6]) == b"before"


@UNITS
def test_what_is_being_unmapped_is_not_translated_any_more(
    maker: Callable[[System], Unit], waiting: threading.Semaphore
) -> None:
    check_transfer_during_drain(World(maker), waiting)


def test_with_the_flush_after_the_drain_that_check_fails(
    waiting: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, drain = Domain.flush, Domain.drain
    late: list[tuple[int, int]] = []
    monkeypatch.setattr(Domain, "flush", lambda self, start, last: late.append((start, last)))

    def drain_then_flush(self: Domain) -> None:
        drain(self)
        flush(self, *late.pop())

    monkeypatch.setattr(Domain, "drain", drain_then_flush)
    with pytest.raises(AssertionError, match="translated while it was being unmapped"):
        check_transfer_during_drain(World(), waiting)


class WatchedLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, waiting: threading.Semaphore) -> None:
        self._lock = threading.Lock()
        self._waiting = waiting

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waiting.release()
            assert self._lock.acquire(timeout=TIMEOUT)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def check_miss_during_unmap(world: World, waiting: threading.Semaphore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miss that has read the entry, but not yet remembered it, when the entry is cleared."""
    walked, gate = threading.Event(), threading.Event()
    world.domain.iotlb.lock = WatchedLock(waiting)  # type: ignore[assignment]

    def slow_walk(*arguments: object) -> object:
        found = walk(*arguments)  # type: ignore[arg-type]
        walked.set()
        assert gate.wait(TIMEOUT)
        return found

    monkeypatch.setattr(iotlb, "walk", slow_walk)
    model = threading.Thread(target=world.device.dma.read, args=(IOVA, 4))
    model.start()
    assert walked.wait(TIMEOUT)
    unmapper = threading.Thread(target=world.unmap)
    unmapper.start()
    assert waiting.acquire(timeout=TIMEOUT)  # it waits for the walk, or for the transfer that walks
    gate.set()
    model.join(TIMEOUT)
    unmapper.join(TIMEOUT)
    assert not world.domain.iotlb.entries, "a translation was remembered after its flush"


def test_a_miss_cannot_bring_back_what_is_being_unmapped(
    waiting: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_miss_during_unmap(World(), waiting, monkeypatch)


def test_without_the_flush_a_miss_does_bring_it_back(
    waiting: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_flush(monkeypatch)
    with pytest.raises(AssertionError, match="remembered after its flush"):
        check_miss_during_unmap(World(), waiting, monkeypatch)


@pytest.mark.parametrize("take_away", [World.detach, World.replace])
def test_a_transfer_that_begins_while_detaching_is_stopped(take_away: Callable[[World], None]) -> None:
    """The port has seen the old domain, and enters its epoch only after attach has drained it."""
    world = World()
    epoch = world.domain.epoch

    class LateEpoch(Epoch):
        def enter(self) -> int:
            if world.device.domain is world.domain:
                take_away(world)
            return epoch.enter()

        def leave(self, number: int) -> None:
            epoch.leave(number)

    world.domain.epoch = LateEpoch()
    assert not world.device.dma.write(IOVA, b"late")
    assert bytes(world.ram.page(0)[:4]) == bytes(4)


def test_transfers_that_begin_later_are_not_waited_for(waiting: threading.Semaphore) -> None:
    """A device that never rests cannot hold up an unmap: only older transfers count."""
    epoch = Epoch()
    old = epoch.enter()
    drainer = threading.Thread(target=epoch.drain)
    drainer.start()
    assert waiting.acquire(timeout=TIMEOUT)
    young = epoch.enter()
    epoch.leave(old)
    drainer.join(TIMEOUT)
    assert not drainer.is_alive()
    epoch.leave(young)


def test_drains_at_the_same_time_all_wait(waiting: threading.Semaphore) -> None:
    epoch = Epoch()
    log: list[str] = []
    first = epoch.enter()

    def drain() -> None:
        epoch.drain()
        log.append("drained")

    drainers = [threading.Thread(target=drain) for _ in range(4)]
    for drainer in drainers:
        drainer.start()
    assert waiting.acquire(timeout=TIMEOUT)
    second = epoch.enter()
    log.append("leaving")
    epoch.leave(first)
    epoch.leave(second)
    for drainer in drainers:
        drainer.join(TIMEOUT)
    assert log == ["leaving"] + ["drained"] * 4


def test_an_interrupted_drain_leaves_nothing_out(waiting: threading.Semaphore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C during a drain: the next one must still wait for what the first was waiting for."""
    epoch = Epoch()
    old = epoch.enter()

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(epoch_module, "threading", SimpleNamespace(Event=Interrupted, Lock=threading.Lock))
        with pytest.raises(KeyboardInterrupt):
            epoch.drain()
    log: list[str] = []

    def drain() -> None:
        epoch.drain()
        log.append("drained")

    drainer = threading.Thread(target=drain)
    drainer.start()
    assert waiting.acquire(timeout=TIMEOUT)
    log.append("leaving")
    epoch.leave(old)
    drainer.join(TIMEOUT)
    assert log == ["leaving", "drained"]


def test_nothing_under_way_is_nothing_to_wait_for() -> None:
    world = World()
    world.unmap()
    world.map()
    world.detach()
    world.replace()


def test_a_busy_device_never_hits_a_page_that_was_given_back() -> None:
    """Real concurrency: several engines write without pause while the client takes its pages back, over and over."""
    world = World()
    stop = threading.Event()
    attempts = threading.Semaphore(0)

    def engine() -> None:
        data = b"D" * (16 << 12)
        while not stop.is_set():
            world.device.dma.write(IOVA, data)
            attempts.release()

    engines = [threading.Thread(target=engine) for _ in range(3)]
    for thread in engines:
        thread.start()
    try:
        for round_ in range(60):
            (World.unmap if round_ % 2 else unmap_pages)(world)
            for page in range(16):
                world.ram.page(page)[:] = b"C" * 4096
            for _ in range(6):
                assert attempts.acquire(timeout=TIMEOUT)
            assert all(world.ram.page(page) == b"C" * 4096 for page in range(16))
            world.map()
            for _ in range(3):
                assert attempts.acquire(timeout=TIMEOUT)
    finally:
        stop.set()
        for thread in engines:
            thread.join(TIMEOUT)


def unmap_pages(world: World) -> None:
    for page in range(16):
        world.domain.unmap(IOVA + (page << 12), 4096)
