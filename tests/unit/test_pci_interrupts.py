"""INTx levels, MSI and MSI-X messages: enabled, masked, held back, delivered."""

from __future__ import annotations

import pytest

from ioas.soft.pci import Bar, Function, InterruptKind, Msi, Msix, header
from tests.support.machine import machine, set_command


class Noisy(Function):
    model = "noisy"
    interrupt_pin = 1
    mmio = Bar(0, 1 << 14)
    capabilities = (Msi(4, masking=True), Msix(8, 0, table=0x1000, pending=0x2000))


@pytest.fixture
def noisy() -> Noisy:
    function = Noisy()
    machine(function)
    set_command(function, header.COMMAND_MASTER)
    return function


def listen(function: Function, kind: InterruptKind, *vectors: int) -> list[int]:
    heard: list[int] = []

    def heard_from(vector: int) -> None:
        function.interrupts.connect(kind, vector, lambda: heard.append(vector))

    for vector in vectors:
        heard_from(vector)
    return heard


def msi_mask(function: Function, bits: int) -> None:
    offset = function.config.find(0x05)
    assert offset is not None
    function.config.write(offset + 0x10, bits.to_bytes(4, "little"))


def test_counts_are_those_of_the_capabilities(noisy: Noisy) -> None:
    assert [noisy.interrupts.count(kind) for kind in ("intx", "msi", "msix")] == [1, 4, 8]

    class Silent(Function):
        pass

    assert [Silent().interrupts.count(kind) for kind in ("intx", "msi", "msix")] == [0, 0, 0]


def test_intx_is_a_level_that_calls_once_and_shows_in_status(noisy: Noisy) -> None:
    noisy.interrupts.enable("intx")
    heard = listen(noisy, "intx", 0)
    noisy.interrupt()
    noisy.interrupt()
    assert heard == [0]
    assert noisy.config.get(header.STATUS, 2) & header.STATUS_INTERRUPT
    noisy.deassert()
    assert not noisy.interrupts.asserted
    noisy.interrupt()
    assert heard == [0, 0]


def test_a_masked_level_is_pending_and_calls_when_unmasked(noisy: Noisy) -> None:
    noisy.interrupts.enable("intx")
    heard = listen(noisy, "intx", 0)
    noisy.interrupts.mask()
    noisy.interrupt()
    assert heard == []
    assert noisy.interrupts.pending("intx", 0)
    assert noisy.interrupts.asserted
    noisy.interrupts.unmask()
    assert heard == [0]
    noisy.interrupts.mask()
    noisy.interrupts.unmask()
    assert heard == [0, 0], "the level is still there"


def test_software_can_mask_intx_by_the_command_register(noisy: Noisy) -> None:
    noisy.interrupts.enable("intx")
    heard = listen(noisy, "intx", 0)
    set_command(noisy, header.COMMAND_INTX_DISABLE)
    noisy.interrupt()
    assert heard == []
    set_command(noisy, header.COMMAND_INTX_DISABLE, False)
    assert heard == [0]


def test_messages_take_the_place_of_intx_while_they_are_on(noisy: Noisy) -> None:
    level = listen(noisy, "intx", 0)
    noisy.interrupts.enable("msi", 4)
    heard = listen(noisy, "msi", 0, 1, 2, 3)
    noisy.interrupt(2)
    assert (noisy.interrupts.enabled, heard, level) == ("msi", [2], [])
    noisy.interrupts.disable("msi")
    assert noisy.interrupts.enabled == "intx"
    noisy.interrupt(2)
    assert (heard, level) == ([2], [0])


def test_enabling_messages_programs_the_capability_as_linux_does(noisy: Noisy) -> None:
    noisy.interrupts.enable("msi", 3)
    offset = noisy.config.find(0x05)
    assert offset is not None
    assert noisy.config.get(offset + 2, 2) & 0x71 == 0x21, "enabled, 4 vectors"
    assert noisy.config.get(header.COMMAND, 2) & header.COMMAND_INTX_DISABLE


def test_msix_is_used_before_msi(noisy: Noisy) -> None:
    noisy.interrupts.enable("msi", 1)
    noisy.interrupts.enable("msix", 8)
    heard = listen(noisy, "msix", 7)
    noisy.interrupt(7)
    assert heard == [7]


