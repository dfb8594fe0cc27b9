"""Time for device models: order, cancelling, fairness, closing in the middle."""

from __future__ import annotations

import threading

import pytest

from ioas.soft.pci import Function, ManualTimers, Timers
from tests.support.machine import machine

PATIENCE = 20.0


@pytest.fixture
def timers() -> Timers:
    made = Timers()
    yield made
    made.close()


def test_callbacks_run_in_order_of_their_moment_each_at_its_own() -> None:
    timers, ran = ManualTimers(), []
    for delay in (3.0, 1.0, 2.0, 1.0):
        timers.after(delay, lambda delay=delay: ran.append((delay, timers.now())))
    timers.advance(2.5)
    assert ran == [(1.0, 1.0), (1.0, 1.0), (2.0, 2.0)]
    timers.advance(0.5)
    assert ran[-1] == (3.0, 3.0)


def test_what_a_callback_starts_runs_within_the_same_advance() -> None:
    timers, ran = ManualTimers(), []
    timers.after(1, lambda: timers.after(1, lambda: ran.append(timers.now())))
    timers.advance(5)
    assert ran == [2.0]


def test_a_cancelled_callback_does_not_run() -> None:
    timers, ran = ManualTimers(), []
    timer = timers.after(1, lambda: ran.append(1))
    assert timer.pending
    timer.cancel()
    timer.cancel()
    timers.advance(2)
    assert (timer.pending, ran) == (False, [])


def test_no_thread_is_started_before_it_is_needed_and_none_is_left_after_close() -> None:
    timers = Timers()
    assert not timers.running
    timers.close()
    timers = Timers()
    done = threading.Event()
    timers.after(0, done.set)
    assert done.wait(PATIENCE)
    assert timers.running
    timers.close()
    timers.close()
    assert not timers.running


def test_closing_drops_what_waits_and_takes_nothing_new() -> None:
    timers, ran = Timers(), []
    timers.after(3600, lambda: ran.append(1))
    timers.close()
    assert not timers.after(0, lambda: ran.append(2)).pending
    assert ran == []


def test_closing_from_a_callback_does_not_wait_for_itself() -> None:
    timers = Timers()
    closed = threading.Event()
    timers.after(0, lambda: (timers.close(), closed.set()))
    assert closed.wait(PATIENCE)


def test_an_earlier_moment_overtakes_one_that_is_waited_for(timers: Timers) -> None:
    done = threading.Event()
    timers.after(3600, lambda: None)
    timers.after(0.001, done.set)
    assert done.wait(PATIENCE)


def test_a_device_that_rearms_itself_without_pause_does_not_starve_the_others(timers: Timers) -> None:
    done = threading.Event()

    def again() -> None:
        timers.after(0, again)

    for _ in range(3):
        again()
    timers.after(0.005, done.set)
    assert done.wait(PATIENCE)


def test_a_busy_device_lets_software_at_its_registers() -> None:
    function = Function()
    timers = Timers()
    bench = machine()
    bench.topology.close()
    function.plug_in(bench.topology.root.functions[0].place._replace(timers=timers))
    rounds: list[None] = []

    def again() -> None:
        rounds.append(None)
        function.after(0, again)

    again()
    try:
        for _ in range(50):
            with function.lock:
                pass
    finally:
        function.cancel_timers()
        timers.close()
    assert rounds


def test_a_failing_callback_is_logged_and_the_others_go_on(timers: Timers, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    timers.after(0, lambda: 1 // 0)
    timers.after(0, done.set)
    assert done.wait(PATIENCE)
    timers.close()
    assert "a timer callback has failed" in caplog.text


def test_a_model_that_cancels_in_its_own_code_is_never_called_after() -> None:
    function = Function()
    bench = machine(function)
    ran: list[int] = []
    timer = function.after(1, lambda: ran.append(1))
    function.after(0.5, timer.cancel)
    bench.timers.advance(2)
    assert (timer.pending, ran) == (False, [])


def test_an_endless_loop_of_no_delay_is_an_error_by_hand() -> None:
    timers = ManualTimers()

    def again() -> None:
        timers.after(0, again)

    again()
    with pytest.raises(RuntimeError, match="without delay"):
        timers.advance(0)


def test_timers_that_are_cancelled_leave_nothing_behind() -> None:
    timers = ManualTimers()
    ran: list[int] = []
    for _ in range(10_000):
        timers.after(3600, lambda: ran.append(1)).cancel()
    waiting = [timers.after(number, lambda: ran.append(2)) for number in range(200)]
    assert len(timers._heap) < 500
    timers.advance(7200)
    assert ran == [2] * 200
    assert not any(timer.pending for timer in waiting)
