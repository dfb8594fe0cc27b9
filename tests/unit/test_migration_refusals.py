"""Migration that is refused or broken off: streams that are no state, models that fail, resets, closing."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from ioas.uapi import vfio
from tests.support.counting_model import Counting, set_up
from tests.support.migration import (
    ERROR,
    RESUMING,
    RUNNING,
    STOP,
    STOP_COPY,
    change,
    load,
    save,
    state,
    transfer,
)
from tests.support.vfio_client import Client, bound, refused


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def client(model: Counting) -> Iterator[Client]:
    with bound(model) as client:
        yield client


def garbage(data: bytes) -> list[tuple[str, bytes, int]]:
    """Streams that are no state: a name, the bytes, and the errno of the write (0: that of leaving RESUMING)."""
    header, body = data[:20], data[20:]
    longer = struct.pack("<I", struct.unpack_from("<I", data, 8)[0] + len("__init__") - len("_step"))
    return [
        ("nothing", b"", 0),
        ("half", data[: len(data) // 2], 0),
        ("more", data + data[:10], 0),
        ("magic", b"IOAS" + data[4:], errno.EINVAL),
        ("version", header[:4] + b"\x09\0" + header[6:] + body, errno.EINVAL),
        ("lengths", header[:8] + b"\xff" * 12 + body, errno.EINVAL),
        ("json", header + b"[" * 40 + body[40:], errno.EINVAL),
        ("model", data.replace(b'"counting"', b'"Counting"'), errno.EINVAL),
        ("register", data.replace(b'"target"', b'"tarGet"'), errno.EINVAL),
        ("value", data.replace(b'"count": 0', b'"count":""'), errno.EINVAL),
        ("callback", data.replace(b'"_step"', b'"_stop"'), errno.EINVAL),
        ("protocol", data.replace(b'"_step"', b'"reset"'), errno.EINVAL),
        ("python", data[:8] + longer + data[12:].replace(b'"_step"', b'"__repr__"'), errno.EINVAL),
        ("maker", data[:8] + longer + data[12:].replace(b'"_step"', b'"__init__"'), errno.EINVAL),
        ("timer", data.replace(b'"timers": [[', b'"timers": [{"').replace(b"]]]", b"]}]"), errno.EINVAL),
    ]


def test_what_is_no_state_of_this_model_is_refused_and_changes_nothing(client: Client, model: Counting) -> None:
    set_up(client)
    data = save(client)
    for name, broken, number in garbage(data):
        other = Counting()
        with bound(other) as there:
            file = transfer(there, RESUMING)
            if number:
                with refused(number):
                    file.write(there.caller, broken, None)
            else:
                file.write(there.caller, broken, None)
            with refused(errno.EINVAL):
                change(there, STOP)
            assert (state(there), other.target) == (RESUMING, 0), name
            there.device.ioctl(there.caller, vfio.VFIO_DEVICE_RESET, 0)
            assert state(there) == RUNNING


def test_a_state_larger_than_the_device_can_have_is_refused(client: Client) -> None:
    file = transfer(client, RESUMING)
    header = struct.pack("<4sHHIQ", b"ioas", 1, 0, 10, 100 << 20)
    file.write(client.caller, header, None)
    with refused(errno.ENOMEM):
        file.write(client.caller, bytes(65 << 20), None)
    client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)


def test_a_model_that_does_not_take_the_state_is_in_error_until_it_is_reset(client: Client) -> None:
    data = save(client)
    other = Counting()
    other.deaf = True
    with bound(other) as there:
        with refused(errno.EIO):
            load(there, data)
        assert state(there) == ERROR
        with refused(errno.EINVAL):
            change(there, RUNNING)
        there.device.ioctl(there.caller, vfio.VFIO_DEVICE_RESET, 0)
        assert state(there) == RUNNING
        assert other.failure is None


def test_what_is_under_way_without_a_name_cannot_be_taken_along(client: Client) -> None:
    client.set_bar(0x14, 1)
    change(client, STOP)
    with refused(errno.EIO) as info:
        change(client, STOP_COPY)
    assert "no method of it" in info.value.refusal.reason
    assert state(client) == STOP
    change(client, RUNNING)


def test_a_reset_ends_a_migration(client: Client) -> None:
    file = transfer(client, STOP_COPY)
    client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)
    assert state(client) == RUNNING
    with refused(errno.ENODEV):
        file.read(client.caller, 1, None)
    assert client.bar(0x00) == 0


def test_closing_the_device_ends_a_migration_and_the_stream_outlives_it() -> None:
    with bound(Counting()) as client:
        file = transfer(client, STOP_COPY)
        client.device.close()
        with refused(errno.ENODEV):
            file.read(client.caller, 1, None)
        client.device = client.open("/dev/vfio/devices/vfio0")
        client.bind()
        assert state(client) == RUNNING
