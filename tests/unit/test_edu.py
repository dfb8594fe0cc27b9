"""edu behaves as its published description says (QEMU, docs/specs/edu.rst)."""

from __future__ import annotations

import math

import pytest

from ioas.devices.edu import BUFFER, Edu
from ioas.errors import UsageError
from ioas.soft.pci import header
from tests.support.machine import Machine, machine, map_memory

IOVA = 0x100000


class Bench:
    """An edu in a machine, and a driver's way to its registers."""

    def __init__(self, edu: Edu) -> None:
        self.edu = edu
        self.machine: Machine = machine(edu)
        self.ram = map_memory(self.machine.system, edu, IOVA)

    def read(self, offset: int, width: int = 4) -> int:
        return int.from_bytes(self.edu.bar_read(0, offset, width), "little")

    def write(self, offset: int, value: int, width: int = 4) -> None:
        self.edu.bar_write(0, offset, value.to_bytes(width, "little"))

    def transfer(self, source: int, destination: int, count: int, command: int) -> None:
        self.write(0x80, source, 8)
        self.write(0x88, destination, 8)
        self.write(0x90, count, 8)
        self.write(0x98, command, 8)

    def wait(self, seconds: float = 0.1) -> None:
        self.machine.timers.advance(seconds)


@pytest.fixture
def bench() -> Bench:
    return Bench(Edu())


def test_it_is_identified_as_a_conventional_function_with_msi_and_intx(bench: Bench) -> None:
    config = bench.edu.config
    assert config.read(0, 4) == bytes.fromhex("3412e811")
    assert config.read(8, 4) == bytes.fromhex("1000ff00")
    assert config.get(header.INTERRUPT_PIN, 1) == 1
    assert list(config.capabilities()) == [(0x05, 0x40)]
    assert config.get(0x42, 2) == 0x0080, "one vector, 64-bit address"
    assert config.size == 256
    assert tuple(bench.edu.reset_methods) == ("bus",)


def test_identification_is_major_1_minor_0_and_cannot_be_written(bench: Bench) -> None:
    bench.write(0, 0)
    assert bench.read(0) == 0x010000ED


def test_the_liveness_register_inverts(bench: Bench) -> None:
    bench.write(0x04, 0x12345678)
    assert bench.read(0x04) == 0xEDCBA987


@pytest.mark.parametrize("number", [0, 1, 5, 12, 13, 33, 34, 0xFFFFFFFF])
def test_the_factorial_is_there_once_the_busy_bit_is_clear(bench: Bench, number: int) -> None:
    bench.write(0x08, number)
    assert bench.read(0x20) & 1
    assert bench.read(0x08) == number
    bench.wait(0.001)
    assert not bench.read(0x20) & 1
    assert bench.read(0x08) == math.factorial(min(number, 34)) % (1 << 32)


def test_a_number_written_while_busy_is_ignored(bench: Bench) -> None:
    bench.write(0x08, 4)
    bench.write(0x08, 5)
    bench.wait()
    assert bench.read(0x08) == 24


def test_the_busy_bit_cannot_be_written_and_only_the_interrupt_bit_can(bench: Bench) -> None:
    bench.write(0x20, 0xFFFFFFFF)
    assert bench.read(0x20) == 0x80
    bench.write(0x20, 0)
    assert bench.read(0x20) == 0


def test_a_finished_factorial_interrupts_when_asked(bench: Bench) -> None:
    bench.write(0x20, 0x80)
    bench.write(0x08, 3)
    bench.wait()
    assert bench.read(0x24) == 0x1
    assert bench.edu.interrupts.asserted


def test_raising_collects_and_acknowledging_lowers_the_level(bench: Bench) -> None:
    bench.write(0x60, 0x0F0)
    bench.write(0x60, 0x00F)
    assert bench.read(0x24) == 0x0FF
    bench.write(0x64, 0x0F0)
    assert bench.edu.interrupts.asserted
    bench.write(0x64, 0x00F)
    assert (bench.read(0x24), bench.edu.interrupts.asserted) == (0, False)
    assert bench.read(0x60) == bench.read(0x64) == 0xFFFFFFFF, "write-only"


def test_with_msi_each_raise_is_a_message_and_the_level_stays_low(bench: Bench) -> None:
    heard: list[None] = []
    bench.edu.interrupts.enable("msi")
    bench.edu.interrupts.connect("msi", 0, lambda: heard.append(None))
    bench.write(0x60, 1)
    bench.write(0x60, 2)
    assert (len(heard), bench.read(0x24), bench.edu.interrupts.asserted) == (2, 3, False)


def test_a_transfer_takes_100_ms_there_and_back(bench: Bench) -> None:
    bench.ram.page(0)[:100] = bytes(range(100))
    bench.transfer(IOVA, BUFFER, 100, 1)
    bench.wait(0.0999)
    assert bench.read(0x98) & 1
    assert bytes(bench.edu.buffer[:100]) == bytes(100)
    bench.wait(0.0002)
    assert not bench.read(0x98) & 1
    bench.transfer(BUFFER, IOVA + 100, 100, 3)
    bench.wait()
    assert bytes(bench.ram.page(0)[100:200]) == bytes(range(100))


