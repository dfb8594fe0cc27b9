"""Errors that functions report (AER): what their registers show, and whom the host tells (pcie/err.c, 7.3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

import pytest

from ioas.soft.pci import Aer, Bar, Capability, Function, Pcie, header
from ioas.soft.pci.capabilities import aer, pcie
from ioas.uapi import vfio
from tests.support.machine import Machine, machine, set_command
from tests.support.vfio_client import ERR, Client, bound, counter, eventfds


class Reporting(Function):
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0AE5
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(flr=True), Aer())
    window = Bar(0, 0x1000)
    scratch = window.register(0)


class Two(Reporting):
    """Beside another one in its slot."""


class Mute(Function):
    vendor_id: ClassVar[int] = 0x1234


def registers(function: Function) -> tuple[int, int]:
    """Where AER and the PCI Express capability begin."""
    reporting, express = function.find(Aer), function.find(Pcie)
    assert reporting is not None
    assert express is not None
    return reporting[1], express[1]


def told(function: Function) -> list[str]:
    """What a listener hears."""
    heard: list[str] = []
    function.on_error.append(lambda: heard.append(str(function)))
    return heard


@pytest.fixture
def pair() -> tuple[Machine, Reporting, Two]:
    first, second = Reporting(), Two()
    made = machine((first, "0000:01:00.0"), (second, "0000:01:00.1"))
    return made, first, second


def test_messages_of_errors_are_on_from_the_beginning_where_there_is_aer() -> None:
    function = Reporting()
    machine(function)
    reporting, express = registers(function)
    assert function.config.get(express + pcie.DEVICE_CONTROL, 2) & 0xF == 0xF
    assert not function.config.get(reporting + aer.CORRECTABLE_MASK, 4) & 0x2000


def test_an_error_shows_in_the_registers_and_is_cleared_when_all_drivers_of_the_bus_have_heard(
    pair: tuple[Machine, Reporting, Two],
) -> None:
    made, first, second = pair
    heard = told(first), told(second)
    reporting, express = registers(first)
    with first.lock:
        first.report_error("completion timeout")
    assert first.config.get(express + pcie.DEVICE_STATUS, 2) == 0x2
    assert first.config.get(reporting + aer.UNCORRECTABLE_STATUS, 4) == 1 << 14
    assert heard == ([], [])
    made.timers.advance(0)
    assert heard == ([str(first)], [str(second)])
    assert first.config.get(express + pcie.DEVICE_STATUS, 2) == 0
    assert first.config.get(reporting + aer.UNCORRECTABLE_STATUS, 4) == 0


def test_a_fatal_error_resets_the_bus_and_configuration_is_lost(pair: tuple[Machine, Reporting, Two]) -> None:
    made, first, second = pair
    heard = told(second)
    first.scratch = second.scratch = 5
    set_command(second, header.COMMAND_MASTER)
    with first.lock:
        first.report_error("malformed TLP")
    made.timers.advance(0)
    assert len(heard) == 1
    assert (first.scratch, second.scratch) == (0, 0)
    assert second.config.get(header.COMMAND, 2) == 0


def masked(function: Function) -> None:
    function.config.write(registers(function)[0] + aer.UNCORRECTABLE_MASK, (1 << 14).to_bytes(4, "little"))


def turned_off(function: Function) -> None:
    function.config.write(registers(function)[1] + pcie.DEVICE_CONTROL, bytes(2))
    set_command(function, header.COMMAND_SERR, False)


@pytest.mark.parametrize("how", [masked, turned_off])
def test_masked_and_with_messages_off_an_error_shows_and_nobody_hears(how: object) -> None:
    function = Reporting()
    made = machine(function)
    heard = told(function)
    assert callable(how)
    how(function)
    with function.lock:
        function.report_error()
    made.timers.advance(0)
    assert not heard
    assert function.config.get(registers(function)[0] + aer.UNCORRECTABLE_STATUS, 4) == 1 << 14
    assert "not reported" in function.incidents[-1].what


def test_without_aer_an_error_is_an_incident() -> None:
    function = Mute()
    machine(function)
    function.report_error()
    assert "no AER" in function.incidents[-1].what


@pytest.fixture
def client() -> Iterator[Client]:
    with bound(Reporting()) as client:
        yield client


def test_vfio_signals_the_error_interrupt_and_the_device_goes_on(client: Client) -> None:
    (event,) = eventfds(1)
    client.trigger(ERR, event)
    function = client.host.functions["0000:01:00.0"]
    client.set_bar(0, 7)
    with function.lock:
        function.report_error()
    ready = os.eventfd(0)  # behind the error on the same thread
    function.place.timers.after(0, lambda: os.eventfd_write(ready, 1))
    assert os.eventfd_read(ready) == 1
    assert counter(event) == 1
    assert client.bar(0) == 7
    os.close(event)
    os.close(ready)


def test_without_an_eventfd_an_error_is_nobodys(client: Client) -> None:
    function = client.host.functions["0000:01:00.0"]
    function.report_error()
    assert client.irq_info(ERR).count == 1
    assert client.irq_info(ERR).flags == vfio.VFIO_IRQ_INFO_EVENTFD | vfio.VFIO_IRQ_INFO_NORESIZE
