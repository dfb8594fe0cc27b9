"""Random walks of a device through its migration: it is always in a state of its own, and what that says holds."""

from __future__ import annotations

import os
from contextlib import suppress

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ioas.devices.testdev import START, TestDevice
from ioas.errors import KernelError
from ioas.host import File
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost
from ioas.soft.pci import Migration
from ioas.soft.vfio.migration_states import NAMES, SAVING
from ioas.uapi import vfio
from tests.support.migration import (
    ERROR,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    RUNNING_P2P,
    STOP_COPY,
    change,
    precopy_info,
    state,
)
from tests.support.vfio_client import Client

PACES = {RUNNING: "running", PRE_COPY: "running", RUNNING_P2P: "quiet", PRE_COPY_P2P: "quiet"}
LONG = 4_000_000_000
"""Microseconds: no timer of the device runs out in a test."""


class Walk(RuleBasedStateMachine):
    """One device, and whatever a program may do with it."""

    @initialize(p2p=st.booleans(), pre_copy=st.booleans())
    def start(self, p2p: bool, pre_copy: bool) -> None:
        self.model = TestDevice()
        self.model.migrates = Migration(p2p=p2p, pre_copy=pre_copy)
        self.host = SoftHost([self.model])
        self.caller = LocalCaller()
        self.client = Client(self.host, self.caller)
        self.client.bind()
        self.client.set_config(4, 2, 6)
        self.stream: File | None = None
        self.left = b""
        self.known = b""

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        if self.stream:
            self.stream.close()
        self.client.device.close()
        os.close(self.client.iommu_fd)
        self.caller.before_call()
        leaked = self.host.leaks()
        self.host.close()
        self.caller.close()
        assert not leaked
        assert self.model.standstill.pace == "running"

    @rule(wanted=st.sampled_from(sorted(NAMES)))
    def go(self, wanted: int) -> None:
        with suppress(KernelError):
            fd = change(self.client, wanted)
            if fd >= 0:
                if self.stream:
                    self.stream.close()
                self.stream = self.caller.file(fd)
                os.close(fd)

    @precondition(lambda self: self.stream)
    @rule(length=st.integers(1, 100_000))
    def read(self, length: int) -> None:
        with suppress(KernelError):
            self.left += self.stream.read(self.caller, length, None)
            if self.client.device and state(self.client) == STOP_COPY and not self.stream.read(self.caller, 1, None):
                self.known, self.left = self.left, b""

    @precondition(lambda self: self.stream)
    @rule(whole=st.booleans())
    def write(self, whole: bool) -> None:
        data = self.known if whole else self.known[:1000]
        with suppress(KernelError):
            self.stream.write(self.caller, data, None)

    @precondition(lambda self: self.stream)
    @rule()
    def ask(self) -> None:
        with suppress(KernelError):
            precopy_info(self.client, self.stream)

    @rule()
    def reset(self) -> None:
        self.client.device.ioctl(self.caller, vfio.VFIO_DEVICE_RESET, 0)
        assert state(self.client) == RUNNING

    @rule(count=st.integers(0, 3))
    def work(self, count: int) -> None:
        self.client.set_bar(TestDevice.delay.offset, LONG)
        self.client.set_bar(TestDevice.list_length.offset, count)
        self.client.set_bar(TestDevice.command.offset, START)

    @rule()
    def close_and_open(self) -> None:
        self.client.device.close()
        self.client.device = self.client.open("/dev/vfio/devices/vfio0")
        self.client.bind()
        self.client.set_config(4, 2, 6)
        assert state(self.client) == RUNNING

    @invariant()
    def the_pace_is_that_of_the_state(self) -> None:
        if hasattr(self, "client"):
            now = state(self.client)
            assert now == ERROR or self.model.standstill.pace == PACES.get(now, "stopped")

    @invariant()
    def a_transfer_is_there_just_in_its_states(self) -> None:
        if hasattr(self, "client"):
            transfer = self.host.devices["0000:01:00.0"].migration._transfer
            assert (transfer is not None) is (state(self.client) in {*SAVING, RESUMING})

    @invariant()
    def the_model_has_not_failed(self) -> None:
        if hasattr(self, "client"):
            assert self.model.failure is None


Walk.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestWalk = Walk.TestCase
