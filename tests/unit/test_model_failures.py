"""A model that raises in its own code: it is named with the access, and the program sees a dead device."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from typing import ClassVar

import pytest

import ioas
from ioas.errors import UsageError
from ioas.soft.pci import Bar, Capability, Failure, Function, Msi, Pcie, header
from ioas.uapi import vfio as uapi
from tests.support.machine import machine, map_memory, set_command
from tests.support.vfio_client import ERR, INTX, Client, bound, counter, eventfds, refused

ONES = b"\xff" * 4
DELAY = 0.5


class Fragile(Function):
    """It fails wherever it is asked to."""

    model: ClassVar[str] = "fragile"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0042
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (Msi(1), Pcie(flr=True))
    store = Bar(2, 4096)
    memory = store.memory()
    window = Bar(0, 4096)
    gauge = window.register(0x00)
    order = window.register(0x04)
    later = window.register(0x08)
    level = window.register(0x0C)
    raw = 0x800

    def __init__(self) -> None:
        self.resets_fail = False
        self.error: BaseException = ValueError("out of order")
        super().__init__()
        self.config.watch(0x42, 2, self._fail_if_enabled)

    def _fail_if_enabled(self) -> None:
        if self.config.get(0x42, 2) & 1:
            self.fail()

    def fail(self) -> int:
        raise self.error

    @gauge.on_read
    def _gauge_read(self) -> int:
        return self.fail()

    @order.on_write
    def _order_written(self, value: int) -> None:
        self.fail()

    @later.on_write
    def _later_written(self, value: int) -> None:
        self.after(DELAY, self.fail)

    @level.on_write
    def _level_written(self, value: int) -> None:
        self.interrupt(0)

    def read_window(self, bar: int, offset: int, length: int) -> bytes | None:
        return b"too long" if offset == self.raw else super().read_window(bar, offset, length)

    def reset(self) -> None:
        super().reset()
        if self.resets_fail:
            self.fail()


def read(model: Fragile) -> None:
    model.bar_read(0, 0x00, 4)


def write(model: Fragile) -> None:
    model.bar_write(0, 0x04, b"\x05\0\0\0")


def answer_wrongly(model: Fragile) -> None:
    model.bar_read(0, model.raw, 4)


def configure(model: Fragile) -> None:
    model.config.write(0x42, b"\x01\0")


def reset(model: Fragile) -> None:
    model.resets_fail = True
    model.reset_by("flr")


ACCESSES: list[tuple[Callable[[Fragile], None], str]] = [
    (read, "a read of 4 bytes of gauge (BAR 0, offset 0x0): ValueError: out of order"),
    (write, "a write of 4 bytes (0x5) to order (BAR 0, offset 0x4): ValueError: out of order"),
    (answer_wrongly, "a read of 4 bytes of BAR 0, offset 0x800: ModelError: it answered with 8 bytes"),
    (configure, "a write to 0x42 of configuration space: ValueError: out of order"),
    (reset, "a reset: ValueError: out of order"),
]


@pytest.mark.parametrize(("access", "said"), ACCESSES)
def test_a_failure_names_the_model_and_what_reached_it(access: Callable[[Fragile], None], said: str) -> None:
    model = Fragile()
    machine(model)
    access(model)
    assert str(model.failure).startswith(f"the model of fragile 0000:01:00.0 failed in {said}")


def test_the_line_of_the_model_that_raised_is_named() -> None:
    model = Fragile()
    machine(model)
    write(model)
    line = Fragile.fail.__code__.co_firstlineno + 1
    assert str(model.failure).endswith(f"(test_model_failures.py:{line})")


def test_a_timer_that_fails_is_named_by_its_callback() -> None:
    model = Fragile()
    bench = machine(model)
    model.bar_write(0, 0x08, bytes(4))
    bench.timers.advance(DELAY)
    assert "failed in a timer callback (fail): ValueError" in str(model.failure)


def test_a_failure_is_logged_where_nobody_else_listens(caplog: pytest.LogCaptureFixture) -> None:
    model = Fragile()
    machine(model)
    with caplog.at_level(logging.ERROR):
        write(model)
    assert "the model of fragile 0000:01:00.0 failed in a write" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), RecursionError(), MemoryError(), OSError(errno.EINVAL, "no")])
def test_whatever_a_model_raises_ends_at_the_device(error: BaseException) -> None:
    model = Fragile()
    machine(model)
    model.error = error
    write(model)
    assert model.failure
    assert model.failure.error is error


def test_ctrl_c_is_the_users_and_passes() -> None:
    model = Fragile()
    machine(model)
    model.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        write(model)
    assert model.failure is None


def dead() -> Fragile:
    model = Fragile()
    bench = machine(model)
    map_memory(bench.system, model, 0x1000)
    model.bar_write(0, 0x08, bytes(4))
    write(model)
    bench.timers.advance(2 * DELAY)
    return model


def test_a_dead_device_reads_as_ones_and_ignores_writes() -> None:
    model = dead()
    before = model.config.snapshot()
    model.bar_write(0, 0x0C, bytes(4))
    model.config.write(header.COMMAND, bytes(2))
    assert model.bar_read(0, 0x0C, 4) == model.config.read(header.VENDOR_ID, 4) == ONES
    assert model.config.snapshot() == before


def test_memory_of_a_dead_device_that_is_mapped_reads_as_ones_too() -> None:
    model = Fragile()
    machine(model)
    model.memory[:4] = b"lost"
    write(model)
    assert bytes(model.memory[:4]) == ONES
    assert model.bar_read(2, 0, 4) == ONES


def test_a_dead_device_does_no_dma_and_its_timers_are_gone() -> None:
    model = dead()
    assert model.dma.read(0x1000, 4) is None
    assert not model.dma.write(0x1000, b"data")
    assert not model.running_timers


def test_the_first_failure_is_told_and_no_other() -> None:
    model = Fragile()
    machine(model)
    told: list[Failure] = []
    model.guard.listeners.append(told.append)
    write(model)
    read(model)
    assert len(told) == 1


def test_the_interrupt_line_of_a_dead_device_drops() -> None:
    model = Fragile()
    machine(model)
    model.bar_write(0, 0x0C, bytes(4))
    assert model.interrupts.asserted
    write(model)
    assert not model.interrupts.asserted


def test_a_reset_of_the_function_does_not_reach_a_dead_device_and_that_of_its_bus_does() -> None:
    model = dead()
    with pytest.raises(ValueError, match="no reset method flr"):
        model.reset_by("flr")
    model.reset_by()
    assert model.failure is None
    assert model.bar_read(0, 0x0C, 4) == bytes(4)


def test_a_model_that_fails_in_the_reset_too_stays_dead() -> None:
    model = dead()
    model.resets_fail = True
    model.reset_by()
    assert model.failure
    assert model.failure.access == "a reset"


def test_a_dead_device_keeps_what_a_kernel_has_configured_through_the_reset() -> None:
    model = Fragile()
    machine(model)
    set_command(model, header.COMMAND_MASTER)
    address = model.bar_address(0)
    write(model)
    model.reset_by()
    assert model.bar_address(0) == address
    assert model.master_enabled


def broken(client: Client) -> None:
    client.set_bar(0x04, 5)


def test_the_program_sees_a_dead_device_and_goes_on() -> None:
    with bound(Fragile()) as client:
        broken(client)
        assert client.read(0x00, 4) == ONES
        client.set_bar(0x0C, 1)
        assert client.config(header.STATUS, 2) == 0xFFFF


def test_the_error_interrupt_is_signalled_once() -> None:
    event, intx = eventfds(2)
    with bound(Fragile()) as client:
        client.trigger(ERR, event)
        client.trigger(INTX, intx)
        broken(client)
        broken(client)
        assert (counter(event), counter(intx)) == (1, 0)
    os.close(event)
    os.close(intx)


def test_an_ioeventfd_may_be_what_the_model_dies_of() -> None:
    event, error = eventfds(2)
    told = threading.Event()
    model = Fragile()
    with bound(model) as client:
        client.trigger(ERR, error)
        model.guard.listeners.append(lambda failure: told.set())
        request = uapi.vfio_device_ioeventfd(argsz=32, flags=4, offset=0x04, data=7, fd=event)
        client.call(uapi.VFIO_DEVICE_IOEVENTFD, request)
        os.eventfd_write(event, 1)
        assert told.wait(10)
        assert counter(error) == 1
    assert "a write of 4 bytes (0x7) to order" in str(client.host.failures[0])


def test_the_device_lives_again_after_vfio_device_reset() -> None:
    model = Fragile()
    with bound(model) as client:
        broken(client)
        client.device.ioctl(client.caller, uapi.VFIO_DEVICE_RESET, 0)
        assert model.failure is None
        assert client.read(0x0C, 4) == bytes(4)


def test_a_reset_that_the_model_does_not_survive_is_refused_as_for_a_device_that_does_not_come_back() -> None:
    model = Fragile()
    with bound(model) as client:
        broken(client)
        model.resets_fail = True
        with refused(errno.ENOTTY) as info:
            client.device.ioctl(client.caller, uapi.VFIO_DEVICE_RESET, 0)
        assert "model has failed" in info.value.refusal.reason


def test_another_device_of_the_machine_goes_on() -> None:
    with ioas.SoftHost(devices=[Fragile(), "edu"]) as host, host.iommufd() as iommufd:
        with host.device("0000:01:00.0") as fragile, host.device("0000:02:00.0") as edu:
            fragile.bind(iommufd)
            edu.bind(iommufd)
            fragile.bar(0).write32(0x04, 1)
            assert fragile.bar(0).read32(0x0C) == 0xFFFFFFFF
            assert edu.bar(0).read32(0) == 0x010000ED
        assert [failure.function for failure in host.failures()] == ["fragile 0000:01:00.0"]


class Stillborn(Function):
    """It cannot be made."""

    model: ClassVar[str] = "stillborn"
    window = Bar(0, 4096)

    def __init__(self) -> None:
        super().__init__()
        raise ZeroDivisionError("no size")


def test_a_model_that_fails_while_it_is_made_is_a_wrong_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ioas.soft.host.assembly.load_model", lambda name: Stillborn)
    with pytest.raises(UsageError, match="stillborn: the model failed while it was made: ZeroDivisionError: no size"):
        ioas.SoftHost(devices=["stillborn"])
