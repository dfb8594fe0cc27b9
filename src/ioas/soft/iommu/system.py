"""What all rooms of one software machine share: locks, memory, units, groups, the record of faults."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from errno import EBUSY, EINVAL, EPERM
from itertools import count
from typing import TYPE_CHECKING, Literal

from ioas.errors import refuse
from ioas.soft.iommu.taint import Taints
from ioas.soft.iommu.types import FaultRecord
from ioas.soft.memory import Accounting, Failures, Memory, Sightings

if TYPE_CHECKING:
    from ioas.soft.iommu.requester import Requester
    from ioas.soft.iommu.unit import Unit

Isolation = Literal["strict", "kernel"]
FAULTS_KEPT = 1024
UNSAFE_INTERRUPTS = ("iommufd", "vfio_iommu_type1")
"""The modules that take devices whose interrupts are not remapped when their parameter says so."""


@dataclass(slots=True)
class Type1Parameters:
    """Parameters of the module vfio_iommu_type1, for containers and mappings to come."""

    dma_entry_limit: int = 65535
    """How many mappings a container has at most."""
    disable_hugepages: bool = False
    """Map every page by itself."""


class System:
    """One software machine.

    `lock` guards object state (iommufd objects, VFIO files, groups); no DMA ever takes it. `isolation` is
    the policy for user DMA behind a unit that does not force DMA through its aperture: "strict" refuses
    it, "kernel" allows it as 7.3 does. `faults` keeps the last 1,024 fault records; `on_fault` are called with each
    new one, on the thread of the DMA, with no transfer open, but as a rule with the lock of the device that did it:
    they must not call back into the machine.
    """

    def __init__(self, isolation: Isolation = "strict", *, low_memory: bool = False) -> None:
        """`low_memory`: pages stand at the lowest physical addresses, for devices that put those on the bus."""
        self.lock = threading.RLock()
        self.attaching = threading.Lock()
        """Guards which domains are attached where; held for the time of a dict entry only."""
        self.failures = Failures()
        self.memory = Memory(self.failures, low=low_memory)
        self.sightings = Sightings(self.memory)
        self.accounting = Accounting()
        self.units: list[Unit] = []
        self.no_iommu: Unit | None = None
        """What makes page tables for devices without an IOMMU, once there is one (`NoIommu.of`)."""
        self.has_noiommu = True
        """The kernel has a no-IOMMU mode (CONFIG_VFIO_NOIOMMU)."""
        self.unsafe_noiommu = False
        """VFIO takes devices without an IOMMU (the kernel's vfio.enable_unsafe_noiommu_mode)."""
        self.taints = Taints()
        self.groups: dict[int, Group] = {}
        self.isolation: Isolation = isolation
        self.unsafe_interrupts: dict[str, bool] = dict.fromkeys(UNSAFE_INTERRUPTS, False)
        """The parameter allow_unsafe_interrupts, by module."""
        self.type1 = Type1Parameters()
        self.faults: deque[FaultRecord] = deque(maxlen=FAULTS_KEPT)
        self.on_fault: list[Callable[[FaultRecord], None]] = []

    def allow_unsafe_interrupts(self, allow: bool) -> None:
        """Set the parameter of all modules that have it."""
        self.unsafe_interrupts.update(dict.fromkeys(UNSAFE_INTERRUPTS, allow))

    def add_group(self, name: str = "") -> Group:
        """A new, empty group with the lowest free id. `name`: for one that no IOMMU makes."""
        with self.lock:
            number = next(n for n in count() if n not in self.groups)
            group = self.groups[number] = Group(self, number, name)
        return group

    def fault(self, record: FaultRecord) -> None:
        """Keep `record` and tell `on_fault`."""
        self.faults.append(record)
        for callback in tuple(self.on_fault):
            callback(record)


class Group:
    """Requesters that cannot be isolated from each other, and who owns their DMA."""

    def __init__(self, system: System, number: int, name: str = "") -> None:
        self.system = system
        self.id = number
        self.name = name
        """What sysfs shows as its name: "vfio-noiommu" for one that VFIO makes of a device without an IOMMU."""
        self.requesters: list[Requester] = []
        self.owner: object | None = None
        self._claims = 0
        self._drivers: dict[str, str] = {}
        """By member: the driver that uses its DMA through the kernel."""

    def claim(self, owner: object) -> None:
        """Take DMA ownership for `owner`; counted, so claim once for each device.

        Raises KernelError: EPERM when it has another owner, EBUSY when it has none and yet a domain is attached,
        EINVAL when firmware wants memory mapped one to one for a member, which a claim would end
        (follows iommu_device_claim_dma_owner and __iommu_device_set_domain, 7.3).
        """
        with self.system.lock:
            if self._claims and self.owner is not owner:
                raise refuse(EPERM, "the group's DMA belongs to somebody else", "device", self._names())
            self._refuse_drivers()
            if not self._claims:
                if any(requester.domains for requester in self.requesters):
                    raise refuse(EBUSY, "the group is attached without an owner", "device", self._names())
                self._refuse_direct()
            self.owner = owner
            self._claims += 1

    def check_interrupts(self, module: str) -> None:
        """Refuse (KernelError(EPERM)) a group whose interrupts are not remapped, unless `module` was told to take it.

        Follows iommu_group_has_isolated_msi and its callers in iommufd_bind_iommu and vfio_iommu_type1_attach_group.
        """
        for requester in self.requesters:
            unit = requester.unit
            if unit is not None and not unit.remaps_interrupts and not self.system.unsafe_interrupts[module]:
                lacking = ", ".join(other.name for other in unit.alike if not other.traits.interrupt_remapping)
                raise refuse(
                    EPERM,
                    f"{requester.name} could send any interrupt: {lacking} does not remap them, and the parameter "
                    f"allow_unsafe_interrupts of {module} is off",
                    "device",
                    lacking,
                )

    def _refuse_drivers(self) -> None:
        for member, driver in self._drivers.items():
            raise refuse(
                EPERM, f"group {self.id} is not viable: the host's driver {driver} has {member}", "device", member
            )

    def _refuse_direct(self) -> None:
        for requester in self.requesters:
            for region in requester.unit.reserved_regions(requester) if requester.unit is not None else ():
                if region.kind == "direct":
                    raise refuse(
                        EINVAL,
                        f"firmware wants {region.start:#x}-{region.last:#x} mapped one to one for {requester.name} at "
                        "all times, and user space's tables would not",
                        "region",
                        f"{region.start:#x}-{region.last:#x}",
                    )

    def claim_whole(self, owner: object) -> None:
        """Take DMA ownership of the group for one owner, once (iommu_group_claim_dma_owner).

        Raises KernelError as `claim`, and EPERM whoever owns it.
        """
        with self.system.lock:
            self._refuse_drivers()
            if self._claims:
                raise refuse(EPERM, "the group's DMA belongs to somebody already", "group", self._names())
            self.claim(owner)

    @property
    def claimed(self) -> bool:
        """Whether anybody owns its DMA, a driver of the machine's own too."""
        return self._claims > 0 or bool(self._drivers)

    def use(self, member: str, driver: str) -> None:
        """A driver of the machine's own gets a member (iommu_device_use_default_domain).

        Raises KernelError(EBUSY) while user space owns the group's DMA.
        """
        with self.system.lock:
            if self._claims:
                raise refuse(EBUSY, f"{driver} cannot have {member}: user space has its group", "group", self._names())
            self._drivers[member] = driver

    def stop_using(self, member: str) -> None:
        """The driver lets go of it (iommu_device_unuse_default_domain)."""
        with self.system.lock:
            self._drivers.pop(member, None)

    def release(self, owner: object) -> None:
        """Undo one claim. Ignored when `owner` is not the owner."""
        with self.system.lock:
            if self._claims and self.owner is owner:
                self._claims -= 1
                if not self._claims:
                    self.owner = None

    def _names(self) -> str:
        return f"group {self.id} ({', '.join(requester.name for requester in self.requesters)})"
