"""DMA through a unit: translated, permitted, or stopped with a record."""

from __future__ import annotations

import pytest

from ioas.errors import UsageError
from ioas.soft.iommu import FaultRecord, Geometry, Prot, Requester, System, mock_unit, vtd_unit
from ioas.soft.iommu.dma import CHUNK
from tests.support.ram import Ram

RW = Prot.READ | Prot.WRITE
BASE = 1 << 30


class Bench:
    """A machine with one device behind VT-d and pages of `ram` mapped from BASE on."""

    def __init__(self, pages: int = 64, prot: int = RW, order: int = 0) -> None:
        self.system = System()
        self.unit = vtd_unit(self.system)
        self.device = Requester(self.system, "0000:01:00.0", self.unit, self.system.add_group())
        self.domain = self.unit.domain()
        self.device.attach(self.domain)
        self.ram = Ram(order=order)
        self.held = self.system.memory.hold(self.ram, 0, pages, True)
        self.domain.map(BASE, self.held.segments, 0, pages << 12, prot)
        self.dma = self.device.dma

    @property
    def fault(self) -> FaultRecord:
        assert len(self.system.faults) == 1
        return self.system.faults.popleft()


@pytest.mark.parametrize("order", [0, 9])
def test_bytes_arrive_across_pages_and_pieces(order: int) -> None:
    bench = Bench(order=order)
    data = bytes(range(256)) * 600  # more than two pieces, and not a whole number of pages
    assert bench.dma.write(BASE + 100, data)
    assert bench.dma.read(BASE + 100, len(data)) == data
    assert bench.dma.read(BASE + 4090, 20) == data[3990:4010]
    assert bytes(bench.ram.page(1)[:4]) == data[3996:4000]
    assert not bench.system.faults


def test_a_transfer_moves_in_pieces() -> None:
    bench = Bench()
    lengths: list[int] = []
    bench.ram.before_write = lambda offset, length: lengths.append(length)
    assert bench.dma.write(BASE, bytes(2 * CHUNK + 1))
    assert lengths == [CHUNK, CHUNK, 1]


def test_any_buffer_can_be_written() -> None:
    bench = Bench()
    assert bench.dma.write(BASE, memoryview(bytearray(b"\1\0\0\0\2\0\0\0")).cast("I"))
    assert bench.dma.read(BASE, 8) == b"\1\0\0\0\2\0\0\0"


def test_no_bytes_need_no_translation() -> None:
    bench = Bench()
    assert bench.dma.read(0, 0) == b""
    assert bench.dma.write((1 << 64) - 1, b"")
    assert not bench.system.faults


def test_unmapped_iova_faults_at_its_first_byte() -> None:
    bench = Bench(pages=2)
    assert bench.dma.read(BASE + 4096, 8192) is None
    fault = bench.fault
    assert fault[:6] == ("0000:01:00.0", BASE + 8192, 8192, False, None, "not mapped")
    assert fault.time > 0
    assert not bench.dma.write(BASE + 8190, b"1234")
    assert bench.fault[:6] == ("0000:01:00.0", BASE + 8192, 4, True, None, "not mapped")
    assert bytes(bench.ram.page(1)[4094:]) == b"12", "the bus carries one page after the other"


@pytest.mark.parametrize("warm", [False, True])
def test_permissions_hold_with_and_without_the_iotlb(warm: bool) -> None:
    bench = Bench(prot=Prot.READ)
    if warm:
        assert bench.dma.read(BASE, 4) is not None
    assert not bench.dma.write(BASE, b"x")
    assert bench.fault.reason == "permission"
    bench = Bench(prot=Prot.WRITE)
    if warm:
        assert bench.dma.write(BASE, b"x")
    assert bench.dma.read(BASE, 1) is None
    assert bench.fault.reason == "permission"


def test_a_blocked_device_reaches_nothing() -> None:
    bench = Bench()
    bench.device.attach(None)
    assert bench.dma.read(BASE, 4) is None
    assert bench.fault.reason == "blocked"
    assert bench.dma.read(BASE, 4, pasid=3) is None
    assert bench.fault[4:6] == (3, "pasid")


@pytest.mark.parametrize(("iova", "length", "at"), [
    (1 << 48, 4, 1 << 48),
    ((1 << 48) - 4, 8, 1 << 48),
    ((1 << 64) - 4, 8, (1 << 64) - 4),
])  # fmt: skip
def test_dma_outside_the_aperture_faults(iova: int, length: int, at: int) -> None:
    bench = Bench()
    assert bench.dma.read(iova, length) is None
    assert bench.fault[1:6] == (at, length, False, None, "aperture")


def test_a_translated_address_where_nothing_answers_is_a_fault() -> None:
    bench = Bench()
    bench.held.release()  # pages that are gone, as when their process died
    assert bench.dma.read(BASE, 4) is None
    assert bench.fault.reason == "bus"
    assert not bench.dma.write(BASE, b"1234")
    assert bench.fault.reason == "bus"


