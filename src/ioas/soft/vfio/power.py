"""Power: the PCI power states that a program sets, and VFIO's low-power feature.

A program writes the state into the power management capability; VFIO carries it out, and puts configuration space
back when the function comes out of D3hot with its registers lost (vfio_pci_set_power_state, 7.3). Low power by
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY lasts until it is left or, with a wake-up eventfd, until the next access.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import EventFd
from ioas.soft.vfio import permissions as rules

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice

D0, D1, D2, D3HOT = range(4)
_CONTROL = 4
_NO_SOFT_RESET = 0x8
_SUPPORT = {D1: 0x200, D2: 0x400}
"""Bits of the capabilities register that say which of the optional states exist."""


class Power:
    """The power of one device."""

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self._capability = device.function.config.find(rules.PM)
        self.state = D0
        self._before_sleep: bytes | None = None
        self._engaged = False
        self._asleep = False
        self._wakeup: EventFd | None = None
        self._unmask_on_wake = False

    def change(self, state: int) -> None:
        """Go to D0, D1, D2 or D3hot (0-3), as far as the function can; what it cannot do is ignored, as in 7.3."""
        start = self._capability
        config = self._device.function.config
        if start is None or state == self.state or not self._possible(state, config.get(start + 2, 2)):
            return
        if state > D0 and self._device.has_virtual:
            return  # EBUSY within the kernel, which nobody is told
        control = config.get(start + _CONTROL, 2)
        loses = not control & _NO_SOFT_RESET
        if state == D3HOT and loses:
            self._before_sleep = config.snapshot()
        wanted = (control & ~3 | state).to_bytes(2, "little")
        config.write(start + _CONTROL, wanted)
        if self.state == D3HOT and state == D0 and self._before_sleep is not None:
            config.restore(self._before_sleep)
            config.write(start + _CONTROL, wanted)  # the one register that a kernel does not put back
            self._before_sleep = None
            self._device.irqs.messages.restore()
        self.state = state

    def _possible(self, state: int, capabilities: int) -> bool:
        if state == D0:
            return True
        return state > self.state and capabilities & _SUPPORT.get(state, 0) == _SUPPORT.get(state, 0)

    def woken_by_reset(self) -> None:
        """A reset leaves the function in D0."""
        self.state, self._before_sleep = D0, None

    def enter(self, wakeup: EventFd | None) -> None:
        """LOW_POWER_ENTRY; the access that ends it signals `wakeup`. Raises KernelError(EINVAL) when engaged."""
        if self._engaged:
            raise refuse(EINVAL, "the device is in low power already", "device", self._device.name)
        self._engaged, self._wakeup = True, wakeup

    def leave(self) -> None:
        """LOW_POWER_EXIT; without entry it does nothing."""
        self._engaged = False
        if self._wakeup:
            self._wakeup.close()
        self._wakeup = None

    @property
    def engaged(self) -> bool:
        """Whether the program has asked for low power."""
        return self._engaged

    @property
    def held_eventfds(self) -> int:
        """1 while an eventfd waits to be signalled by the next access."""
        return int(self._wakeup is not None)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Around every access: wake the device, and let it sleep again if the program wants that."""
        if self._asleep:
            self._wake()
        try:
            yield
        finally:
            if self._engaged:
                self._fall_asleep()

    def _wake(self) -> None:
        with self._device.lock:
            if not self._asleep:
                return
            self._asleep = False
            self._device.function.in_use = True
            self._device.irqs.messages.restore()
            if self._wakeup:
                self._wakeup.signal()
                self.leave()
            if self._unmask_on_wake:
                self._device.irqs.intx.unmask()

    def _fall_asleep(self) -> None:
        """Between accesses the function is suspended, from D0, and INTx masked (vfio_pci_core_runtime_suspend)."""
        with self._device.lock:
            if self._engaged and not self._asleep:
                self._asleep = True
                self.change(D0)
                self._unmask_on_wake = self._device.irqs.intx.mask_if_active()
                self._device.function.in_use = False

    def close(self) -> None:
        """The device is being closed: awake, and in D0."""
        self._asleep = False
        self.leave()
        self.change(D0)
