"""VFIO_DEVICE_FEATURE with anything in it is carried out or refused with a reason, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import struct

from hypothesis import given, settings, strategies as st

from ioas.errors import KernelError
from ioas.uapi import vfio
from tests.support.migration import GET, SET, state
from tests.support.vfio_client import Client, bound

PROBE = vfio.VFIO_DEVICE_FEATURE_PROBE
FEATURES = st.integers(0, 14) | st.integers(0, 0xFFFF)
METHODS = st.sampled_from([0, GET, SET, GET | SET]) | st.integers(0, 0xFFFF_FFFF)
SIZES = st.integers(0, 64) | st.integers(0, 0xFFFF_FFFF)
ROOM = bytearray(4096)
"""Memory that the calls' pointers may lead to."""
ADDRESS = ctypes.addressof(ctypes.c_char.from_buffer(ROOM))
WORDS = st.integers(0, 8) | st.sampled_from([4096, 1 << 21, 1 << 32, ADDRESS, (1 << 64) - 4096, (1 << 64) - 1])

call = st.tuples(FEATURES, METHODS, st.booleans(), SIZES, st.lists(WORDS, min_size=0, max_size=5))


def make(client: Client, feature: int, method: int, probe: bool, size: int, words: list[int]) -> None:
    flags = (feature | method | (PROBE if probe else 0)) & 0xFFFF_FFFF
    argument = bytearray(struct.pack("II", size, flags) + struct.pack(f"{len(words)}Q", *words))
    try:
        result = client.device.ioctl(client.caller, vfio.VFIO_DEVICE_FEATURE, argument)
    except KernelError as refused:
        if not refused.refusal.reason:
            raise
        return
    if result:  # the descriptor of a dma-buf
        os.close(result)
    if flags & 0xFFFF == vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE and not flags & PROBE and flags & SET:
        fd = struct.unpack_from("i", argument, 12)[0]
        if fd >= 0:
            os.close(fd)


@settings(max_examples=150)
@given(st.lists(call, min_size=1, max_size=8))
def test_any_feature_is_carried_out_or_refused_with_a_reason(
    calls: list[tuple[int, int, bool, int, list[int]]],
) -> None:
    with bound("testdev") as client:
        for each in calls:
            make(client, *each)
        client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)
        assert state(client) == vfio.VFIO_DEVICE_STATE_RUNNING
        assert client.host.functions["0000:01:00.0"].failure is None