@pytest.mark.parametrize(("command", "status"), [(0x5, 0x100), (0x1, 0), (0x7, 0x100)])
def test_a_finished_transfer_interrupts_when_asked(bench: Bench, command: int, status: int) -> None:
    source, destination = (BUFFER, IOVA) if command & 2 else (IOVA, BUFFER)
    bench.transfer(source, destination, 4, command)
    bench.wait()
    assert bench.read(0x24) == status
    assert bench.read(0x98) == command & ~1


def test_registers_keep_still_while_a_transfer_is_under_way(bench: Bench) -> None:
    bench.transfer(IOVA, BUFFER, 100, 1)
    bench.transfer(1, 2, 3, 7)
    assert [bench.read(offset, 8) for offset in (0x80, 0x88, 0x90, 0x98)] == [IOVA, BUFFER, 100, 1]


def test_a_command_without_the_start_bit_is_ignored(bench: Bench) -> None:
    bench.write(0x98, 0x6, 8)
    assert bench.read(0x98, 8) == 0


def test_an_address_beyond_28_bits_is_clamped_by_the_mask(bench: Bench) -> None:
    bench.ram.page(0)[:4] = b"here"
    bench.transfer(0x7_0000_0000 | IOVA, BUFFER, 4, 1)
    bench.wait()
    assert bytes(bench.edu.buffer[:4]) == b"here"
    assert "was clamped to 0x100000 by the mask 0xfffffff" in bench.edu.incidents[-1].what


def test_the_mask_is_an_option() -> None:
    bench = Bench(Edu.create({"dma_mask": "0xffffffffff"}))
    far = 0x80_0000_0000
    ram = map_memory(bench.machine.system, bench.edu, far)
    ram.page(0)[:3] = b"far"
    bench.transfer(far, BUFFER, 3, 1)
    bench.wait()
    assert bytes(bench.edu.buffer[:3]) == b"far"
    for wrong in ("-1", "all", str(1 << 64)):
        with pytest.raises(UsageError, match="edu: dma_mask="):
            Edu.create({"dma_mask": wrong})


@pytest.mark.parametrize(
    ("start", "count"),
    [(BUFFER - 1, 4), (BUFFER, 4097), (BUFFER + 4095, 2), (0, 4), ((1 << 64) - 1, 2), (BUFFER, 1 << 63)],
)
def test_a_transfer_that_leaves_the_buffer_is_dropped_and_recorded_but_ends(
    bench: Bench, start: int, count: int
) -> None:
    bench.ram.page(0)[:8] = b"untouched"[:8]
    bench.transfer(start, IOVA, count, 7)
    bench.wait()
    assert bytes(bench.ram.page(0)[:8]) == b"untouche"
    assert "it leaves the device's buffer" in bench.edu.incidents[-1].what
    assert bench.read(0x24) == 0x100
    bench.transfer(IOVA, start, count, 1)
    bench.wait()
    assert bytes(bench.edu.buffer) == bytes(4096)


def test_a_transfer_that_the_iommu_stops_ends_with_its_interrupt_and_a_fault(bench: Bench) -> None:
    bench.edu.buffer[:4] = b"keep"
    bench.transfer(0x40, BUFFER, 4, 5)
    bench.wait()
    assert bytes(bench.edu.buffer[:4]) == b"keep"
    assert bench.read(0x24) == 0x100
    assert bench.machine.system.faults[-1][:6] == ("0000:01:00.0", 0x40, 4, False, None, "not mapped")


@pytest.mark.parametrize(("offset", "width"), [(0x00, 8), (0x84, 4), (0x40, 4), (0x40000, 4)])
def test_an_access_that_is_not_allowed_reads_ones(bench: Bench, offset: int, width: int) -> None:
    assert bench.read(offset, width) == (1 << 8 * width) - 1


@pytest.mark.parametrize(("offset", "width"), [(0x00, 2), (0x04, 2), (0x06, 1), (0x08, 1), (0x40, 2), (0x80, 2)])
def test_an_access_narrower_than_registers_reads_as_zero(bench: Bench, offset: int, width: int) -> None:
    assert bench.read(offset, width) == 0


def test_a_wide_access_below_0x80_changes_nothing(bench: Bench) -> None:
    bench.write(0x04, 0, 8)
    bench.write(0x00, 0, 8)
    assert bench.read(0x04) == 0


def test_from_0x80_on_4_bytes_are_extended_with_zeros(bench: Bench) -> None:
    bench.write(0x80, 0x1111222233334444, 8)
    bench.write(0x80, 0x55556666)
    assert bench.read(0x80, 8) == 0x55556666
    assert bench.read(0x80, 4) == 0x55556666


def test_a_bus_reset_leaves_the_registers_alone_but_lowers_the_level(bench: Bench) -> None:
    bench.write(0x04, 1)
    bench.write(0x60, 2)
    bench.edu.reset_by("bus")
    assert (bench.read(0x04), bench.read(0x24)) == (0xFFFFFFFE, 2)
    assert not bench.edu.interrupts.asserted


def test_a_machine_closed_in_the_middle_of_a_transfer_ends_it(bench: Bench) -> None:
    bench.transfer(IOVA, BUFFER, 4, 5)
    bench.machine.topology.close()
    bench.wait()
    assert not bench.edu.interrupts.asserted
