"""Configuration space through VFIO: what is virtual, hidden, or reaches the hardware (vfio_pci_config.c, 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EFAULT

import pytest

from tests.support.models import Rich
from tests.support.vfio_client import CONFIG, Client, bound, refused

BAR0 = 0x10


@pytest.fixture
def rich() -> Rich:
    return Rich()


@pytest.fixture
def client(rich: Rich) -> Iterator[Client]:
    with bound(rich) as client:
        yield client


def capability(client: Client, number: int) -> int:
    """The offset of a capability, as a program finds it."""
    offset = client.config(0x34, 1)
    while offset and client.config(offset, 1) != number:
        offset = client.config(offset + 1, 1)
    return offset


@pytest.mark.parametrize(("offset", "length"), [(4096, 1), (4095, 2), (0, 4097), (1 << 39, 4)])
def test_beyond_the_end_is_efault_without_a_part_of_it_done(client: Client, offset: int, length: int) -> None:
    with refused(EFAULT):
        client.read(CONFIG + offset, length)
    with refused(EFAULT):
        client.write(CONFIG + offset, bytes(length))


def test_any_length_and_alignment_is_read(client: Client) -> None:
    whole = client.read(CONFIG, 4096)
    assert len(whole) == 4096
    for offset, length in ((1, 7), (3, 2), (0x3F, 9), (0xFE, 5)):
        assert client.read(CONFIG + offset, length) == whole[offset : offset + length]


def test_ids_cannot_be_written(client: Client) -> None:
    assert client.write(CONFIG, bytes(4)) == 4
    assert client.config(0, 4) == 0x56781234


def test_bars_are_sized_without_touching_the_real_ones(client: Client, rich: Rich) -> None:
    real = rich.config.read(BAR0, 24)
    client.set_config(BAR0, 4, 0xFFFF_FFFF)
    client.set_config(BAR0 + 4, 4, 0xFFFF_FFFF)
    assert client.config(BAR0, 8) == 0xFFFF_FFFF_FFFF_C000 | 0xC
    client.set_config(BAR0 + 8, 4, 0xFFFF_FFFF)
    assert client.config(BAR0 + 8, 4) == 0xFFFF_FFE1
    client.set_config(BAR0 + 12, 4, 0xFFFF_FFFF)
    assert client.config(BAR0 + 12, 4) == 0
    client.set_config(0x30, 4, 0xFFFF_F800)
    assert client.config(0x30, 4) == 0xFFFF_E000
    assert rich.config.read(BAR0, 24) == real


def test_a_program_may_write_bars_and_sees_what_it_wrote(client: Client) -> None:
    client.set_config(BAR0, 4, 0x8000_0000)
    assert client.config(BAR0, 4) == 0x8000_000C
    client.set_config(BAR0 + 3, 1, 0x12)
    assert client.config(BAR0, 4) == 0x1200_000C


def test_the_enable_bits_of_the_command_register_reach_the_hardware(client: Client, rich: Rich) -> None:
    for value in (0, 7, 2):
        client.set_config(4, 2, value)
        assert rich.config.get(4, 2) & 7 == value


def test_the_intx_disable_bit_is_virtual_and_masks(client: Client, rich: Rich) -> None:
    client.set_config(4, 2, 0x406)
    assert client.config(4, 2) == 0x406
    assert rich.interrupts.masked
    client.set_config(5, 1, 0)
    assert client.config(4, 2) == 6
    assert not rich.interrupts.masked


def test_the_interrupt_line_is_virtual(client: Client, rich: Rich) -> None:
    line = rich.config.get(0x3C, 1)
    client.set_config(0x3C, 1, 0x55)
    assert (client.config(0x3C, 1), rich.config.get(0x3C, 1)) == (0x55, line)


def test_bars_that_a_hidden_reset_lost_come_back_with_the_next_command_write(client: Client, rich: Rich) -> None:
    real = rich.config.read(BAR0, 24)
    rich.config.reset()
    assert rich.config.read(BAR0, 24) != real
    client.set_config(4, 2, 6)
    assert rich.config.read(BAR0, 24) == real


def test_enabling_msi_by_its_register_does_not_enable_it(client: Client, rich: Rich) -> None:
    control = capability(client, 5) + 2
    client.set_config(control, 1, 0x21)
    assert client.config(control, 1) & 0x71 == 0
    assert rich.interrupts.enabled == "intx"


def test_msi_address_and_data_are_virtual(client: Client, rich: Rich) -> None:
    start = capability(client, 5)
    before = rich.config.read(start + 4, 8)
    client.set_config(start + 4, 4, 0xFEE0_1000)
    assert client.config(start + 4, 4) == 0xFEE0_1000
    assert rich.config.read(start + 4, 8) == before


def test_msix_control_cannot_be_written(client: Client, rich: Rich) -> None:
    start = capability(client, 0x11)
    client.set_config(start + 2, 2, 0xFFFF)
    assert client.config(start + 2, 2) == 7
    assert rich.interrupts.enabled == "intx"


def test_power_states_are_carried_out_and_lost_registers_come_back(client: Client, rich: Rich) -> None:
    start = capability(client, 1)
    real = rich.config.read(BAR0, 24)
    client.set_config(start + 4, 2, 3)
    assert client.config(start + 4, 2) & 3 == 3
    client.set_config(start + 4, 2, 0)
    assert client.config(start + 4, 2) & 3 == 0
    assert rich.config.read(BAR0, 24) == real


def test_a_power_state_that_the_function_lacks_is_ignored(client: Client) -> None:
    start = capability(client, 1)
    client.set_config(start + 4, 2, 1)
    assert client.config(start + 4, 2) & 3 == 0


def test_the_flr_bit_resets_the_function_and_reads_as_zero(client: Client, rich: Rich) -> None:
    start = capability(client, 0x10)
    client.set_config(4, 2, 6)
    client.write(0, b"\x11" * 16)
    client.set_config(start + 8, 2, 0x8000)
    assert client.config(start + 8, 2) & 0x8000 == 0
    assert client.read(0, 16) == bytes(16)
    assert client.config(4, 2) == 6


def test_the_payload_size_is_virtual_and_the_read_request_size_goes_through(client: Client, rich: Rich) -> None:
    control = capability(client, 0x10) + 8
    client.set_config(control, 2, 0x5020)
    assert client.config(control, 2) & 0x70E0 == 0x5020
    assert rich.config.get(control, 2) & 0x70E0 == 0x5000


def test_what_a_program_wrote_is_forgotten_with_the_file(client: Client, rich: Rich) -> None:
    client.set_config(BAR0, 4, 0)
    client.set_config(4, 2, 0x403)
    fresh = client.open("/dev/vfio/devices/vfio0")
    client.device.close()
    client.bind(fresh)
    client.device = fresh
    assert client.config(4, 2) & 0x407 == 3
    assert client.config(BAR0, 4) & ~0xF == rich.config.get(BAR0, 4) & ~0xF
