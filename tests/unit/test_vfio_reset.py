"""VFIO_DEVICE_RESET, hot resets, and what opening and closing do to a function (vfio_pci_core.c, 7.3)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from errno import EINVAL, ENODEV, ENOSPC

import pytest

from ioas.soft.host import models
from ioas.uapi import vfio
from tests.support.models import Rich, Unresettable
from tests.support.vfio_client import MSIX, REQ, Client, bound, eventfds, refused, running

OWNED = vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID | vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED


@pytest.fixture
def rich() -> Rich:
    return Rich()


@pytest.fixture
def client(rich: Rich) -> Iterator[Client]:
    with bound(rich) as client:
        yield client


def reset(client: Client) -> None:
    client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)


def hot_reset(client: Client, count: int = 0, flags: int = 0) -> None:
    client.call(vfio.VFIO_DEVICE_PCI_HOT_RESET, vfio.vfio_pci_hot_reset(argsz=12 + 4 * count, flags=flags, count=count))


def hot_reset_info(client: Client, room: int) -> tuple[vfio.vfio_pci_hot_reset_info, list[tuple[int, int, int, int]]]:
    """The header, and (device id, segment, bus, devfn) of what fits into `room` entries."""
    argsz = 12 + 8 * room
    data = bytearray(bytes(vfio.vfio_pci_hot_reset_info(argsz=argsz)) + bytes(8 * room))
    try:
        client.device.ioctl(client.caller, vfio.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, data)
    finally:
        header = vfio.vfio_pci_hot_reset_info.from_buffer_copy(data)
        client.last_header = header  # type: ignore[attr-defined]
    entries = [struct.unpack_from("=IHBB", data, 12 + 8 * index) for index in range(header.count)]
    return header, entries


def test_a_reset_clears_the_device_and_keeps_its_configuration(client: Client) -> None:
    client.write(0, b"\x11" * 8)
    command = client.config(4, 4)
    reset(client)
    assert client.read(0, 8) == bytes(8)
    assert client.config(4, 4) == command


def test_a_reset_wakes_the_function(client: Client, rich: Rich) -> None:
    power = rich.config.find(1) or 0
    client.set_config(power + 4, 2, 3)
    reset(client)
    assert client.config(power + 4, 2) & 3 == 0
    assert client.read(0, 4) == bytes(4)


def test_without_a_method_a_reset_is_einval() -> None:
    with running("edu,addr=0000:00:08.0") as client:
        client.bind()
        with refused(EINVAL):
            reset(client)


def test_opening_turns_bus_mastering_off_and_decoding_on() -> None:
    with running(Rich()) as client:
        function = client.host.functions["0000:01:00.0"]
        function.config.write(4, b"\x04\x04")
        client.bind()
        assert client.config(4, 2) & 0x407 == 3


def test_closing_stops_dma_resets_and_puts_the_configuration_back(client: Client, rich: Rich) -> None:
    client.set_config(4, 2, 7)
    client.write(0, b"\x11" * 8)
    client.device.close()
    assert not rich.master_enabled
    assert rich.memory_bytes == bytearray(0x4000)
    assert rich.bar_address(0)


def test_hot_reset_info_names_the_functions_on_the_bus(client: Client) -> None:
    header, entries = hot_reset_info(client, 1)
    assert (header.count, header.flags) == (1, OWNED)
    device = client.host.devices["0000:01:00.0"].device_id
    assert entries == [(device, 0, 1, 0)]


def test_hot_reset_info_without_room_is_enospc_and_says_how_much_it_takes(client: Client) -> None:
    with refused(ENOSPC):
        hot_reset_info(client, 0)
    assert (client.last_header.count, client.last_header.flags) == (1, 0)  # type: ignore[attr-defined]


def test_a_hot_reset_resets(client: Client) -> None:
    client.write(0, b"\x11" * 8)
    command = client.config(4, 4)
    hot_reset(client)
    assert client.read(0, 8) == bytes(8)
    assert client.config(4, 4) == command


def test_a_hot_reset_takes_neither_flags_nor_group_descriptors_from_a_cdev(client: Client) -> None:
    with refused(EINVAL):
        hot_reset(client, flags=1)
    with refused(EINVAL):
        hot_reset(client, count=1)


def test_a_root_bus_cannot_be_reset() -> None:
    with running("edu,addr=0000:00:08.0") as client:
        client.bind()
        with refused(ENODEV):
            hot_reset_info(client, 1)
        with refused(ENODEV):
            hot_reset(client)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Two functions in one slot that cannot be reset alone; the first is bound."""
    monkeypatch.setitem(models._BUILT_IN, "unresettable", "tests.support.models:Unresettable")
    with running("unresettable,addr=0000:01:00.0", "unresettable,addr=0000:01:00.1") as client:
        client.bind()
        yield client


