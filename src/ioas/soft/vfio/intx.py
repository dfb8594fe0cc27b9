"""INTx: a level that is masked when it is signalled and unmasked by the program (follows vfio_pci_intrs.c, 7.3).

All state is guarded by the function's lock, for the wire becomes active with that lock held. Two reasons for being
masked meet here: `masked` (the interrupt was signalled, or masked by the program) and the virtual INTx disable bit
of the command register, under which nothing is signalled either.
"""

from __future__ import annotations

from errno import EBUSY
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import EventFd

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice
    from ioas.soft.vfio.virqfd import Watch


class Intx:
    """The INTx of one device."""

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self._lock = device.function.lock
        self._wire = device.function.interrupts
        self.active = False
        """Set up by VFIO_DEVICE_SET_IRQS."""
        self.masked = False
        self._disabled = False
        self._trigger: EventFd | None = None
        self._unmasker: Watch | None = None

    def enable(self, trigger: EventFd | None) -> None:
        """Signal `trigger` when the wire becomes active."""
        with self._lock:
            self._trigger = trigger
            self.masked = self._disabled
            self.active = True
            self._wire.mask()  # so that a level asserted before is an edge below
            self._wire.connect("intx", 0, self._raised)
            if not self.masked:
                self._wire.unmask()

    def disable(self) -> None:
        """No more signals; the eventfds are dropped."""
        self.unmask_by(None)
        with self._lock:
            self._wire.connect("intx", 0, None)
            self.active = False
            self._swap(None)

    def set_trigger(self, trigger: EventFd | None) -> None:
        """Signal another eventfd, or none."""
        with self._lock:
            self._swap(trigger)

    def _swap(self, trigger: EventFd | None) -> None:
        old, self._trigger = self._trigger, trigger
        if old:
            old.close()

    @property
    def held_eventfds(self) -> int:
        """1 while an eventfd is signalled."""
        return int(self._trigger is not None)

    def _raised(self) -> None:
        """The wire is active: mask it, so that the program is told once, and tell it."""
        if not self.masked:
            self._wire.mask()
            self.masked = True
            self.fire()

    def fire(self) -> None:
        """Signal the program, unless the virtual disable bit is set."""
        with self._lock:
            if self.active and not self._disabled and self._trigger:
                self._trigger.signal()

    def mask(self) -> None:
        """Mask, asserted or not. Not set up: the hardware's disable bit follows all the same."""
        with self._lock:
            if not self.active:
                self._wire.mask()
            elif not self.masked:
                self._wire.mask()
                self.masked = True

    def mask_if_active(self) -> bool:
        """Mask an INTx that is set up and not masked; whether that changed anything."""
        with self._lock:
            changes = self.active and not self.masked
            if changes:
                self.mask()
            return changes

    def unmask(self) -> None:
        """Unmask; a level that is still asserted is signalled again at once and stays masked."""
        with self._lock:
            if not self.active:
                self._wire.unmask()
            elif self.masked and not self._disabled:
                if self._wire.asserted:
                    self.fire()
                else:
                    self.masked = False
                    self._wire.unmask()

    def unmask_by(self, eventfd: EventFd | None) -> None:
        """Unmask whenever the program signals `eventfd`; None ends that. Raises KernelError(EBUSY): there is one."""
        if eventfd is None:
            watch, self._unmasker = self._unmasker, None
            if watch:
                watch.close()
        elif self._unmasker:
            eventfd.close()
            raise refuse(EBUSY, "INTx is unmasked by another eventfd already", "device", self._device.name)
        else:
            self._unmasker = self._device.watcher.watch(eventfd, self.unmask)

    def disable_virtually(self, disabled: bool) -> None:
        """The program wrote the INTx disable bit of its virtual command register."""
        if disabled == self._disabled:
            return
        self._disabled = disabled
        if disabled:
            self.mask()
        else:
            self.unmask()

    def forget_disable(self) -> None:
        """The device is closed: the virtual disable bit is gone, without any effect."""
        self._disabled = False
