"""The checks of VFIO_DEVICE_SET_IRQS (vfio_set_irqs_validate_and_prepare, vfio_pci_set_irqs_ioctl, 7.3)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from errno import EBADF, EINVAL, ENOTTY

import pytest

from tests.support.vfio_client import (
    BOOL,
    ERR,
    EVENTFD,
    INTX,
    MASK,
    MSI,
    MSIX,
    NONE,
    REQ,
    TRIGGER,
    UNMASK,
    Client,
    bound,
    counter,
    eventfds,
    refused,
)


@pytest.fixture
def client() -> Iterator[Client]:
    with bound() as client:
        yield client


@pytest.fixture
def event() -> Iterator[int]:
    (fd,) = eventfds(1)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "fields",
    [
        {"argsz": 19},
        {"index": 5},
        {"flags": TRIGGER | NONE | 64},
        {"flags": TRIGGER | NONE | BOOL},
        {"flags": TRIGGER},
        {"count": 2},
        {"start": 1},
        {"start": 0xFFFF_FFFF},
        {"count": 0xFFFF_FFFF},
        {"flags": TRIGGER | EVENTFD, "data": b"ab"},
        {"flags": TRIGGER | BOOL},
        {"index": MSIX},
    ],
)
def test_what_does_not_fit_together_is_einval(client: Client, fields: dict[str, int]) -> None:
    with refused(EINVAL):
        client.set_irqs(**({"flags": TRIGGER | NONE, "index": INTX} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("action", [0, MASK | UNMASK, MASK | TRIGGER])
def test_not_exactly_one_action_is_enotty(client: Client, action: int) -> None:
    with refused(ENOTTY):
        client.set_irqs(NONE | action, INTX)


@pytest.mark.parametrize("index", [MSI, ERR, REQ])
@pytest.mark.parametrize("action", [MASK, UNMASK])
def test_only_intx_is_masked(client: Client, index: int, action: int) -> None:
    with refused(ENOTTY):
        client.set_irqs(NONE | action, index)


def test_intx_is_not_masked_by_an_eventfd(client: Client, event: int) -> None:
    client.trigger(INTX, event)
    with refused(ENOTTY):
        client.set_irqs(EVENTFD | MASK, INTX, data=struct.pack("i", event))


@pytest.mark.parametrize("index", [INTX, MSI])
@pytest.mark.parametrize("flags", [NONE | TRIGGER, BOOL | TRIGGER])
def test_an_index_that_is_not_enabled_cannot_be_raised(client: Client, index: int, flags: int) -> None:
    with refused(EINVAL):
        client.set_irqs(flags, index, data=b"\1")
    with refused(EINVAL):
        client.set_irqs(NONE | MASK, INTX)
    with refused(EINVAL):
        client.set_irqs(NONE | UNMASK, INTX)


def test_disabling_what_is_not_enabled_is_einval(client: Client) -> None:
    for index in (INTX, MSI):
        with refused(EINVAL):
            client.disable(index)


def test_one_of_intx_and_messages_at_a_time(client: Client, event: int) -> None:
    client.trigger(INTX, event)
    for attempt in (lambda: client.trigger(MSI, event), lambda: client.disable(MSI)):
        with refused(EINVAL):
            attempt()
    client.disable(INTX)
    client.trigger(MSI, event)
    with refused(EINVAL):
        client.trigger(INTX, event)
    with refused(EINVAL):
        client.disable(INTX)
    client.disable(MSI)


@pytest.mark.parametrize("index", [INTX, MSI, ERR, REQ])
def test_a_descriptor_that_is_no_eventfd_is_refused_and_nothing_is_enabled(client: Client, index: int) -> None:
    with refused(EBADF):
        client.trigger(index, 99999)
    with refused(EINVAL):
        client.trigger(index, client.iommu_fd)
    with refused(EINVAL):
        client.set_irqs(NONE | TRIGGER, index)


@pytest.mark.parametrize("index", [ERR, REQ])
def test_errors_and_requests_only_signal(client: Client, index: int, event: int) -> None:
    client.trigger(index, event)
    client.set_irqs(NONE | TRIGGER, index)
    assert counter(event) == 1
    client.set_irqs(BOOL | TRIGGER, index, data=b"\1")
    client.set_irqs(BOOL | TRIGGER, index, data=b"\0")
    assert counter(event) == 1
    client.disable(index)
    with refused(EINVAL):
        client.disable(index)
    client.set_irqs(BOOL | TRIGGER, index, data=b"\1")
    client.trigger(index, event)
    client.trigger(index, -1)
    with refused(EINVAL):
        client.set_irqs(NONE | TRIGGER, index)


@pytest.mark.parametrize("index", [ERR, REQ])
def test_errors_and_requests_refuse_a_wrong_count_or_descriptor(client: Client, index: int) -> None:
    with refused(EINVAL):
        client.trigger(index, -2)
    with refused(EINVAL):
        client.set_irqs(EVENTFD | TRIGGER, index, count=0)
    with refused(EINVAL):
        client.set_irqs(BOOL | TRIGGER, index, count=0)


def test_every_eventfd_is_dropped_when_the_file_is_closed(client: Client, event: int) -> None:
    client.trigger(MSI, event)
    client.trigger(ERR, event)
    client.trigger(REQ, event)
    assert client.host.leaks()["eventfds"] == 3
    client.device.close()
    assert "eventfds" not in client.host.leaks()
