"""The record of what makes a machine untrustworthy (the kernel's taint flags, include/linux/panic.h, 7.3).

Only one thing does here: VFIO's no-IOMMU mode, in which a program has a device that reaches all memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

TAINT_USER = 1 << 6
"""Set on a user's request; "U" in the kernel's messages, 64 in /proc/sys/kernel/tainted."""


class Taint(NamedTuple):
    """One reason: the device's address, and what was done with it."""

    device: str
    reason: str


class Taints:
    """What has tainted a machine, in order. As in the kernel nothing takes it back."""

    def __init__(self) -> None:
        self.record: list[Taint] = []
        self.on_taint: list[Callable[[Taint], None]] = []
        """Called with each new one."""

    @property
    def flags(self) -> int:
        """What /proc/sys/kernel/tainted shows of the machine."""
        return TAINT_USER if self.record else 0

    def add(self, taint: Taint) -> None:
        """The machine is tainted from now on."""
        self.record.append(taint)
        for callback in self.on_taint:
            callback(taint)