def test_translations_are_remembered_until_flushed() -> None:
    """As in hardware, the IOTLB does not notice when software changes an entry in memory."""
    bench = Bench(pages=2)
    assert bench.dma.write(BASE, b"one")
    leaf = next(words for words in bench.system.memory.tables.values() if words[0] >> 12 == bench.held.pfn(0))
    leaf[0] = leaf[1]
    assert bench.dma.write(BASE, b"two")
    assert bytes(bench.ram.page(0)[:3]) == b"two"
    bench.domain.flush(BASE, BASE + 4095)
    assert bench.dma.write(BASE, b"three")
    assert bytes(bench.ram.page(1)[:5]) == b"three"


def test_a_flush_drops_no_less_than_its_range() -> None:
    bench = Bench(pages=600)
    assert bench.dma.read(BASE, 600 << 12) is not None
    entries = bench.domain.iotlb.entries
    bench.domain.flush(BASE + 4096, BASE + 8192)
    assert sorted(set(range(600)) - {key - (BASE >> 12) for key in entries}) == [1, 2]
    bench.domain.flush(BASE, BASE + (600 << 12) - 1)
    assert not entries


def test_the_iotlb_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ioas.soft.iommu.iotlb.CAPACITY", 8)
    bench = Bench(pages=64)
    assert bench.dma.read(BASE, 64 << 12) is not None
    assert len(bench.domain.iotlb.entries) <= 8


def test_the_mock_translates_in_granules_of_2k() -> None:
    system = System()
    unit = mock_unit(system)
    device = Requester(system, "mock", unit, system.add_group())
    domain = unit.domain()
    device.attach(domain)
    ram = Ram()
    held = system.memory.hold(ram, 0, 2, True)
    domain.map((1 << 24) + 2048, held.segments, 2048, 4096, RW)
    assert device.dma.write((1 << 24) + 2048, b"a" * 4096)
    assert bytes(ram.page(0)) == bytes(2048) + b"a" * 2048
    assert bytes(ram.page(1)) == b"a" * 2048 + bytes(2048)
    assert device.dma.read(1 << 24, 1) is None
    assert device.dma.read((1 << 24) - 1, 1) is None
    assert [fault.reason for fault in system.faults] == ["not mapped", "aperture"]


def test_without_a_unit_addresses_are_physical() -> None:
    system = System()
    device = Requester(system, "0000:01:00.0", None, None)
    ram = Ram()
    held = system.memory.hold(ram, 0, 1, True)
    assert device.dma.write(held.pfn(0) << 12, b"bare")
    assert bytes(ram.page(0)[:4]) == b"bare"
    assert device.dma.read(0, 4) is None
    assert system.faults[0].reason == "no memory"


def test_a_unit_that_lets_dma_pass_translates_the_aperture_only() -> None:
    system = System(isolation="kernel")
    held = system.memory.hold(Ram(), 0, 1, True)
    outside = held.pfn(0) << 12
    unit = vtd_unit(system, geometry=Geometry(0x10000, 0x1FFFF, False))
    device = Requester(system, "0000:01:00.0", unit, None)
    device.attach(unit.domain())
    assert device.dma.write(outside, b"bypass")
    assert device.dma.read(outside, 6) == b"bypass"
    assert device.dma.read(0x10000, 1) is None
    assert device.dma.read(0xFFFF, 2) is None
    assert device.dma.read(0x1FFFF, 2) is None
    assert [fault.reason for fault in system.faults] == ["not mapped"] * 3


def test_faults_are_kept_and_told() -> None:
    bench = Bench(pages=1)
    told: list[FaultRecord] = []
    bench.system.on_fault.append(told.append)
    for index in range(2000):
        bench.dma.read(0x1000 * index, 1)
    assert len(told) == 2000
    assert list(bench.system.faults) == told[-1024:]


@pytest.mark.parametrize(("iova", "length"), [(-1, 4), (0, -1)])
def test_negative_numbers_are_the_models_mistake(iova: int, length: int) -> None:
    with pytest.raises(UsageError):
        Bench().dma.read(iova, length)


@pytest.mark.parametrize("start", [4000, CHUNK - 96])
def test_a_write_across_a_hole_lands_on_both_sides_of_it(start: int) -> None:
    """Each page is written by a request of its own, and a device does not wait for an answer to a write."""
    bench = Bench()
    hole = (start >> 12) + 1 << 12
    bench.domain.unmap(BASE + hole, 4096)
    assert not bench.dma.write(BASE + start, b"\xaa" * 8192)
    assert bench.fault.iova == BASE + hole, "one record for the whole write"
    assert bench.dma.read(BASE + hole - 8, 8) == b"\xaa" * 8
    behind = start + 8192 - hole - 4096
    assert bench.dma.read(BASE + hole + 4096, behind + 1) == b"\xaa" * behind + b"\0"
    assert bytes(bench.ram.page(hole >> 12)[:8]) == bytes(8)
