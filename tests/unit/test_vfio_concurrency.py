"""VFIO while the device is busy: interrupts and DMA keep coming from its own thread; calls come from several."""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import threading
from collections.abc import Iterator
from errno import EBADF
from typing import ClassVar

import pytest

from ioas.errors import KernelError
from ioas.soft.pci import Bar, Capability, Function, Msi, Msix, Pcie
from ioas.uapi import vfio
from tests.support.vfio_client import (
    EVENTFD,
    INTX,
    MSI,
    MSIX,
    NONE,
    TRIGGER,
    UNMASK,
    Client,
    bound,
    counter,
    eventfds,
    refused,
    running,
)

IOVA = 0x100000


class Busy(Function):
    """Writes to memory and interrupts, again and again, from the moment it is told to."""

    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (Msi(1), Msix(4, 1), Pcie(flr=True))
    window = Bar(0, 4096)
    table = Bar(1, 4096)
    go = window.register(0)

    @go.on_write
    def _go(self, value: int) -> None:
        self.after(0, self._tick)

    def _tick(self) -> None:
        self.dma.write(IOVA, b"\x5a" * 256)
        self.interrupt(0)
        self.after(0, self._tick)


@pytest.fixture(autouse=True)
def stacks_of_a_deadlock() -> Iterator[None]:
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, 1 << 16)


@pytest.mark.parametrize("index", [INTX, MSI, MSIX])
def test_interrupts_are_set_up_changed_and_torn_down_under_fire(index: int) -> None:
    events = eventfds(2)
    with bound(Busy()) as client:
        client.set_bar(0, 1)
        for _ in range(50):
            client.trigger(index, events[0])
            client.trigger(index, events[1])
            if index == INTX:
                client.set_irqs(NONE | UNMASK, INTX)
            client.trigger(index, -1)
            client.disable(index)
        client.trigger(index, events[0])
        while not counter(events[0]):
            os.sched_yield()
    for event in events:
        os.close(event)


def test_a_device_is_bound_reset_and_closed_under_fire() -> None:
    (event,) = eventfds(1)
    with bound(Busy()) as client:
        for _ in range(20):
            client.trigger(MSIX, event)
            client.set_bar(0, 1)
            client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)
            client.set_bar(0, 1)
            fresh = client.open("/dev/vfio/devices/vfio0")
            client.device.close()
            counter(event)
            assert counter(event) == 0  # closed: nobody signals any more
            client.bind(fresh)
            client.device = fresh
            client.set_config(4, 2, 6)
    os.close(event)


