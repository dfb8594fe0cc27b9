"""Whatever is written to a device that resumes, it is a state or it is refused: nothing else is raised, ever."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from struct import Struct

from hypothesis import given, strategies as st

from ioas.devices.testdev import TestDevice
from ioas.soft.pci import migration as states
from tests.support.machine import machine

HEADER = Struct("<4sHHIQ")


def busy() -> TestDevice:
    """A testdev with something in every part of its state."""
    device = TestDevice()
    machine(device)
    device.bar_write(0, TestDevice.list_length.offset, b"\x05\0\0\0")
    device.bar_write(0, TestDevice.delay.offset, b"\xff\0\0\0")
    device.bar_write(0, TestDevice.command.offset, b"\x01\0\0\0")
    device.schedule(1.0, partial(device._read_source, 1, 2, 3, 4), "a test")
    device.bar_write(0, TestDevice.raise_vector.offset, b"\x01\0\0\0")
    return device


VALID = states.save(busy())
_, _, _, TEXT, _ = HEADER.unpack_from(VALID)
DESCRIPTION = json.loads(VALID[HEADER.size : HEADER.size + TEXT])
BODY = VALID[HEADER.size + TEXT :]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def resume(data: bytes) -> None:
    """Write `data` to a fresh device; if it is a state, let it be in that, and do what it then does."""
    device = TestDevice()
    bench = machine(device)
    with suppress(states.StateError):
        state, length = states.parse(device, data)
        assert length <= len(data)
        if state is not None:
            with device.lock:
                state.load()
            bench.timers.advance(10)
            device.bar_read(0, 0, 4)


def packed(description: object, body: bytes = BODY) -> bytes:
    text = json.dumps(description).encode()
    return HEADER.pack(b"ioas", 1, 0, len(text), len(body)) + text + body


def test_a_state_of_the_device_is_one() -> None:
    device = TestDevice()
    machine(device)
    state, length = states.parse(device, VALID + b"more")
    assert state is not None
    assert length == len(VALID)
    with device.lock:
        state.load()
    assert json.loads(states.save(device)[HEADER.size :].partition(BODY)[0])["registers"] == DESCRIPTION["registers"]


@given(st.binary(max_size=64))
def test_bytes_are_refused_or_waited_for(data: bytes) -> None:
    resume(data)


@given(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=16))
def test_a_state_with_other_bytes_in_it_is_one_or_is_refused(place: int, data: bytes) -> None:
    resume(VALID[:place] + data + VALID[place + len(data) :])


@given(st.integers(0, HEADER.size + TEXT), st.binary(min_size=1, max_size=3))
def test_a_description_with_other_bytes_in_it_is_one_or_is_refused(place: int, data: bytes) -> None:
    resume(VALID[:place] + data + VALID[place + len(data) :])


@given(st.sampled_from(sorted(DESCRIPTION)), plain)
def test_a_description_with_another_part_is_one_or_is_refused(part: str, value: object) -> None:
    resume(packed({**DESCRIPTION, part: value}))


@given(plain, plain, plain)
def test_any_callback_is_a_method_of_the_model_or_is_refused(call: object, arguments: object, keywords: object) -> None:
    timer = [0.5, "a test", {"call": call, "with": arguments, "and": keywords}]
    resume(packed({**DESCRIPTION, "timers": [timer]}))


@given(st.sampled_from(["_finish", "_move", "_take", "reset", "dma.when_present", "dma.read", "bar_write"]), plain)
def test_a_callback_that_exists_takes_what_it_can(name: str, arguments: object) -> None:
    given_ = arguments if isinstance(arguments, list) else [arguments]
    timer = [0.5, "a test", {"call": name, "with": given_, "and": {}}]
    resume(packed({**DESCRIPTION, "timers": [timer]}))


@given(plain)
def test_any_description_is_one_or_is_refused(description: object) -> None:
    resume(packed(description))
