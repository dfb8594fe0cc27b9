"""Base address registers: sizes, kinds, sizing by software, decoding."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ioas.errors import UsageError
from ioas.soft.pci import Bar, Function, Rom, header
from tests.support.machine import machine, set_command


class Windows(Function):
    """One BAR of each kind, and a ROM."""

    model = "windows"
    vendor_id = 0x1234
    device_id = 1
    registers = Bar(0, 1 << 14)
    ports = Bar(1, 32, "io")
    memory = Bar(2, 1 << 33, "mem64", prefetchable=True)
    wide = Bar(4, 1 << 12, "mem64")
    rom = Rom(b"\x55\xaa" + bytes(3000))
    port = ports.register(4, width=1)
    value = registers.register(0)


@pytest.mark.parametrize("size", [0, 3, 8, 24, 0x1001, 1 << 32])
def test_a_size_that_is_no_power_of_two_in_range_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"size {size:#x} is not a power of two"):
        Bar(0, size)


@pytest.mark.parametrize(("index", "kind"), [(-1, "mem32"), (6, "mem32"), (5, "mem64")])
def test_an_index_where_no_bar_can_stand_is_refused(index: int, kind: str) -> None:
    with pytest.raises(UsageError, match="cannot stand there"):
        Bar(index, 4096, kind)  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(UsageError, match="mem32, mem64, io"):
        Bar(0, 4096, "memory")  # type: ignore[arg-type]


def test_two_bars_in_one_place_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(UsageError, match="BAR 3 stands where another one does"):

        class Overlapping(Function):
            low = Bar(2, 4096, "mem64")
            high = Bar(3, 4096)


def test_the_upper_half_of_a_64_bit_bar_is_no_bar() -> None:
    assert [bar.index if bar else None for bar in Windows().bars] == [0, 1, 2, None, 4, None]


@pytest.mark.parametrize(
    ("offset", "width", "answer"),
    [
        (0x10, 4, 0xFFFFC000),
        (0x14, 4, 0xFFFFFFE1),
        (0x18, 8, 0xFFFFFFFE_0000000C),
        (0x20, 8, 0xFFFFFFFF_FFFFF004),
        (0x30, 4, 0xFFFFF001),
    ],
)
def test_software_finds_the_size_by_writing_ones(offset: int, width: int, answer: int) -> None:
    config = Windows().config
    config.write(offset, b"\xff" * width)
    assert config.get(offset, width) == answer


def test_an_absent_bar_stays_zero() -> None:
    class Bare(Function):
        pass

    config = Bare().config
    config.write(0x10, b"\xff" * 24)
    assert config.read(0x10, 24) == bytes(24)


def test_addresses_are_multiples_of_sizes_inside_of_the_ports_windows_and_do_not_overlap() -> None:
    topology = machine(Windows(), Windows(), Windows()).topology
    taken: list[tuple[int, int]] = []
    for function in topology.functions.values():
        for bar in [*function.bars, function.rom]:
            if bar is None or bar.is_io:
                continue
            start = function.bar_address(bar.index)
            assert start
            assert start % bar.size == 0
            taken.append((start, start + bar.size))
    taken.sort()
    assert all(one[1] <= other[0] for one, other in pairwise(taken))


def test_a_bar_lies_in_the_window_of_its_port() -> None:
    from ioas.soft.pci.windows import space_of, windows_of

    topology = machine(Windows(), Windows()).topology
    for function in topology.functions.values():
        port = function.place.bus.port
        assert port is not None
        for bar in [*function.bars, function.rom]:
            if bar is not None:
                window = windows_of(port)[space_of(bar)]
                start = function.bar_address(bar.index)
                assert window is not None
                assert window.start <= start
                assert start + bar.size - 1 <= window.last


def test_bars_that_do_not_fit_are_refused() -> None:
    class Huge(Function):
        window = Bar(0, 1 << 30)

    with pytest.raises(UsageError, match="do not fit"):
        machine(Huge(), Huge())


def test_without_memory_enable_reads_are_ones_and_writes_go_nowhere() -> None:
    function = Windows()
    machine(function)
    function.bar_write(0, 0, b"\x01\x02\x03\x04")
    set_command(function, header.COMMAND_MEMORY, False)
    assert function.bar_read(0, 0, 4) == b"\xff" * 4
    function.bar_write(0, 0, b"\x00\x00\x00\x00")
    assert function.incidents[-1].what == "an access at 0x0 of BAR 0 went nowhere: decoding is off"
    set_command(function, header.COMMAND_MEMORY)
    assert function.bar_read(0, 0, 4) == b"\x01\x02\x03\x04"


def test_io_ports_answer_to_io_enable_alone() -> None:
    function = Windows()
    machine(function)
    set_command(function, header.COMMAND_MEMORY, False)
    function.bar_write(1, 4, b"\x5a")
    assert function.bar_read(1, 4, 1) == b"\x5a"
    set_command(function, header.COMMAND_IO, False)
    assert function.bar_read(1, 4, 1) == b"\xff"


def test_the_rom_answers_only_while_its_enable_bit_is_set() -> None:
    function = Windows()
    machine(function)
    assert function.bar_read(6, 0, 2) == b"\xff\xff"
    function.config.write(header.ROM_ADDRESS, bytes([function.config.get(header.ROM_ADDRESS, 1) | 1]))
    assert function.bar_read(6, 0, 2) == b"\x55\xaa"
    function.bar_write(6, 0, b"\x00\x00")
    assert function.bar_read(6, 0, 2) == b"\x55\xaa"


def test_an_access_beyond_the_window_finds_nothing() -> None:
    function = Windows()
    machine(function)
    assert function.bar_read(0, (1 << 14) - 2, 4) == b"\xff" * 4


def test_a_bar_that_does_not_exist_is_an_error_of_the_caller() -> None:
    function = Windows()
    machine(function)
    with pytest.raises(ValueError, match="has no BAR 3"):
        function.bar_read(3, 0, 4)
