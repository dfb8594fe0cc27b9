"""Migration of a device by VFIO: states, streams, what a stopped device does, and what ends it (vfio_main.c, 7.3)."""

from __future__ import annotations

import errno
import select
import struct
from collections.abc import Iterator

import pytest

from ioas.devices import edu
from ioas.host import EventSource
from ioas.soft.pci import Migration
from ioas.uapi import vfio
from tests.support.counting_model import RARE, Counting, set_up
from tests.support.migration import (
    ERROR,
    GET,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    SET,
    STOP,
    STOP_COPY,
    change,
    feature,
    load,
    precopy_info,
    read_all,
    save,
    state,
    transfer,
)
from tests.support.vfio_client import INTX, Client, bound, counter, eventfds, refused

MIGRATION = vfio.VFIO_DEVICE_FEATURE_MIGRATION
DATA_SIZE = vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
INFO_V2 = vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
MIG_STATE = vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def client(model: Counting) -> Iterator[Client]:
    with bound(model) as client:
        yield client


def test_flags_say_what_the_model_declares(client: Client, model: Counting) -> None:
    assert feature(client, GET | MIGRATION, bytes(8)) == struct.pack("Q", 7)
    model.migrates = Migration(p2p=False, pre_copy=False)
    assert feature(client, GET | MIGRATION, bytes(8)) == struct.pack("Q", 1)
    with refused(errno.EINVAL):
        feature(client, SET | INFO_V2)


@pytest.mark.parametrize("number", [MIGRATION, MIG_STATE, DATA_SIZE])
def test_a_structure_that_is_promised_too_short_is_refused(client: Client, number: int) -> None:
    with refused(errno.EINVAL):
        feature(client, GET | number, bytes(8), cut=1)


@pytest.mark.parametrize("number", [SET | MIGRATION, SET | DATA_SIZE, GET | INFO_V2])
def test_a_method_that_a_feature_lacks_is_refused(client: Client, number: int) -> None:
    with refused(errno.EINVAL):
        feature(client, number, bytes(8))


def test_a_device_runs_at_first_and_goes_where_it_is_sent(client: Client) -> None:
    assert state(client) == RUNNING
    for target in (RUNNING_P2P, STOP, RUNNING, RUNNING):
        assert change(client, target) == -1
        assert state(client) == target


def test_a_way_that_does_not_exist_leaves_the_device_where_it_was(client: Client) -> None:
    change(client, STOP)
    file = transfer(client, STOP_COPY)
    for target in (PRE_COPY, PRE_COPY_P2P, ERROR, 8):
        argument = bytearray(struct.pack("IIIi", 16, SET | MIG_STATE, target, 77))
        with refused(errno.EINVAL):
            client.device.ioctl(client.caller, vfio.VFIO_DEVICE_FEATURE, argument)
        assert struct.unpack("IIIi", argument)[3] == -1
        assert state(client) == STOP_COPY
    file.close()


def test_a_state_is_read_to_its_end_and_has_the_size_that_was_told(client: Client) -> None:
    (size,) = struct.unpack("Q", feature(client, GET | DATA_SIZE, bytes(8)))
    change(client, STOP)
    file = transfer(client, STOP_COPY)
    assert len(read_all(client, file, portion=7)) == size
    assert file.read(client.caller, 100, None) == b""
    with refused(errno.EBADF):
        file.write(client.caller, b"x", None)
    with refused(errno.ESPIPE):
        file.read(client.caller, 1, 0)


def test_a_transfer_is_over_when_the_device_leaves_its_state(client: Client) -> None:
    file = transfer(client, STOP_COPY)
    change(client, STOP)
    with refused(errno.ENODEV):
        file.read(client.caller, 1, None)
    again = transfer(client, STOP_COPY)
    assert read_all(client, again)


def test_another_device_goes_on_where_one_was_stopped(client: Client, model: Counting) -> None:
    model.secret = b"secret"
    set_up(client)
    data = save(client)
    other = Counting()
    event, *_ = eventfds(1)
    with bound(other) as there:
        there.trigger(INTX, event)
        load(there, data, portion=5)
        assert counter(event) == 0
        change(there, RUNNING)
        assert (other.target, other.wide, other.secret) == (5, 1 << 40, b"secret")
        assert bytes(other.memory[:9]) == b"in memory"
        assert counter(event) == 1
        [timer] = other.running_timers
        assert 0 < timer.left <= RARE
        timer.action()
        assert other.count == 1


def test_a_stopped_device_does_nothing_and_goes_on_later(client: Client, model: Counting) -> None:
    set_up(client)
    change(client, STOP)
    [timer] = model.running_timers
    left = timer.left
    assert timer.left == left
    client.set_bar(0x00, 9)
    assert client.bar(0x00) == 0xFFFFFFFF
    assert model.count == 0
    change(client, RUNNING)
    assert client.bar(0x04) == 5
    assert timer.pending


def test_a_quiet_device_answers_and_does_no_dma(client: Client, model: Counting) -> None:
    change(client, RUNNING_P2P)
    client.set_bar(0x04, 3)
    assert client.bar(0x04) == 3
    assert model.dma.read(0x1000, 4) is None
    assert "quiet" in model.incidents[-1].what