def test_calls_from_several_threads_on_one_file_neither_deadlock_nor_break() -> None:
    events = eventfds(4)
    wrong: list[BaseException] = []

    def storm(client: Client, event: int, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                for attempt in (
                    lambda: client.trigger(INTX, event),
                    lambda: client.set_irqs(NONE | UNMASK, INTX),
                    lambda: client.trigger(MSIX, event),
                    lambda: client.read(0, 8),
                    lambda: client.set_config(4, 2, 6),
                    lambda: client.device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0),
                    lambda: client.disable(MSIX),
                    lambda: client.disable(INTX),
                ):
                    with contextlib.suppress(KernelError):
                        attempt()
        except BaseException as error:
            wrong.append(error)

    with bound(Busy()) as client:
        client.set_bar(0, 1)
        stop = threading.Event()
        threads = [threading.Thread(target=storm, args=(client, event, stop)) for event in events]
        for thread in threads:
            thread.start()
        stop.wait(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        client.set_bar(0, 1)
    assert wrong == []
    for event in events:
        os.close(event)


def test_attach_and_detach_under_fire_stop_dma_when_they_return(memory: mmap.mmap) -> None:
    with bound(Busy()) as client:
        address = client.caller.register(memory)
        ioas = client.ioas()
        client.map(ioas, address, 4096, IOVA)
        client.set_bar(0, 1)
        for _ in range(30):
            client.attach(ioas)
            while memory[:256] != b"\x5a" * 256:
                os.sched_yield()
            client.detach()
            memory[:256] = bytes(256)
            client.read(0, 4)
            assert memory[:256] == bytes(256)


class ClosesMeanwhile:
    """A caller one of whose other threads closes the device file while the kernel copies the first structure in."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.memory = self

    def __getattr__(self, name: str) -> object:
        return getattr(self._client.caller, name)

    def read(self, address: int, length: int) -> bytes:
        self._client.device.close()
        return self._client.caller.memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        self._client.caller.memory.write(address, data)


def closing_calls(client: Client, event: int) -> dict[str, tuple[int, bytes]]:
    irqs = vfio.vfio_irq_set(argsz=24, flags=EVENTFD | TRIGGER, index=MSI, count=1)
    wakeup = vfio.vfio_device_low_power_entry_with_wakeup(wakeup_eventfd=event)
    flags = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
    feature = vfio.vfio_device_feature(argsz=16, flags=flags)
    ioevent = vfio.vfio_device_ioeventfd(argsz=32, flags=4, offset=0, fd=event)
    attach = vfio.vfio_device_attach_iommufd_pt(argsz=12, pt_id=client.ioas())
    return {
        "irqs": (vfio.VFIO_DEVICE_SET_IRQS, bytes(irqs) + event.to_bytes(4, "little")),
        "feature": (vfio.VFIO_DEVICE_FEATURE, bytes(feature) + bytes(wakeup)),
        "ioevent": (vfio.VFIO_DEVICE_IOEVENTFD, bytes(ioevent)),
        "attach": (vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, bytes(attach)),
        "detach": (vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, bytes(vfio.vfio_device_detach_iommufd_pt(argsz=8))),
        "hot reset": (vfio.VFIO_DEVICE_PCI_HOT_RESET, bytes(vfio.vfio_pci_hot_reset(argsz=12))),
    }


@pytest.mark.parametrize("call", ["irqs", "feature", "ioevent", "attach", "detach", "hot reset"])
def test_a_call_whose_file_is_closed_meanwhile_does_nothing(call: str) -> None:
    """In the kernel the call holds the file open; here it finds the file closed, and takes hold of nothing."""
    (event,) = eventfds(1)
    with bound(Busy()) as client:
        request, structure = closing_calls(client, event)[call]
        with refused(EBADF):
            client.device.ioctl(ClosesMeanwhile(client), request, client.caller.register(bytearray(structure)))
        assert "eventfds" not in client.host.leaks()
    os.close(event)


def test_a_bind_whose_file_is_closed_meanwhile_leaves_the_device_to_others() -> None:
    with running(Busy()) as client:
        structure = bytearray(vfio.vfio_device_bind_iommufd(argsz=24, iommufd=client.iommu_fd))
        with refused(EBADF):
            client.device.ioctl(
                ClosesMeanwhile(client), vfio.VFIO_DEVICE_BIND_IOMMUFD, client.caller.register(structure)
            )
        client.device = client.open("/dev/vfio/devices/vfio0")
        assert client.bind()


@pytest.mark.parametrize("call", ["read", "write", "reset"])
def test_a_call_that_waits_for_the_device_while_its_file_is_closed_does_nothing(call: str) -> None:
    with bound(Busy()) as client:
        device, wrong, started = client.device, [], threading.Event()

        def late() -> None:
            started.set()
            try:
                if call == "reset":
                    device.ioctl(client.caller, vfio.VFIO_DEVICE_RESET, 0)
                elif call == "read":
                    device.read(client.caller, 4, 0)
                else:
                    device.write(client.caller, bytes(4), 0)
            except KernelError as error:
                wrong.append(error.errno)

        other = threading.Thread(target=late)
        with client.host.system.lock, client.host.devices["0000:01:00.0"].lock:
            other.start()
            started.wait()
            other.join(0.1)
            device.close()
            client.device = client.open("/dev/vfio/devices/vfio0")
            client.bind()
        other.join()
        assert wrong == [EBADF]
