"""The five interrupt indexes of a VFIO PCI device: INTx, MSI, MSI-X, errors, and the host's request to let go."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ioas.host import EventFd
from ioas.soft.pci import InterruptKind
from ioas.soft.vfio.intx import Intx
from ioas.soft.vfio.msi import Messages
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice

KINDS: dict[int, InterruptKind] = {
    uapi.VFIO_PCI_INTX_IRQ_INDEX: "intx",
    uapi.VFIO_PCI_MSI_IRQ_INDEX: "msi",
    uapi.VFIO_PCI_MSIX_IRQ_INDEX: "msix",
}
"""The indexes of which one at a time can be enabled."""


class Event:
    """An index that only signals: an eventfd or none. The function's lock keeps who signals from who replaces."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.trigger: EventFd | None = None

    def replace(self, trigger: EventFd | None) -> None:
        """Signal `trigger` from now on."""
        with self._lock:
            old, self.trigger = self.trigger, trigger
            if old:
                old.close()

    def fire(self) -> None:
        """Signal the eventfd, if there is one."""
        with self._lock:
            if self.trigger:
                self.trigger.signal()


class Irqs:
    """The interrupts of one device, as VFIO_DEVICE_SET_IRQS sets them up."""

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self.intx = Intx(device)
        self.messages = Messages(device)
        lock = device.function.lock
        self.events = {uapi.VFIO_PCI_ERR_IRQ_INDEX: Event(lock), uapi.VFIO_PCI_REQ_IRQ_INDEX: Event(lock)}

    @property
    def kind(self) -> InterruptKind | None:
        """What is enabled."""
        return "intx" if self.intx.active else self.messages.kind

    def count(self, index: int) -> int:
        """How many interrupts an index has (vfio_pci_get_irq_count, 7.3); 0 for an unknown one."""
        if index == uapi.VFIO_PCI_INTX_IRQ_INDEX:
            return int(bool(self._device.config.interrupt_pin))
        if index in KINDS:
            return self._device.function.interrupts.count(KINDS[index])
        return int(index in self.events)

    def function_failed(self) -> None:
        """The function has fallen off its bus, or its bus has errors (vfio_pci_core_aer_err_detected, 7.3)."""
        self.events[uapi.VFIO_PCI_ERR_IRQ_INDEX].fire()

    def disable(self) -> None:
        """Turn off whatever is enabled."""
        if self.intx.active:
            self.intx.disable()
        self.messages.disable()

    @property
    def held_eventfds(self) -> int:
        """How many eventfds of programs are held for signalling."""
        events = sum(event.trigger is not None for event in self.events.values())
        return events + self.messages.held_eventfds + self.intx.held_eventfds

    def close(self) -> None:
        """The device is being closed: drop every eventfd."""
        self.disable()
        self.intx.forget_disable()
        for event in self.events.values():
            event.replace(None)