def test_pre_copy_tells_what_there_is_then_what_has_changed_then_the_rest(client: Client, model: Counting) -> None:
    file = transfer(client, PRE_COPY)
    flags, initial, dirty = precopy_info(client, file, flags=9)
    assert (flags, dirty) == (9, 0)
    assert len(file.read(client.caller, 1 << 20, None)) == initial
    assert precopy_info(client, file)[1:] == (0, 0)
    assert not file.poll(client.caller)
    with refused(errno.ENOMSG):
        file.read(client.caller, 1, None)
    client.set_bar(0x00, 7)
    _, initial, dirty = precopy_info(client, file)
    assert initial == 0
    assert file.poll(client.caller) & select.POLLIN
    assert len(file.read(client.caller, 1 << 20, None)) == dirty
    assert change(client, STOP_COPY) == -1
    with refused(errno.EINVAL):
        precopy_info(client, file)
    rest = read_all(client, file)
    assert file.poll(client.caller) & select.POLLIN
    with bound(Counting()) as there:
        load(there, rest)
        change(there, RUNNING)
        assert there.bar(0) == 7


def test_the_last_of_several_states_counts(client: Client) -> None:
    file = transfer(client, PRE_COPY)
    data = file.read(client.caller, 1 << 20, None)
    client.set_bar(0x00, 7)
    change(client, STOP_COPY)
    data += read_all(client, file)
    with bound(Counting()) as there:
        load(there, data, portion=11)
        change(there, RUNNING)
        assert there.bar(0) == 7


def test_what_could_not_be_delivered_is_read_again(client: Client) -> None:
    file = transfer(client, PRE_COPY)
    assert isinstance(file, EventSource)
    first = file.read(client.caller, 10, None)
    second = file.read(client.caller, 10, None)
    file.restore()
    assert file.read(client.caller, 10, None) == second != first
    _, initial, _ = precopy_info(client, file)
    change(client, STOP_COPY)
    assert len(read_all(client, file)) > initial


def test_what_has_been_read_is_not_kept(client: Client) -> None:
    file = transfer(client, PRE_COPY)
    held = []
    for count in range(1, 4):
        file.read(client.caller, 1 << 20, None)
        client.set_bar(0x00, count)
        held.append(precopy_info(client, file)[2])
    assert held == [held[0]] * 3
    assert len(file._data) == 2 * held[0]


def test_time_that_passes_is_no_change(client: Client, model: Counting) -> None:
    set_up(client)
    file = transfer(client, PRE_COPY)
    file.read(client.caller, 1 << 20, None)
    [timer] = model.running_timers
    timer.hold()
    timer._left = 1.0
    assert precopy_info(client, file)[1:] == (0, 0)


def test_the_second_version_of_the_information_clears_its_flags(client: Client) -> None:
    feature(client, SET | INFO_V2)
    file = transfer(client, PRE_COPY)
    assert precopy_info(client, file, flags=9)[0] == 0


def test_other_requests_on_a_stream_do_not_exist(client: Client) -> None:
    file = transfer(client, PRE_COPY)
    incoming = bytearray(24)
    with refused(errno.ENOTTY):
        file.ioctl(client.caller, vfio.VFIO_DEVICE_FEATURE, incoming)
    with refused(errno.EINVAL):
        file.ioctl(client.caller, vfio.VFIO_MIG_GET_PRECOPY_INFO, incoming)
    change(client, RUNNING)
    file = transfer(client, RESUMING)
    with refused(errno.ENOTTY):
        file.ioctl(client.caller, vfio.VFIO_MIG_GET_PRECOPY_INFO, incoming)
    with refused(errno.EBADF):
        file.read(client.caller, 1, None)
    client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)


def test_edu_migrates_only_where_it_is_told_to() -> None:
    with bound("edu") as client, refused(errno.ENOTTY):
        feature(client, GET | MIGRATION, bytes(8))
    with bound("edu,migration=on") as client:
        client.set_bar(0x04, 5)
        assert state(client) == RUNNING


def test_edu_is_taken_along_in_the_middle_of_a_transfer_and_with_its_interrupt() -> None:
    """What a running edu holds when it is stopped arrives: buffer, DMA registers, the rest of the delay, the line."""
    with bound("edu,migration=on") as client:
        source = client.host.functions["0000:01:00.0"]
        assert isinstance(source, edu.Edu)
        source.buffer[:5] = b"moved"
        client.set_bar(0x60, 0x10)
        for register, value in ((0x80, edu.BUFFER), (0x88, 0x4000), (0x90, 5), (0x98, 7)):
            client.set_bar(register, value, 8)
        data = save(client)
        with bound(edu.Edu(migration=True)) as there:
            target = there.host.functions["0000:01:00.0"]
            assert isinstance(target, edu.Edu)
            load(there, data)
            assert target.interrupts.asserted
            assert target.dma_command & edu.DMA_START
            assert [timer.action for timer in target.running_timers] == [target._transfer]
            assert target.running_timers[0].left <= edu.DMA_DELAY
            assert target.buffer[:5] == b"moved"
