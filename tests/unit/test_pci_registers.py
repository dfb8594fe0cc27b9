"""Registers as typed fields, options with types: what a model declares."""

from __future__ import annotations

import pytest

from ioas.errors import UsageError
from ioas.soft.pci import Bar, Function, Option, Register
from tests.support.machine import machine


class Model(Function):
    model = "model"
    mmio = Bar(0, 4096)
    constant = mmio.register(0x00, "RO", reset=0xC0FFEE)
    scratch = mmio.register(0x04, reset=7)
    status = mmio.register(0x08, "W1C", reset=0xF0)
    command = mmio.register(0x0C, "WO")
    address = mmio.register(0x10, width=8, sizes=(4, 8))
    hooked = mmio.register(0x18)

    size = Option(1 << 20, "bytes of memory", minimum=4096, maximum=1 << 30)
    speed = Option("fast", "how fast", choices=("fast", "slow"))
    quirk = Option(False, "misbehave")
    ratio = Option(0.5, "a part")

    @hooked.on_read
    def _read(self) -> int:
        return self.hooked + 1

    @hooked.on_write
    def _write(self, value: int) -> None:
        self.hooked = ~value


@pytest.fixture
def model() -> Model:
    function = Model()
    machine(function)
    return function


def word(value: int, width: int = 4) -> bytes:
    return value.to_bytes(width, "little")


def test_a_read_only_register_ignores_software_and_obeys_the_device(model: Model) -> None:
    model.bar_write(0, 0, word(1))
    assert model.bar_read(0, 0, 4) == word(0xC0FFEE)
    model.constant = 5
    assert model.bar_read(0, 0, 4) == word(5)


def test_a_written_register_is_the_models_attribute(model: Model) -> None:
    assert model.scratch == 7
    model.bar_write(0, 4, word(0xDEADBEEF))
    assert model.scratch == 0xDEADBEEF


def test_ones_clear_bits_of_a_w1c_register(model: Model) -> None:
    model.bar_write(0, 8, word(0x30))
    assert model.status == 0xC0


def test_a_write_only_register_reads_as_if_nothing_were_there(model: Model) -> None:
    model.bar_write(0, 0xC, word(3))
    assert model.command == 3
    assert model.bar_read(0, 0xC, 4) == b"\xff" * 4


def test_hooks_stand_between_software_and_the_field(model: Model) -> None:
    model.bar_write(0, 0x18, word(0xFFFFFFF0))
    assert model.hooked == 0xF
    assert model.bar_read(0, 0x18, 4) == word(0x10)


def test_a_wide_register_can_be_written_in_halves(model: Model) -> None:
    model.bar_write(0, 0x10, word(0x1111222233334444, 8))
    model.bar_write(0, 0x14, word(0xAAAA5555))
    assert model.address == 0xAAAA555533334444
    assert model.bar_read(0, 0x14, 4) == word(0xAAAA5555)


def test_assigning_more_bits_than_there_are_keeps_the_low_ones(model: Model) -> None:
    model.scratch = -1
    assert model.scratch == 0xFFFFFFFF


@pytest.mark.parametrize(("offset", "length"), [(0, 8), (0, 2), (1, 1), (0x20, 4), (0x12, 4), (0x11, 8)])
def test_an_access_that_no_register_takes_reads_ones_and_is_recorded(model: Model, offset: int, length: int) -> None:
    assert model.bar_read(0, offset, length) == b"\xff" * length
    assert model.incidents[-1].what == f"a read of {length} bytes at {offset:#x} of BAR 0 found nothing that answers"


def test_registers_that_overlap_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(UsageError, match="registers low and high overlap"):

        class Overlapping(Function):
            mmio = Bar(0, 4096)
            low = mmio.register(0, width=8)
            high = mmio.register(4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 2},
        {"offset": 0, "width": 3},
        {"offset": 0, "access": "R"},
        {"offset": 0, "sizes": (8,)},
        {"offset": 0, "sizes": ()},
        {"offset": 0, "reset": 1 << 32},
    ],
)
def test_a_register_that_cannot_be_is_refused_by_offset(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="register 0x"):
        Register(0, **wrong)  # type: ignore[arg-type]


def test_a_register_outside_of_its_bar_is_refused() -> None:
    with pytest.raises(UsageError, match="outside of 0x10 bytes"):
        Bar(0, 16).register(16)


def test_options_have_the_type_of_their_default() -> None:
    model = Model.create({"size": "64M", "speed": "slow", "quirk": "on", "ratio": "2"})
    assert (model.size, model.speed, model.quirk, model.ratio) == (64 << 20, "slow", True, 2.0)
    typed = Model.create({"size": 8192, "quirk": True, "ratio": 1})
    assert (typed.size, typed.quirk, typed.ratio) == (8192, True, 1.0)


def test_without_options_the_defaults_hold() -> None:
    assert (Model().size, Model().speed) == (1 << 20, "fast")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sise": "1"}, r"model has no option 'sise' \(options: size, speed, quirk, ratio\)"),
        ({"size": "big"}, "model: size=big is wrong: expected an integer such as 4096, 0x1000 or 64M, at least 4096"),
        ({"size": "1"}, "model: size=1 is wrong"),
        ({"size": "2G"}, "at most 0x40000000"),
        ({"size": True}, "size=True is wrong"),
        ({"speed": "idle"}, "speed=idle is wrong: expected one of fast, slow"),
        ({"quirk": "maybe"}, "quirk=maybe is wrong: expected on or off"),
        ({"quirk": 1}, "quirk=1 is wrong"),
        ({"self": "1"}, "model has no option 'self'"),
    ],
)
def test_a_wrong_option_is_refused_naming_model_option_and_what_is_allowed(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model.create(given)


def test_a_model_without_options_says_so() -> None:
    class Plain(Function):
        model = "plain"

    with pytest.raises(UsageError, match="plain has no option 'x'"):
        Plain.create({"x": "1"})


def test_a_reset_puts_registers_back_and_cancels_what_is_under_way(model: Model) -> None:
    model.scratch = 99
    ran: list[int] = []
    timer = model.after(1, lambda: ran.append(1))
    model.reinitialise()
    assert (model.scratch, timer.pending, ran) == (7, False, [])


def test_a_name_that_the_protocol_uses_is_refused_when_the_class_is_made() -> None:
    for name in ("config", "reset", "dma", "interrupt", "bars", "lock", "options"):
        with pytest.raises(UsageError, match=f"the name '{name}' belongs to Function"):
            type("Hiding", (Function,), {"mmio": Bar(0, 4096), name: Register(0, 0)})


def test_a_model_can_build_on_another() -> None:
    class Larger(Model):
        extra = Model.mmio.register(0x100)

    function = Larger(size=8192)
    machine(function)
    function.bar_write(0, 0x100, word(5))
    function.bar_write(0, 0x18, word(0))
    assert (function.extra, function.hooked, function.size) == (5, 0xFFFFFFFF, 8192)
