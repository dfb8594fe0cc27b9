"""Virtual functions of a machine: what writing `sriov_numvfs` of a PF does (vfio_pci_core_sriov_configure, 7.3).

VFs appear with vfio-pci as their driver (driver_override), if it has the PF. They disappear one after the other, each
when nobody has it open any more; until then the writer waits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ioas.soft.pci import SrIov, virtual
from ioas.soft.pci.failure import ModelError
from ioas.soft.pci.sysfs_driver import InUse
from ioas.soft.pci.sysfs_parameters import serve_switch
from ioas.soft.pci.sysfs_virtual import add_physical, add_virtual, remove_virtual

if TYPE_CHECKING:
    from ioas.soft.host.binding import Binding
    from ioas.soft.pci import Function, Topology, Tree, VirtualFunction
    from ioas.soft.vfio import VfioDevice

_PARAMETER = "/sys/module/vfio_pci/parameters/enable_sriov"
MakeDevice = Callable[["VirtualFunction"], "VfioDevice"]


class VirtualFunctions:
    """The VFs of all PFs of a machine."""

    def __init__(self, topology: Topology, tree: Tree, binding: Binding, make: MakeDevice) -> None:
        """`make` makes the VFIO device of a function that has appeared, and tells whoever wants to know of it."""
        self._topology = topology
        self._tree = tree
        self._binding = binding
        self._make = make
        self._going: dict[str, Callable[[], bool]] = {}
        """By PF: what tells whether its VFs are gone, while they are to go."""
        self._enabled = any(function.find(SrIov) for function in topology.functions.values())
        """The parameter enable_sriov of vfio-pci: on from the beginning where a function has VFs."""
        serve_switch(tree, _PARAMETER, lambda: self._enabled, self._set_enabled)
        for function in topology.functions.values():
            if add_physical(tree, function, partial(self._store, function)):
                binding.before_removal[str(function.bdf)] = partial(self._begin_to_disable, function)

    def _set_enabled(self, enabled: bool) -> None:
        self._enabled = enabled

    def _store(self, physical: Function, number: int) -> None:
        """What sriov_numvfs_store and vfio_pci_sriov_configure check. Raises OSError: ENOENT, EBUSY, EIO, InUse."""
        with self._topology.system.lock:
            there = len(physical.virtual_functions)
            if number == there:
                return
            device = self._binding.bound(str(physical.bdf))
            if device is None or not self._enabled:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "no driver, or one that enables no VFs")
            if not number:
                ended = self._begin_to_disable(physical)
                if not ended():
                    raise InUse(ended)
            elif there:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"there are {there} VFs already")
            else:
                self._enable(physical, device, number)

    def _enable(self, physical: Function, device: VfioDevice, number: int) -> None:
        with device.lock:
            device.power.change(0)
            device.has_virtual = True
        try:
            functions = virtual.enable(self._topology, physical, number)
        except ModelError as error:
            device.has_virtual = False
            raise OSError(errno.EIO, str(error)) from error
        for function in functions:
            add_virtual(self._tree, function)
            made = self._make(function)
            made.physical = device
            if device.may_be_mapped:
                made.allow_mmap()
            self._binding.add(made)

    def _begin_to_disable(self, physical: Function) -> Callable[[], bool]:
        """Ask whoever has VFs open to close them; what tells whether all are gone, and lets those go that can.

        Whoever wants the same meanwhile waits for the same: the kernel lets them in one after the other (device_lock).
        """
        name = str(physical.bdf)
        if name in self._going:
            return self._going[name]
        left = list(physical.virtual_functions)
        waiting: list[Callable[[], bool]] = []

        def ended() -> bool:
            while left:
                bdf = str(left[0].bdf)
                if not waiting:
                    waiting.append(self._binding.begin_removal(bdf))
                if not waiting[0]():
                    return False
                self._binding.forget(bdf)
                self._remove(left.pop(0))
                waiting.clear()
            if self._going.get(name) is ended:
                del self._going[name]
                self._binding.devices[name].has_virtual = False
            return True

        self._going[name] = ended
        return ended

    def _remove(self, function: VirtualFunction) -> None:
        remove_virtual(self._tree, function)
        virtual.remove(self._topology, function)
