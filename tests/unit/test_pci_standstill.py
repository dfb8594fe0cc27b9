"""A function that stands still: its timers wait, and go on with what was left of their time."""

from __future__ import annotations

import pytest

from ioas.soft.pci import Function, ManualTimers
from ioas.soft.pci.model_timers import Pace
from tests.support.machine import machine


class Model(Function):
    """It notes when its callbacks run."""

    model = "model"

    def __init__(self) -> None:
        super().__init__()
        self.rung: list[float] = []

    def ring(self) -> None:
        self.rung.append(self.place.timers.now())


@pytest.fixture
def model() -> Model:
    model = Model()
    machine(model)
    return model


def advance(model: Model, seconds: float) -> None:
    timers = model.place.timers
    assert isinstance(timers, ManualTimers)
    timers.advance(seconds)


@pytest.mark.parametrize("pace", ["quiet", "stopped"])
def test_time_stands_while_the_function_does(model: Model, pace: Pace) -> None:
    model.after(10, model.ring)
    advance(model, 4)
    model.standstill.change(pace)
    advance(model, 100)
    assert model.rung == []
    model.standstill.change("running")
    advance(model, 5)
    assert model.rung == []
    advance(model, 1)
    assert model.rung == [110]


def test_a_timer_that_is_set_meanwhile_starts_when_the_function_goes_on(model: Model) -> None:
    model.standstill.change("quiet")
    model.after(10, model.ring)
    advance(model, 50)
    model.standstill.change("running")
    advance(model, 10)
    assert model.rung == [60]


def test_a_timer_can_be_cancelled_while_it_is_held(model: Model) -> None:
    timer = model.after(10, model.ring)
    model.standstill.change("stopped")
    timer.cancel()
    assert not timer.pending
    model.standstill.change("running")
    advance(model, 100)
    assert model.rung == []


def test_going_from_quiet_to_stopped_and_back_takes_no_time(model: Model) -> None:
    timer = model.schedule(10, model.ring, "a test")
    advance(model, 3)
    for pace in ("quiet", "stopped", "quiet"):
        model.standstill.change(pace)
        advance(model, 1)
        assert timer.left == 7
    model.standstill.change("running")
    assert timer.left == 7


def test_who_was_past_cancelling_when_the_timer_was_held_comes_too_late(model: Model) -> None:
    """The timer thread has taken the callback off its list, and waits for the function's lock meanwhile."""
    timer = model.schedule(10, model.ring, "a test")
    too_late = timer._turn
    model.standstill.change("quiet")
    timer._run(too_late)
    assert model.rung == []
    model.standstill.change("running")
    timer._run(too_late)
    assert model.rung == []
    advance(model, 10)
    assert model.rung == [10]


def test_a_reset_lets_the_function_go_on(model: Model) -> None:
    model.standstill.change("stopped")
    model.reinitialise()
    assert model.standstill.pace == "running"
    model.after(1, model.ring)
    advance(model, 1)
    assert len(model.rung) == 1


def test_messages_that_were_taken_over_are_delivered_when_it_answers_again(model: Model) -> None:
    told: list[str] = []
    model.interrupts.deliver = lambda: told.append("delivered")
    for pace, count in (("quiet", 0), ("stopped", 0), ("quiet", 1), ("running", 1), ("stopped", 1), ("running", 2)):
        model.standstill.change(pace)
        assert len(told) == count
