"""`VfioDevice`: a PCI function bound to vfio-pci; one for each function, whoever has it open.

Opening and closing follow vfio_pci_core_enable and vfio_pci_core_disable (7.3): the function is enabled and reset,
its configuration is kept, and closing puts everything back: interrupts off, DMA stopped, reset, detached.

Locks, in the order in which they are taken: `System.lock` (binding, attaching, closing), `VfioDevice.lock`
(configuration space, interrupts, register access), the function's own lock (inside `ioas.soft.pci`). Interrupts come
in under the last one and take no other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from errno import EINVAL, ENOSPC
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.iommufd import Device, bind_device
from ioas.soft.pci import SrIov, VirtualFunction
from ioas.soft.vfio import vf_token
from ioas.soft.vfio.config_hooks import (
    COMMAND,
    COMMAND_INTX_DISABLE,
    COMMAND_IO,
    COMMAND_MASTER,
    COMMAND_MEMORY,
)
from ioas.soft.vfio.config_space import ConfigSpace
from ioas.soft.vfio.device_set import DeviceSet
from ioas.soft.vfio.dma_logging import DmaLog
from ioas.soft.vfio.dmabuf import Exports
from ioas.soft.vfio.irqs import Irqs
from ioas.soft.vfio.mapped_memory import MappedMemory
from ioas.soft.vfio.migration import DeviceMigration
from ioas.soft.vfio.noiommu import PREFIX, is_noiommu
from ioas.soft.vfio.power import D3HOT, Power
from ioas.soft.vfio.regions import MsixTable, mappable
from ioas.soft.vfio.reset import reset_bus, reset_function
from ioas.soft.vfio.vf_token import VfToken
from ioas.soft.vfio.virqfd import Watcher

if TYPE_CHECKING:
    from ioas.soft.iommu import System
    from ioas.soft.iommufd import Context
    from ioas.soft.pci import Function
    from ioas.soft.vfio.group import VfioGroup
    from ioas.soft.vfio.ioeventfd import IoEvent
    from ioas.soft.vfio.virqfd import Watch

_log = logging.getLogger(__name__)
_INT_MAX = 0x7FFF_FFFF


class VfioDevice:
    """A function under the vfio-pci driver."""

    def __init__(
        self, system: System, function: Function, index: int, number: tuple[int, int], watcher: Watcher | None = None
    ) -> None:
        """`index` is the N of vfioN; `number` the cdev's (major, minor); `watcher` the machine's, or one of its own."""
        self.system = system
        self.function = function
        self.index = index
        self.number = number
        self.watcher = watcher or Watcher()
        self.lock = threading.RLock()
        self.set = DeviceSet()
        """The devices that one reset of the bus resets, this one among them while vfio-pci has it."""
        self.set.join(self)
        self.on_messages: Callable[[str | None, int], None] = lambda kind, count: None
        """Told when "msi" or "msix" has been enabled with so many vectors, or disabled (None, 0)."""
        self.power = Power(self)
        self.irqs = Irqs(self)
        self.exports = Exports(self)
        self.vf_token: VfToken | None = None
        """Of a PF, while vfio-pci has it."""
        self.physical: VfioDevice | None = None
        """Of a VF: its PF's device, which vfio-pci had when the VF appeared."""
        self.has_virtual = False
        """Whether it has VFs: then it does not sleep."""
        function.guard.listeners.append(lambda failure: self.irqs.function_failed())
        function.on_error.append(self.irqs.function_failed)
        self.migration = DeviceMigration(function)
        self.dma_log = DmaLog(function)
        self.ioeventfds: dict[IoEvent, Watch] = {}
        self.may_be_mapped = False
        """Whether somebody serves mappings of its BARs."""
        self.mapped_memory = MappedMemory(self)
        self.mappable_bars: frozenset[int] = frozenset()
        """BARs that programs may mmap: none, until somebody can serve the mappings (`allow_mmap`)."""
        self.msix_table = MsixTable()
        self.reset_works = False
        self.group: VfioGroup | None = None
        """The group that it can be opened through; None without one."""
        self.files = 0
        """How many of its files are open, bound or not."""
        self.opens = 0
        """How many of them it is open through: more than one by its group alone."""
        self.context: Context | None = None
        self.iommufd: Device | None = None
        """The device object in `context`; None also when the group is in a container of VFIO's own."""
        self._config: ConfigSpace | None = None
        self._saved = b""
        self._attached = False
        self._pasids: set[int] = set()
        self._needs_reset = False

    @property
    def name(self) -> str:
        """The function's address, such as "0000:01:00.0"."""
        return str(self.function.bdf)

    @property
    def noiommu(self) -> bool:
        """Whether no IOMMU stands before it, so that VFIO has it in no-IOMMU mode."""
        return is_noiommu(self.function)

    @property
    def node(self) -> str:
        """The name of its cdev, such as "vfio0"."""
        return f"{PREFIX if self.noiommu else ''}vfio{self.index}"

    @property
    def is_virtual(self) -> bool:
        """Whether the function is a VF."""
        return isinstance(self.function, VirtualFunction)

    def renew_token(self) -> None:
        """vfio-pci has got the function: a PF has a new token, which nobody knows."""
        self.vf_token = VfToken() if self.function.find(SrIov) is not None else None

    @property
    def below_port(self) -> bool:
        """Whether the function stands below a bridge, which can reset its bus."""
        return self.function.place.bus.port is not None

    @property
    def config(self) -> ConfigSpace:
        """The configuration space that the program sees. Only while the device is open."""
        if self._config is None:
            raise refuse(EINVAL, "the device is not open", "device", self.name)
        return self._config

    @property
    def device_id(self) -> int:
        """The id of the device object in the iommufd. Only while the device is open."""
        if self.iommufd is None:
            raise refuse(EINVAL, "the device is not open", "device", self.name)
        return self.iommufd.id

    @property
    def held_eventfds(self) -> int:
        """How many eventfds of programs are held for signalling (those that are waited on are the watcher's)."""
        return self.irqs.held_eventfds + self.power.held_eventfds

    @property
    def memory_enabled(self) -> bool:
        """Whether memory BARs may be touched: by the virtual command register, if that counts, and not in D3hot."""
        if self._config is None or self.power.state >= D3HOT:
            return False
        return not self.function.has_command_memory or bool(self._config.command & COMMAND_MEMORY)

    @property
    def answers_mappings(self) -> bool:
        """Whether loads and stores through mapped BARs reach the function; else a kernel answers them with SIGBUS.

        Follows vfio_pci_vmf_insert_pfn (7.3): memory decoding is on, and the program has not asked for low power.
        """
        config, power = self._config, self.power
        if config is None or power.engaged or power.state >= D3HOT:
            return False
        return bool(config.virtual[4] & COMMAND_MEMORY) or not self.function.has_command_memory

    def allow_mmap(self) -> None:
        """Give BARs the MMAP flag: whoever opens the device can serve loads and stores."""
        self.may_be_mapped = True
        self.mappable_bars = mappable(self)

    def open(self, context: Context | None, *, by_group: bool = False) -> None:
        """Bind to `context` (None: its group has been let into a container) and enable the function, if it is not yet.

        `System.lock` is held. Raises KernelError: EINVAL when it is open already, unless its group is to open it once
        more; EPERM when its IOMMU group has another owner.
        """
        if self.opens and not by_group:
            raise refuse(EINVAL, "the device is bound through another file", "device", self.name)
        if not self.opens:
            self._open_first(context, by_group)
        self.opens += 1

    def _open_first(self, context: Context | None, by_group: bool) -> None:
        # vfio_df_iommufd_bind: without an IOMMU an iommufd in a container's place has nothing to do with the device
        if context is not None and not (by_group and self.noiommu):
            self.iommufd = bind_device(context, self.function.requester)
        self.context = context
        try:
            with self.lock:
                self._enable()
        except BaseException:  # the group must not stay claimed
            self._release()
            raise
        self._count_as_user(1)

    def close(self) -> None:
        """Undo one `open`; the last one undoes all that came after. `System.lock` is held.

        Cannot fail: what does all the same is logged, and everything is given back.
        """
        self.opens -= 1
        if self.opens:
            return
        self._count_as_user(-1)
        try:
            with self.lock:
                self._disable()
        except Exception:
            _log.exception("closing %s failed", self.name)
        finally:
            self._release()

    def block_group(self) -> None:
        """Keep the group from being opened while this cdev is bound. Raises KernelError(EBUSY) while it is open."""
        if self.group is not None:
            self.group.block(self)

    def unblock_group(self) -> None:
        """Undo one `block_group`."""
        if self.group is not None:
            self.group.unblock(self)

    def match_token(self, token: bytes | None) -> None:
        """Whether the VF token that came with an open, if any, is the right one. Raises KernelError: EINVAL, EACCES."""
        vf_token.check(self, token)

    def _count_as_user(self, change: int) -> None:
        """Tell the PF that one of its VFs is open, or no more."""
        if self.physical is not None and self.physical.vf_token is not None:
            self.physical.vf_token.users += change

    def _release(self) -> None:
        """Give the iommufd back what it lent."""
        for pasid in sorted(self._pasids):
            self.detach(pasid)
        self.detach(None)
        if self.iommufd:
            self.iommufd.unbind()
        self.iommufd = self.context = self._config = None
        self.function.in_use = False

    def attach(self, pt_id: int, pasid: int | None) -> int:
        """Attach to `pt_id` or replace what is attached; the page table's id. Raises KernelError as `Device` does."""
        bound = self.iommufd
        if bound is None:
            raise refuse(EINVAL, "the device is not open", "device", self.name)
        if pasid is None:
            page_table = bound.replace(pt_id) if self._attached else bound.attach(pt_id)
            self._attached = True
            return page_table
        if pasid in self._pasids:
            return bound.replace(pt_id, pasid or None)
        if pasid > _INT_MAX:
            raise refuse(ENOSPC, "a PASID has at most 31 bits here", "field", "pasid")
        page_table = bound.attach(pt_id, pasid or None)  # to iommufd PASID 0 is DMA without one (IOMMU_NO_PASID)
        self._pasids.add(pasid)
        return page_table

    def detach(self, pasid: int | None) -> None:
        """Detach, if attached."""
        bound = self.iommufd
        if bound is None:
            return
        if pasid is None:
            if self._attached:
                bound.detach()
            self._attached = False
        elif pasid in self._pasids:
            bound.detach(pasid or None)
            self._pasids.discard(pasid)

    def function_reset(self) -> bool:
        """Reset the function alone; False when it cannot be."""
        if not reset_function(self.function):
            return False
        self.power.woken_by_reset()
        self.irqs.messages.restore()
        return True

    def bus_reset(self) -> None:
        """Reset everything on the function's bus."""
        reset_bus(list(self.function.place.bus.functions.values()))
        for device in self.set.members:
            device.power.woken_by_reset()
            device.irqs.messages.restore()
            device._needs_reset = False

    def _enable(self) -> None:
        config = self.function.config
        self.function.in_use = True
        config.write(COMMAND, (config.get(COMMAND, 2) & ~COMMAND_MASTER | self._decoders()).to_bytes(2, "little"))
        self.reset_works = self.function_reset()
        self._saved = config.snapshot()
        config.write(COMMAND, (config.get(COMMAND, 2) & ~COMMAND_INTX_DISABLE).to_bytes(2, "little"))
        self._config = ConfigSpace(self)
        self.msix_table = MsixTable.of(config)

    def _decoders(self) -> int:
        """The enable bits that the function's BARs need (pci_enable_device)."""
        bars = [bar for bar in self.function.bars if bar is not None]
        return (COMMAND_MEMORY if any(not bar.is_io for bar in bars) else 0) | (
            COMMAND_IO if any(bar.is_io for bar in bars) else 0
        )

    def _disable(self) -> None:
        config = self.function.config
        self.exports.close()
        self.migration.close()
        self.dma_log.stop()
        self._drop_eventfds()
        self.power.close()
        self._clear_master()
        self._config = None
        config.restore(self._saved)
        self._needs_reset = not reset_function(self.function)
        self._clear_master()
        self._reset_bus_if_needed()

    def _drop_eventfds(self) -> None:
        """Nothing of the program's is signalled or waited on from here on."""
        self.irqs.close()
        for watch in self.ioeventfds.values():
            watch.close()
        self.ioeventfds.clear()
        self.power.leave()

    def _clear_master(self) -> None:
        """The function does no DMA of its own from here on."""
        config = self.function.config
        config.write(COMMAND, (config.get(COMMAND, 2) & ~COMMAND_MASTER).to_bytes(2, "little"))

    def _reset_bus_if_needed(self) -> None:
        """A function that cannot be reset alone waits for the last one on its bus (vfio_pci_dev_set_try_reset)."""
        members = self.set.members
        if any(device.opens for device in members if device is not self):
            return
        if any(device._needs_reset for device in members) and self.below_port and self.set.missing(self) is None:
            self.bus_reset()
