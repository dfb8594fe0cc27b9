"""VFIO_DEVICE_FEATURE and low power (vfio_ioctl_device_feature, vfio_pci_core_pm_entry, 7.3)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from errno import EBADF, EINVAL, ENOTTY

import pytest

from ioas.uapi import vfio
from tests.support.models import Rich
from tests.support.vfio_client import INTX, Client, bound, counter, eventfds, refused

GET, SET, PROBE = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET, vfio.VFIO_DEVICE_FEATURE_PROBE
ENTRY, EXIT = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, vfio.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT
ENTRY_WITH_WAKEUP = vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
LACKING = [0, 1, 2, 6, 7, 8, 9, 10, 13, 0xFFFF]


@pytest.fixture
def client() -> Iterator[Client]:
    with bound() as client:
        yield client


def feature(client: Client, flags: int, data: bytes = b"", argsz: int | None = None) -> None:
    size = 8 + len(data) if argsz is None else argsz
    client.device.ioctl(client.caller, vfio.VFIO_DEVICE_FEATURE, bytearray(struct.pack("II", size, flags) + data))


@pytest.mark.parametrize("number", LACKING)
@pytest.mark.parametrize("method", [0, GET, SET, PROBE, PROBE | GET, PROBE | SET, PROBE | GET | SET])
def test_a_feature_that_the_device_lacks_is_enotty_however_it_is_asked_for(
    client: Client, number: int, method: int
) -> None:
    with refused(ENOTTY):
        feature(client, number | method, bytes(32))


@pytest.mark.parametrize("method", [0, GET, SET, PROBE])
def test_precopy_info_is_einval_without_precopy_as_in_7_3(client: Client, method: int) -> None:
    with refused(EINVAL):
        feature(client, vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | method)


@pytest.mark.parametrize("flags", [1 << 19, 1 << 31, GET | SET])
def test_unknown_flags_and_get_together_with_set_are_einval(client: Client, flags: int) -> None:
    with refused(EINVAL):
        feature(client, flags | 1)


def test_low_power_is_probed_and_set_but_not_got(client: Client) -> None:
    for number in (ENTRY, ENTRY_WITH_WAKEUP, EXIT):
        feature(client, number | PROBE)
        feature(client, number | PROBE | SET)
        for flags in (0, GET, PROBE | GET):
            with refused(EINVAL):
                feature(client, number | flags)


def test_low_power_is_entered_once_and_left_any_number_of_times(client: Client) -> None:
    feature(client, ENTRY | SET)
    with refused(EINVAL):
        feature(client, ENTRY | SET)
    assert client.bar(0) == 0x010000ED
    feature(client, EXIT | SET)
    feature(client, EXIT | SET)
    feature(client, ENTRY | SET)


def test_an_access_ends_low_power_with_a_wake_up_and_signals_it(client: Client) -> None:
    (event,) = eventfds(1)
    feature(client, ENTRY_WITH_WAKEUP | SET, struct.pack("iI", event, 0))
    assert counter(event) == 0
    client.bar(0)
    assert counter(event) == 1
    client.bar(0)
    assert counter(event) == 0
    feature(client, ENTRY | SET)
    os.close(event)


def test_intx_is_silent_in_low_power_and_comes_after_it(client: Client) -> None:
    (event,) = eventfds(1)
    function = client.host.functions["0000:01:00.0"]
    client.trigger(INTX, event)
    feature(client, ENTRY | SET)
    function.interrupt(0)
    assert counter(event) == 0
    feature(client, EXIT | SET)
    assert counter(event) == 1
    os.close(event)


def test_a_wake_up_must_be_an_eventfd(client: Client) -> None:
    for data, number in (
        (struct.pack("i", 0), EINVAL),
        (struct.pack("iI", -1, 0), EINVAL),
        (struct.pack("iI", 99999, 0), EBADF),
        (struct.pack("iI", client.iommu_fd, 0), EINVAL),
    ):
        with refused(number):
            feature(client, ENTRY_WITH_WAKEUP | SET, data)


def test_closing_the_file_ends_low_power(client: Client) -> None:
    (event,) = eventfds(1)
    feature(client, ENTRY_WITH_WAKEUP | SET, struct.pack("iI", event, 0))
    client.device.close()
    os.close(event)
    fresh = client.open("/dev/vfio/devices/vfio0")
    client.bind(fresh)
    client.device = fresh
    feature(client, ENTRY | SET)


def test_low_power_is_entered_from_d0_whatever_state_the_program_had_chosen() -> None:
    """vfio_pci_core_runtime_suspend: the bus puts the function to sleep itself."""
    with bound(Rich()) as client:
        function = client.host.functions["0000:01:00.0"]
        state = (function.config.find(1) or 0) + 4
        client.set_config(state, 2, 3)
        assert client.config(state, 2) & 3 == 3
        feature(client, ENTRY | SET)
        assert not function.in_use
        assert client.config(state, 2) & 3 == 0
        assert client.host.tree.read("/sys/bus/pci/devices/0000:01:00.0/power/runtime_status") == b"suspended\n"
        feature(client, EXIT | SET)
        assert function.in_use