def resets(client: Client) -> list[int]:
    return [function.resets for function in client.host.functions.values() if isinstance(function, Unresettable)]


def test_functions_that_share_a_bus_cannot_be_reset_alone(pair: Client) -> None:
    with refused(EINVAL):
        reset(pair)
    assert resets(pair) == [0, 0]


def test_functions_of_one_group_are_owned_by_the_iommufd_that_has_one_of_them(pair: Client) -> None:
    first, second = pair.host.devices.values()
    assert first.function.requester.group is second.function.requester.group
    header, entries = hot_reset_info(pair, 2)
    assert header.flags == OWNED
    assert [entry[0] for entry in entries] == [first.device_id, vfio.VFIO_PCI_DEVID_OWNED]
    assert [entry[3] for entry in entries] == [0, 1]
    hot_reset(pair)
    assert resets(pair) == [1, 1]


def test_a_function_of_another_owner_forbids_the_hot_reset(pair: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    _, second = pair.host.devices.values()
    monkeypatch.setattr(second.function.requester, "group", None)
    header, entries = hot_reset_info(pair, 2)
    assert header.flags == vfio.VFIO_PCI_HOT_RESET_FLAG_DEV_ID
    assert entries[1][0] == vfio.VFIO_PCI_DEVID_NOT_OWNED & 0xFFFF_FFFF
    with refused(EINVAL):
        hot_reset(pair)
    assert resets(pair) == [0, 0]


def test_a_bus_is_reset_when_the_last_function_on_it_is_closed(pair: Client) -> None:
    second = pair.open("/dev/vfio/devices/vfio1")
    pair.bind(second)
    pair.device.close()
    assert resets(pair) == [0, 0]
    second.close()
    assert resets(pair) == [1, 1]


class Broken(Rich):
    """A model with a bug in its reset."""

    fails = False

    def reset(self) -> None:
        super().reset()
        if self.fails:
            raise ZeroDivisionError


def test_a_device_whose_model_fails_while_it_is_opened_is_dead_until_it_is_opened_again() -> None:
    model = Broken()
    with running(model) as client:
        model.fails = True
        client.bind()
        assert client.read(0, 4) == b"\xff" * 4
        info = client.call(vfio.VFIO_DEVICE_GET_INFO, vfio.vfio_device_info(argsz=20))
        assert not info.flags & vfio.VFIO_DEVICE_FLAGS_RESET
        client.device.close()
        model.fails = False
        client.device = client.open("/dev/vfio/devices/vfio0")
        client.bind()
        assert model.failure is None


@pytest.mark.parametrize("asleep", [False, True])
def test_a_model_that_fails_while_it_is_woken_to_be_closed_keeps_no_eventfd(
    asleep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (event,) = eventfds(1)
    model = Broken()
    with bound(model) as client:
        client.trigger(MSIX, event)
        client.trigger(REQ, event)
        if asleep:
            client.set_config((model.config.find(1) or 0) + 4, 2, 3)
        model.fails = True
        client.device.close()
        assert "eventfds" not in client.host.leaks()
        model.fails = False
    assert "ZeroDivisionError" in caplog.text
    os.close(event)


def test_a_wakeup_eventfd_counts_among_those_held() -> None:
    (event,) = eventfds(1)
    with bound(Rich()) as client:
        flags = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
        entry = vfio.vfio_device_low_power_entry_with_wakeup(wakeup_eventfd=event)
        client.call(vfio.VFIO_DEVICE_FEATURE, vfio.vfio_device_feature(argsz=16, flags=flags), tail=bytes(entry))
        assert client.host.leaks()["eventfds"] == 1
    os.close(event)


def test_a_model_that_fails_while_it_is_closed_is_detached_and_unbound_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Broken()
    with running(model) as client:
        client.bind()
        client.attach(client.ioas())
        model.fails = True
        client.device.close()
        assert "0000:01:00.0" in caplog.text
        model.fails = False
        assert model.requester.domain is None
        fresh = client.open("/dev/vfio/devices/vfio0")
        assert client.bind(fresh)
        client.device = fresh
