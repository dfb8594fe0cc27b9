"""A question to the doctor - may this function be used so? - and what a check finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from ioas.inspect.inventory import Function, Unit, function_of, unit_of
from ioas.inspect.machine import Machine
from ioas.sysfs import IommuGroup, PciDevice

Purpose = Literal["vm", "driver", "noiommu"]
PURPOSES: dict[Purpose, str] = {
    "vm": "a virtual machine",
    "driver": "a driver in user space",
    "noiommu": "a driver in user space, without an IOMMU",
}

Verdict = Literal["ok", "warning", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: a sentence; and when something is wrong, who is to blame, what to do, how to see it.

    `culprit` names a device, file, setting or limit; `remedy` is a sentence; `commands` are to be run as they stand, by
    root; `check` is a command that shows the fact.
    """

    verdict: Verdict
    text: str
    culprit: str | None = None
    remedy: str | None = None
    commands: tuple[str, ...] = ()
    check: str | None = None


class Wanted(NamedTuple):
    """What the program wants: bytes of memory for DMA, bytes of huge pages, IOVA from and to; None: it did not say."""

    memory: int | None = None
    hugepages: int | None = None
    iova: tuple[int, int] | None = None


@dataclass
class Case:
    """A function of a machine, and what it is wanted for."""

    machine: Machine
    bdf: str
    purpose: Purpose
    wanted: Wanted

    @cached_property
    def device(self) -> PciDevice:
        """The function, to be read from."""
        return PciDevice(self.machine.sysfs, self.bdf)

    @cached_property
    def function(self) -> Function:
        """The function, as it was read."""
        return function_of(self.device)

    @property
    def path(self) -> str:
        """Its directory in /sys."""
        return self.device.path

    @cached_property
    def group(self) -> IommuGroup | None:
        """Its group; None when it has none, or only VFIO's own of no-IOMMU mode."""
        number = self.function.group
        return None if number is None or self.is_noiommu else self.machine.sysfs.group(number)

    @property
    def is_noiommu(self) -> bool:
        """Whether VFIO has it in no-IOMMU mode."""
        return self._noiommu_group or (self.function.vfio or "").startswith("noiommu")

    @cached_property
    def _noiommu_group(self) -> bool:
        number = self.function.group
        return self.machine.text(f"/sys/kernel/iommu_groups/{number}/name") == "vfio-noiommu"

    @cached_property
    def siblings(self) -> Sequence[PciDevice]:
        """The other functions of its group."""
        members = self.group.devices if self.group is not None else ()
        return [PciDevice(self.machine.sysfs, bdf) for bdf in members if bdf != self.bdf]

    @cached_property
    def unit(self) -> Unit | None:
        """The IOMMU in front of it."""
        found = [unit for unit in self.machine.sysfs.units() if unit.name == self.function.unit]
        return unit_of(found[0]) if found else None

    @cached_property
    def alike(self) -> Sequence[Unit]:
        """All IOMMUs of the machine of that one's kind: one driver has them."""
        kind = None if self.unit is None else self.unit.kind
        return [unit for unit in map(unit_of, self.machine.sysfs.units()) if unit.kind == kind]

    @property
    def bound(self) -> bool:
        """Whether VFIO has it: vfio-pci, or a driver made for the device ("mlx5_vfio_pci")."""
        return "vfio" in (self.function.driver or "")


Check = Callable[[Case], Finding | None]
"""Looks at one thing; None when it does not concern the case."""


def size(number: int) -> str:
    """Bytes for people: "8 MiB"."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << shift:
            return f"{number / (1 << shift):.4g} {unit}"
    return f"{number} bytes"


def bind_commands(bdf: str, driver: str | None) -> tuple[str, ...]:
    """What gives a function to vfio-pci."""
    path = f"/sys/bus/pci/devices/{bdf}"
    unbind = (f"echo {bdf} > {path}/driver/unbind",) if driver is not None else ()
    return (f"echo vfio-pci > {path}/driver_override", *unbind, f"echo {bdf} > /sys/bus/pci/drivers_probe")
