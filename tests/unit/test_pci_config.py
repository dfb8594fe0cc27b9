"""Configuration space: masks decide what a write changes."""

from __future__ import annotations

import pytest

from ioas.errors import UsageError
from ioas.soft.pci import Config


def test_a_read_only_register_keeps_its_value() -> None:
    config = Config()
    config.declare(0x40, 2, 0x1234)
    config.write(0x40, b"\xff\xff")
    assert config.read(0x40, 2) == b"\x34\x12"


def test_a_write_changes_writable_bits_and_no_others() -> None:
    config = Config()
    config.declare(0x40, 4, 0xA5A5A5A5, writable=0x0000FF0F)
    config.write(0x40, b"\x00\x00\x00\x00")
    assert config.get(0x40, 4) == 0xA5A500A0


def test_writing_ones_clears_clearable_bits_and_writing_zeros_leaves_them() -> None:
    config = Config()
    config.declare(0x06, 2, 0, clearable=0xF900)
    config.set(0x06, 2, 0xF910)
    config.write(0x06, (0x8010).to_bytes(2, "little"))
    assert config.get(0x06, 2) == 0x7910


def test_a_bit_cannot_be_both_writable_and_cleared_by_ones() -> None:
    with pytest.raises(UsageError, match="both RW and RW1C"):
        Config().declare(0x40, 2, 0, writable=0x3, clearable=0x2)


def test_a_value_that_does_not_fit_is_refused_by_its_register() -> None:
    with pytest.raises(UsageError, match=r"0x40: 0x10000 does not fit into 2 bytes"):
        Config().declare(0x40, 2, 0x10000)


def test_a_byte_write_into_a_wide_register_changes_that_byte() -> None:
    config = Config()
    config.declare(0x10, 4, 0, writable=0xFFFFFFFF)
    config.write(0x12, b"\xab")
    assert config.get(0x10, 4) == 0x00AB0000


def test_bytes_that_are_not_decoded_read_as_ones_and_take_no_writes() -> None:
    config = Config(256)
    config.write(0xFE, b"\x00\x00\x00\x00")
    assert config.read(0xFE, 4) == b"\x00\x00\xff\xff"
    assert config.read(0x100, 4) == b"\xff\xff\xff\xff"
    assert config.read(5000, 4) == b"\xff\xff\xff\xff"


def test_watchers_learn_of_writes_that_touch_their_bytes_and_of_no_others() -> None:
    config, told = Config(), []
    config.declare(0x40, 4, 0, writable=0xFFFFFFFF)
    config.watch(0x42, 2, lambda: told.append(config.get(0x40, 4)))
    config.write(0x40, b"\x01\x02")
    assert told == []
    config.write(0x40, b"\x01\x02\x03")
    config.set(0x40, 4, 0)
    assert told == [0x030201]


def test_a_snapshot_brings_writable_bits_back_after_a_reset() -> None:
    config = Config()
    config.declare(0x04, 2, 0, writable=0x0407)
    config.declare(0x06, 2, 0x10, clearable=0xF900)
    config.write(0x04, b"\x06\x04")
    config.set(0x06, 2, 0x8010)
    snapshot = config.snapshot()
    config.reset()
    assert config.get(0x04, 2) == 0
    config.restore(snapshot)
    assert config.get(0x04, 2) == 0x0406
    assert config.get(0x06, 2) == 0x10, "what the device reports is not restored"


def test_a_loop_in_the_capability_list_ends_the_walk() -> None:
    config = Config()
    config.declare(0x06, 2, 0x10)
    config.declare(0x34, 1, 0x40)
    config.declare(0x40, 2, 0x4005)
    assert config.find(0x11) is None
    assert config.find(0x05) == 0x40
