"""Configuration space obeys its masks bit by bit, and BARs are sized as PCI says, whatever is written."""

from __future__ import annotations

from hypothesis import given, strategies as st

from ioas.soft.pci import Bar, Config

BYTE = st.integers(0, 255)


@given(st.lists(st.tuples(BYTE, BYTE, BYTE), min_size=1, max_size=16), st.data())
def test_each_bit_of_a_write_is_decided_by_its_mask(registers: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """A model of one bit at a time: RW takes the new bit, RW1C is cleared by a one, anything else stays."""
    config = Config()
    for offset, (value, writable, clearable) in enumerate(registers, 0x40):
        config.declare(offset, 1, value, writable=writable & ~clearable, clearable=clearable)
    start = data.draw(st.integers(0, len(registers) - 1))
    written = data.draw(st.binary(min_size=1, max_size=len(registers) - start))
    config.write(0x40 + start, written)
    for index, (value, writable, clearable) in enumerate(registers):
        new = written[index - start] if start <= index < start + len(written) else None
        for bit in range(8):
            expected = value >> bit & 1
            if new is not None and writable & ~clearable & 1 << bit:
                expected = new >> bit & 1
            elif new is not None and clearable & new & 1 << bit:
                expected = 0
            assert config.get(0x40 + index, 1) >> bit & 1 == expected


@given(st.integers(4, 62), st.booleans(), st.integers(0, (1 << 64) - 1))
def test_a_bar_holds_multiples_of_its_size_and_shows_its_size(order: int, prefetchable: bool, written: int) -> None:
    bar = Bar(0, 1 << order, "mem64", prefetchable=prefetchable)
    config = Config()
    bar.install(config)
    config.write(0x10, written.to_bytes(8, "little"))
    assert bar.address(config) == written & ~(bar.size - 1)
    assert config.get(0x10, 1) & 0xF == bar.flags
    config.write(0x10, b"\xff" * 8)
    assert (~(config.get(0x10, 8) & ~0xF) & (1 << 64) - 1) + 1 == bar.size
