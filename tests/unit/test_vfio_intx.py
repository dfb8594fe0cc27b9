"""INTx: a level, masked when it is signalled, unmasked by the program (vfio_pci_intrs.c, 7.3)."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterator
from errno import EBADF, EBUSY, EINVAL

import pytest

from tests.support.vfio_client import (
    BOOL,
    EVENTFD,
    INTX,
    MASK,
    NONE,
    TRIGGER,
    UNMASK,
    Client,
    bound,
    counter,
    eventfds,
    refused,
)

RAISE, ACKNOWLEDGE = 0x60, 0x64
COMMAND = 4


@pytest.fixture
def events() -> Iterator[list[int]]:
    fds = list(eventfds(3))
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.fixture
def client(events: list[int]) -> Iterator[Client]:
    """INTx signals the first eventfd."""
    with bound() as client:
        client.trigger(INTX, events[0])
        yield client


def unmask_by(client: Client, fd: int) -> None:
    client.set_irqs(EVENTFD | UNMASK, INTX, data=struct.pack("i", fd))


def wait(fd: int) -> bool:
    """Whether `fd` becomes readable soon."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(5000))


def test_the_level_signals_once_until_it_is_unmasked(client: Client, events: list[int]) -> None:
    client.set_bar(RAISE, 1)
    assert counter(events[0]) == 1
    client.set_bar(RAISE, 2)
    assert counter(events[0]) == 0


def test_unmasking_while_the_level_is_asserted_signals_again(client: Client, events: list[int]) -> None:
    client.set_bar(RAISE, 1)
    assert counter(events[0]) == 1
    client.set_irqs(NONE | UNMASK, INTX)
    assert counter(events[0]) == 1
    client.set_irqs(BOOL | UNMASK, INTX, data=b"\0")
    assert counter(events[0]) == 0
    client.set_irqs(BOOL | UNMASK, INTX, data=b"\1")
    assert counter(events[0]) == 1


def test_unmasking_after_the_level_has_gone_waits_for_the_next(client: Client, events: list[int]) -> None:
    client.set_bar(RAISE, 1)
    client.set_bar(ACKNOWLEDGE, 1)
    counter(events[0])
    client.set_irqs(NONE | UNMASK, INTX)
    assert counter(events[0]) == 0
    client.set_bar(RAISE, 1)
    assert counter(events[0]) == 1


def test_a_masked_level_waits(client: Client, events: list[int]) -> None:
    client.set_irqs(BOOL | MASK, INTX, data=b"\0")
    client.set_irqs(NONE | MASK, INTX)
    client.set_bar(RAISE, 1)
    assert counter(events[0]) == 0
    client.set_irqs(NONE | UNMASK, INTX)
    assert counter(events[0]) == 1


def test_a_level_asserted_before_intx_is_enabled_signals_at_once(client: Client, events: list[int]) -> None:
    client.disable(INTX)
    client.set_bar(RAISE, 1)
    client.trigger(INTX, events[1])
    assert counter(events[1]) == 1


def test_it_can_be_raised_by_hand(client: Client, events: list[int]) -> None:
    client.set_irqs(NONE | TRIGGER, INTX)
    client.set_irqs(BOOL | TRIGGER, INTX, data=b"\1")
    client.set_irqs(BOOL | TRIGGER, INTX, data=b"\0")
    assert counter(events[0]) == 2


def test_the_virtual_disable_bit_silences_it_until_it_is_cleared(client: Client, events: list[int]) -> None:
    client.set_config(COMMAND, 2, 0x406)
    client.set_bar(RAISE, 1)
    client.set_irqs(NONE | TRIGGER, INTX)
    client.set_irqs(NONE | UNMASK, INTX)
    assert counter(events[0]) == 0
    client.set_config(COMMAND, 2, 0x6)
    assert counter(events[0]) == 1


def test_enabling_under_the_disable_bit_begins_masked(client: Client, events: list[int]) -> None:
    client.disable(INTX)
    client.set_config(COMMAND, 2, 0x406)
    client.set_bar(RAISE, 1)
    client.trigger(INTX, events[0])
    assert counter(events[0]) == 0
    client.set_config(COMMAND, 2, 0x6)
    assert counter(events[0]) == 1


def test_another_eventfd_takes_over_and_minus_1_silences(client: Client, events: list[int]) -> None:
    client.trigger(INTX, events[1])
    client.set_bar(RAISE, 1)
    assert (counter(events[0]), counter(events[1])) == (0, 1)
    client.set_bar(ACKNOWLEDGE, 1)
    client.set_irqs(NONE | UNMASK, INTX)
    client.trigger(INTX, -1)
    client.set_bar(RAISE, 1)
    assert counter(events[1]) == 0


def test_minus_1_enables_without_an_eventfd(client: Client, events: list[int]) -> None:
    client.disable(INTX)
    client.trigger(INTX, -1)
    client.set_irqs(NONE | TRIGGER, INTX)
    client.disable(INTX)


def test_the_host_keeps_the_eventfd_when_the_program_closes_its_own(client: Client, events: list[int]) -> None:
    (fd,) = eventfds(1)
    kept = os.dup(fd)
    client.trigger(INTX, fd)
    os.close(fd)
    client.set_bar(RAISE, 1)
    assert counter(kept) == 1
    os.close(kept)


def test_an_eventfd_unmasks(client: Client, events: list[int]) -> None:
    unmask_by(client, events[1])
    client.set_bar(RAISE, 1)
    assert counter(events[0]) == 1
    os.eventfd_write(events[1], 1)
    assert wait(events[0])
    assert counter(events[1]) == 0
    unmask_by(client, -1)
    os.eventfd_write(events[1], 5)
    assert counter(events[1]) == 5


def test_a_signal_that_was_there_before_unmasks_too(client: Client, events: list[int]) -> None:
    client.set_bar(RAISE, 1)
    counter(events[0])
    os.eventfd_write(events[1], 1)
    unmask_by(client, events[1])
    assert wait(events[0])


def test_one_eventfd_unmasks_at_a_time(client: Client, events: list[int]) -> None:
    unmask_by(client, events[1])
    with refused(EBUSY):
        unmask_by(client, events[2])
    with refused(EBADF):
        unmask_by(client, 99999)
    with refused(EINVAL):
        unmask_by(client, client.iommu_fd)
    unmask_by(client, -1)
    unmask_by(client, events[2])


def test_disabling_drops_the_unmasking_eventfd(client: Client, events: list[int]) -> None:
    unmask_by(client, events[1])
    assert client.host.leaks()["eventfds"] == 2
    client.disable(INTX)
    assert "eventfds" not in client.host.leaks()