def test_a_masked_msi_waits_and_is_delivered_once(noisy: Noisy) -> None:
    noisy.interrupts.enable("msi", 4)
    heard = listen(noisy, "msi", 0, 1)
    msi_mask(noisy, 0b10)
    noisy.interrupt(1)
    noisy.interrupt(1)
    noisy.interrupt(0)
    assert heard == [0]
    assert noisy.interrupts.pending("msi", 1)
    msi_mask(noisy, 0)
    assert heard == [0, 1]
    assert not noisy.interrupts.pending("msi", 1)


def test_a_masked_msix_vector_waits_and_its_pending_bit_can_be_read(noisy: Noisy) -> None:
    noisy.interrupts.enable("msix", 4)
    heard = listen(noisy, "msix", *range(8))
    noisy.bar_write(0, 0x1000 + 3 * 16 + 12, b"\x01\x00\x00\x00")
    noisy.interrupt(3)
    noisy.interrupt(5)
    assert heard == [], "entry 3 was masked, entry 5 was never unmasked"
    assert noisy.bar_read(0, 0x2000, 8) == bytes([0b101000]) + bytes(7)
    noisy.bar_write(0, 0x1000 + 3 * 16 + 12, bytes(4))
    assert heard == [3]
    assert noisy.bar_read(0, 0x2000, 4) == bytes([0b100000, 0, 0, 0])


def test_the_function_mask_holds_all_msix_vectors_back(noisy: Noisy) -> None:
    noisy.interrupts.enable("msix", 8)
    heard = listen(noisy, "msix", 0, 1)
    offset = noisy.config.find(0x11)
    assert offset is not None
    noisy.config.write(offset + 2, b"\x00\xc0")
    noisy.interrupt(0)
    noisy.interrupt(1)
    assert heard == []
    noisy.config.write(offset + 2, b"\x00\x80")
    assert heard == [0, 1]


def test_pending_bits_are_read_only_and_table_accesses_have_4_or_8_bytes(noisy: Noisy) -> None:
    noisy.bar_write(0, 0x2000, b"\xff" * 8)
    assert noisy.bar_read(0, 0x2000, 8) == bytes(8)
    noisy.bar_write(0, 0x1000, b"\x11" * 2)
    assert noisy.bar_read(0, 0x1000, 4) == bytes(4)
    noisy.bar_write(0, 0x1000, b"\x22" * 8)
    assert noisy.bar_read(0, 0x1004, 4) == b"\x22" * 4
    assert noisy.bar_read(0, 0x1002, 2) == b"\xff" * 2


def test_a_message_needs_bus_mastering(noisy: Noisy) -> None:
    noisy.interrupts.enable("msi", 1)
    heard = listen(noisy, "msi", 0)
    set_command(noisy, header.COMMAND_MASTER, False)
    noisy.interrupt(0)
    assert heard == []
    assert noisy.incidents[-1].what == "message 0 was not sent: bus mastering is off"


def test_a_message_beyond_those_enabled_is_not_sent(noisy: Noisy) -> None:
    noisy.interrupts.enable("msi", 1)
    heard = listen(noisy, "msi", 0, 1)
    noisy.interrupt(1)
    assert heard == []
    assert noisy.incidents[-1].what == "message 1 was not sent: 1 vectors are enabled"


@pytest.mark.parametrize(("kind", "vectors"), [("intx", 2), ("msi", 5), ("msi", 0), ("msix", 9)])
def test_more_vectors_than_there_are_cannot_be_enabled(noisy: Noisy, kind: InterruptKind, vectors: int) -> None:
    with pytest.raises(ValueError, match=f"not {vectors}"):
        noisy.interrupts.enable(kind, vectors)


def test_disabling_disconnects(noisy: Noisy) -> None:
    noisy.interrupts.enable("msix", 8)
    heard = listen(noisy, "msix", 0)
    noisy.interrupts.disable("msix")
    noisy.interrupts.enable("msix", 8)
    noisy.interrupt(0)
    assert heard == []


def test_a_reset_lowers_the_level_and_forgets_pending_messages(noisy: Noisy) -> None:
    noisy.interrupt()
    noisy.reinitialise()
    assert not noisy.interrupts.asserted
    set_command(noisy, header.COMMAND_MASTER)
    noisy.interrupts.enable("msix", 1)
    noisy.interrupt(5)
    noisy.reinitialise()
    assert not noisy.interrupts.pending("msix", 5)
