"""A device that asks for missing pages waits for the answer, and nobody else does (edu with `pri=true`)."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ioas
from ioas.api import Device, FaultQueue, Ioas, Iommufd
from ioas.devices import edu
from ioas.errors import NoDevice
from ioas.soft.iommufd import Device as BoundDevice
from ioas.testing import expect_failure
from ioas.uapi.iommufd import IOMMU_PGFAULT_PERM_READ, IOMMU_PGFAULT_PERM_WRITE

BDF = "0000:01:00.0"
IOVA = 0x100000
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
START, TO_MEMORY = 1, 2
BUFFER = 0x40000
LENGTH = 4096


class Driver:
    """The device, and a table with a fault queue for it."""

    def __init__(self, host: ioas.SoftHost, iommufd: Iommufd, device: Device) -> None:
        self.host = host
        self.iommufd = iommufd
        self.device = device
        device.bind(iommufd)
        device.bus_master = True
        self.space: Ioas = iommufd.ioas()
        self.queue: FaultQueue = iommufd.fault_queue()
        self.table = iommufd.hwpt(device, self.space, faults=self.queue)
        self.registers = device.bar(0)

    def start(self, iova: int, command: int, length: int = LENGTH) -> None:
        ends = (BUFFER, iova) if command & TO_MEMORY else (iova, BUFFER)
        self.registers.write64(SOURCE, ends[0])
        self.registers.write64(DESTINATION, ends[1])
        self.registers.write64(COUNT, length)
        self.registers.write64(COMMAND, START | command)

    @property
    def busy(self) -> bool:
        return bool(self.registers.read64(COMMAND) & START)


@pytest.fixture
def driver() -> Iterator[Driver]:
    with (
        ioas.SoftHost(devices=["edu,pri=true"]) as host,
        host.iommufd() as iommufd,
        host.device(BDF) as device,
    ):
        driver = Driver(host, iommufd, device)
        device.attach(driver.table)
        yield driver
        device.detach()
        driver.table.close()
        driver.queue.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_transfer_waits_for_its_page_and_then_completes(driver: Driver) -> None:
    memory = mmap.mmap(-1, LENGTH)
    memory[:5] = b"paged"
    driver.start(IOVA, 0)
    [fault] = driver.queue.wait(10)
    assert (fault.addr, fault.perm) == (IOVA, IOMMU_PGFAULT_PERM_READ)
    assert driver.busy, "and its registers can be read meanwhile"
    with driver.space.map(memory, iova=IOVA):
        driver.queue.respond(fault.cookie, resolved=True)
        until(lambda: not driver.busy)
        driver.start(IOVA, TO_MEMORY)
        memory[:5] = b"-----"
        until(lambda: not driver.busy)
        assert memory[:5] == b"paged"
    assert not driver.host.faults()


def test_each_missing_page_is_asked_for(driver: Driver) -> None:
    memory = mmap.mmap(-1, 2 * LENGTH)
    driver.start(IOVA + 2048, TO_MEMORY)
    first = driver.queue.wait(10)[0]
    assert (first.addr, first.perm) == (IOVA, IOMMU_PGFAULT_PERM_WRITE)
    one = driver.space.map(memoryview(memory)[:LENGTH], iova=IOVA)
    driver.queue.respond(first.cookie, resolved=True)
    second = driver.queue.wait(10)[0]
    assert second.addr == IOVA + LENGTH
    assert second.grpid != first.grpid
    two = driver.space.map(memoryview(memory)[LENGTH:], iova=IOVA + LENGTH)
    driver.queue.respond(second.cookie, resolved=True)
    until(lambda: not driver.busy)
    assert not driver.host.faults()
    one.close()
    two.close()


def test_a_page_that_nobody_brings_ends_the_transfer_with_a_fault(driver: Driver) -> None:
    driver.start(IOVA, 0)
    [fault] = driver.queue.wait(10)
    driver.queue.respond(fault.cookie, resolved=False)
    until(lambda: not driver.busy)
    assert [record.reason for record in driver.host.faults()] == ["not mapped"]


def test_detaching_answers_for_the_program(driver: Driver) -> None:
    driver.start(IOVA, 0)
    driver.queue.wait(10)
    driver.device.detach()
    until(lambda: not driver.busy)
    assert [record.reason for record in driver.host.faults()] == ["blocked"]


@pytest.mark.timeout(60)
def test_requests_and_closing_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request takes the machine's lock, and closing takes the device's: never one under the other."""
    request = BoundDevice.request_page

    def slow(self: BoundDevice, *arguments: Any) -> bool:
        time.sleep(0.003)
        return request(self, *arguments)

    monkeypatch.setattr(BoundDevice, "request_page", slow)
    monkeypatch.setattr(edu, "DMA_DELAY", 0.0)
    with ioas.SoftHost(devices=["edu,pri=true"]) as host:
        for round_ in range(40):
            with host.iommufd() as iommufd, host.device(BDF) as device:
                driver = Driver(host, iommufd, device)
                device.attach(driver.table)
                driver.start(IOVA, 0)
                time.sleep(round_ / 10_000)
                device.close()
                driver.table.close()
                driver.queue.close()


def test_a_device_that_asks_for_nothing_gets_no_table_with_a_queue() -> None:
    with (
        ioas.SoftHost(devices=["edu"]) as host,
        host.iommufd() as iommufd,
        host.device(BDF) as device,
    ):
        driver = Driver(host, iommufd, device)
        with pytest.raises(NoDevice, match="asks for no pages"):
            device.attach(driver.table)
        driver.table.close()
        driver.queue.close()


class Clumsy(edu.Edu):
    """It cannot take what it asked for."""

    def _move(self, start: int, address: int, *, write: bool) -> None:
        raise ZeroDivisionError


def test_a_model_that_fails_when_its_page_has_come_is_told_with_the_transfer() -> None:
    with (
        ioas.SoftHost(devices=[Clumsy(pri=True)]) as host,
        host.iommufd() as iommufd,
        host.device(BDF) as device,
    ):
        driver = Driver(host, iommufd, device)
        device.attach(driver.table)
        driver.start(IOVA, 0)
        with expect_failure(host, BDF, ZeroDivisionError) as failures:
            driver.queue.respond(driver.queue.wait(10)[0].cookie, resolved=False)
        assert failures[0].access == f"the callback of a DMA read at {IOVA:#x} (_move)"
        assert host.failures() == []
        device.detach()
        driver.table.close()
        driver.queue.close()
