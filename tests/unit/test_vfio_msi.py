"""MSI and MSI-X on eventfds (vfio_pci_intrs.c, 7.3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EBADF, EINVAL, ERANGE

import pytest

from ioas.uapi import vfio
from tests.support.models import Rich
from tests.support.vfio_client import (
    BOOL,
    EVENTFD,
    INTX,
    MSI,
    MSIX,
    NONE,
    TRIGGER,
    Client,
    bound,
    counter,
    eventfds,
    refused,
)


@pytest.fixture
def events() -> Iterator[list[int]]:
    fds = list(eventfds(4))
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.fixture
def rich() -> Rich:
    return Rich()


@pytest.fixture
def client(rich: Rich) -> Iterator[Client]:
    with bound(rich) as client:
        yield client


@pytest.mark.parametrize(("index", "kind"), [(MSI, "msi"), (MSIX, "msix")])
def test_each_vector_signals_its_eventfd(client: Client, rich: Rich, events: list[int], index: int, kind: str) -> None:
    client.trigger(index, *events)
    assert rich.interrupts.enabled == kind
    rich.interrupt(2)
    assert [counter(fd) for fd in events] == [0, 0, 1, 0]
    client.disable(index)
    assert rich.interrupts.enabled == "intx"
    rich.interrupt(2)
    assert [counter(fd) for fd in events] == [0, 0, 0, 0]


def test_messages_need_bus_mastering(client: Client, rich: Rich, events: list[int]) -> None:
    client.trigger(MSI, events[0])
    client.set_config(4, 2, 2)
    rich.interrupt(0)
    assert counter(events[0]) == 0


def test_vectors_can_be_raised_by_hand_where_they_have_an_eventfd(client: Client, events: list[int]) -> None:
    client.trigger(MSIX, events[0], -1, events[2])
    client.set_irqs(NONE | TRIGGER, MSIX, 0, 3)
    client.set_irqs(BOOL | TRIGGER, MSIX, 0, 3, b"\1\1\0")
    assert [counter(fd) for fd in events[:3]] == [2, 0, 1]


def test_a_vector_can_be_replaced_and_unset(client: Client, rich: Rich, events: list[int]) -> None:
    client.trigger(MSIX, events[0], events[1])
    client.trigger(MSIX, events[2], start=1)
    rich.interrupt(1)
    assert (counter(events[1]), counter(events[2])) == (0, 1)
    client.trigger(MSIX, -1, start=1)
    rich.interrupt(1)
    assert counter(events[2]) == 0


def test_msix_grows_while_it_is_enabled_and_msi_does_not(client: Client, rich: Rich, events: list[int]) -> None:
    client.trigger(MSIX, events[0])
    client.trigger(MSIX, events[1], start=7)
    rich.interrupt(7)
    assert counter(events[1]) == 1
    client.disable(MSIX)
    client.trigger(MSI, events[0])
    with refused(EINVAL):
        client.trigger(MSI, events[1], start=1)


def test_one_wrong_descriptor_unsets_the_block(client: Client, rich: Rich, events: list[int]) -> None:
    client.trigger(MSIX, events[0], events[1], events[2])
    with refused(EBADF):
        client.trigger(MSIX, events[3], 99999, events[3])
    for vector in range(3):
        rich.interrupt(vector)
    assert [counter(fd) for fd in events] == [0, 0, 1, 0]
    assert rich.interrupts.enabled == "msix"


def test_a_wrong_descriptor_in_the_first_call_leaves_it_disabled(client: Client, rich: Rich, events: list[int]) -> None:
    with refused(EBADF):
        client.trigger(MSIX, events[0], 99999)
    assert rich.interrupts.enabled == "intx"
    client.trigger(INTX, events[0])


def test_no_vectors_cannot_be_enabled_but_an_enabled_index_takes_none(client: Client, events: list[int]) -> None:
    with refused(ERANGE):
        client.set_irqs(EVENTFD | TRIGGER, MSIX, count=0)
    client.trigger(MSIX, events[0])
    client.set_irqs(EVENTFD | TRIGGER, MSIX, count=0)


def test_a_start_without_count_enables_as_many_vectors(client: Client, rich: Rich) -> None:
    client.set_irqs(EVENTFD | TRIGGER, MSIX, start=3, count=0)
    assert rich.interrupts.enabled == "msix"


def test_messages_cannot_be_enabled_while_the_function_sleeps(client: Client, rich: Rich, events: list[int]) -> None:
    power = rich.config.find(1)
    assert power is not None
    client.set_config(power + 4, 2, 3)
    with refused(EINVAL):
        client.trigger(MSI, events[0])
    client.set_config(power + 4, 2, 0)
    client.trigger(MSI, events[0])


def test_the_program_clears_the_enable_bit_of_msi_once_it_is_enabled(
    client: Client, rich: Rich, events: list[int]
) -> None:
    client.trigger(MSI, *events)
    control = (rich.config.find(5) or 0) + 2
    client.set_config(control, 1, 0x21)
    rich.interrupt(3)
    assert client.config(control, 1) & 0x71 == 0x21
    assert counter(events[3]) == 1
    client.set_config(control, 1, 0)
    assert rich.interrupts.enabled == "intx"
    client.set_config(control, 1, 0x71)
    assert client.config(control, 1) & 0x71 == 0x21
    assert rich.interrupts.enabled == "msi"


@pytest.mark.parametrize("index", [MSI, MSIX])
def test_a_reset_leaves_messages_enabled(client: Client, rich: Rich, events: list[int], index: int) -> None:
    from ioas.uapi import vfio

    client.trigger(index, *events)
    client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)
    rich.interrupt(1)
    assert counter(events[1]) == 1


def test_closing_the_file_disables_messages(client: Client, rich: Rich, events: list[int]) -> None:
    client.trigger(MSIX, *events)
    client.device.close()
    assert rich.interrupts.enabled == "intx"
    rich.interrupt(0)
    assert counter(events[0]) == 0


RAISE = 0x60
MSI_CONTROL = 0x42


@pytest.fixture
def edu() -> Iterator[Client]:
    """An edu, whose one message cannot be masked."""
    with bound() as client:
        yield client


def test_a_message_that_comes_before_the_first_eventfd_is_signalled_once_by_it(edu: Client, events: list[int]) -> None:
    edu.trigger(MSI, -1)
    edu.set_bar(RAISE, 1)
    edu.set_bar(RAISE, 1)
    edu.trigger(MSI, events[0])
    assert counter(events[0]) == 1
    edu.disable(MSI)
    edu.trigger(MSI, events[0])
    assert counter(events[0]) == 0


def test_a_message_that_cannot_be_masked_is_lost_after_its_eventfd_was_taken_away(
    edu: Client, events: list[int]
) -> None:
    edu.trigger(MSI, events[0])
    edu.trigger(MSI, -1)
    edu.set_bar(RAISE, 1)
    edu.trigger(MSI, events[1])
    assert [counter(fd) for fd in events[:2]] == [0, 0]


def test_a_message_that_can_be_masked_waits_for_its_next_eventfd_but_not_through_a_reset(
    client: Client, rich: Rich, events: list[int]
) -> None:
    client.trigger(MSIX, events[0])
    for reset in (False, True):
        client.trigger(MSIX, -1)
        rich.interrupt(0)
        if reset:
            client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)
        client.trigger(MSIX, events[1])
        assert counter(events[1]) == (0 if reset else 1)


@pytest.mark.parametrize("restored_by", ["reset", "hot reset", "low power"])
def test_what_puts_configuration_back_undoes_a_disable_by_hand(
    edu: Client, events: list[int], restored_by: str
) -> None:
    edu.trigger(MSI, events[0])
    edu.set_config(MSI_CONTROL, 1, 0)
    edu.set_bar(RAISE, 1)
    assert counter(events[0]) == 0
    if restored_by == "reset":
        edu.device.ioctl(edu.caller, vfio.VFIO_DEVICE_RESET, 0)
    elif restored_by == "hot reset":
        edu.call(vfio.VFIO_DEVICE_PCI_HOT_RESET, vfio.vfio_pci_hot_reset(argsz=12))
    else:
        entry = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | vfio.VFIO_DEVICE_FEATURE_SET
        edu.call(vfio.VFIO_DEVICE_FEATURE, vfio.vfio_device_feature(argsz=8, flags=entry))
    edu.set_bar(RAISE, 1)
    assert counter(events[0]) == 1
    assert not edu.config(MSI_CONTROL, 2) & 1, "the program still reads what it wrote"


def test_enabling_messages_takes_the_level_of_intx_back(edu: Client, events: list[int]) -> None:
    edu.set_bar(RAISE, 1)
    assert edu.config(6, 2) & 8
    edu.trigger(MSI, events[0])
    assert not edu.config(6, 2) & 8
