"""Virtual functions of SR-IOV: `VirtualFunction` is what the model of one is written against.

A VF has a routing id, BARs, messages and DMA of its own; ids, memory decoding and the place of its BARs are its PF's
(PCI Express Base 6.0, 9.3.4). Its registers of configuration space that are then of no use read as the specification
wants: ids as ones, BARs and the command register (but for bus mastering) as zeros. PF and VFs are one device: they
share its lock, so models of both may call each other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ioas.errors import UsageError
from ioas.soft.pci import header
from ioas.soft.pci.address import Bdf
from ioas.soft.pci.capabilities import SrIov, sriov
from ioas.soft.pci.failure import RAISED, ModelError
from ioas.soft.pci.function import Function
from ioas.soft.pci.resets import power_state

if TYPE_CHECKING:
    from ioas.soft.pci.topology import Topology

_NO_ID = 0xFFFF


class VirtualFunction(Function):
    """One VF. Subclasses are declared as `SrIov(vf=...)` of their PF; they have no options and no INTx."""

    has_command_memory: ClassVar[bool] = False

    def __init__(self, /, physical: Function, index: int) -> None:
        """The VF `index` (from 0) of `physical`."""
        self.physical = physical
        self.index = index
        super().__init__()

    def _make_lock(self) -> threading.RLock:
        return self.physical.lock

    def _declare_identity(self) -> None:
        header.declare_common(self.config, _NO_ID, _NO_ID, self.revision_id, self.class_code, 0)
        self.config.declare(header.COMMAND, 2, 0, writable=header.COMMAND_MASTER)

    def _install_bars(self) -> None:
        """They are the PF's to place."""

    def bar_address(self, index: int) -> int:
        """The bus address of BAR `index` now. Raises ValueError when there is none."""
        bar = self.bar(index)
        capability, offset = _capability_of(self.physical)
        window = next(each for each in capability.windows(offset) if each.index == bar.index)
        return window.address(self.physical.config) + self.index * bar.size

    @property
    def memory_enabled(self) -> bool:
        """VF Enable and VF Memory Space Enable of the PF are set; both functions are in D0 and alive."""
        if self.failure is not None or self.physical.failure is not None:
            return False
        wanted = sriov.VF_ENABLE | sriov.VF_MEMORY
        control = self.physical.config.get(_capability_of(self.physical)[1] + sriov.CONTROL, 2)
        return control & wanted == wanted and not power_state(self) and not power_state(self.physical)

    @property
    def io_enabled(self) -> bool:
        """Never: VFs have no I/O ports."""
        return False


class _Placed(NamedTuple):
    capability: SrIov
    offset: int


def _capability_of(physical: Function) -> _Placed:
    placed = physical.find(SrIov)
    if placed is None:
        raise UsageError(f"{physical} has no virtual functions")
    return _Placed(*placed)


def address_of(physical: Function, index: int) -> Bdf:
    """The address of VF `index` (pci_iov_virtfn_devfn)."""
    capability = _capability_of(physical).capability
    bdf = physical.bdf
    devfn = bdf.devfn + capability.offset + capability.stride * index
    return Bdf(bdf.domain, bdf.bus, devfn >> 3, devfn & 7)


def enable(topology: Topology, physical: Function, count: int) -> Sequence[VirtualFunction]:
    """Let the first `count` VFs appear, with decoding on, as sriov_enable (7.3) does. There must be none yet.

    Raises ModelError, with nothing changed, when the model of one cannot be made.
    """
    capability, offset = _capability_of(physical)
    functions = [_made(capability.vf, physical, index) for index in range(count)]
    physical.config.write(offset + sriov.NUM_VFS, count.to_bytes(2, "little"))
    _control(physical, offset, sriov.VF_ENABLE | sriov.VF_MEMORY)
    for function in functions:
        topology.arrive(function, address_of(physical, function.index), physical)
        physical.virtual_functions.append(function)
    return functions


def _made(kind: type[VirtualFunction], physical: Function, index: int) -> VirtualFunction:
    try:
        return kind(physical, index)
    except RAISED as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"the model of VF {index} of {physical} cannot be made: {reason}") from error


def remove(topology: Topology, function: VirtualFunction) -> None:
    """Let `function`, which nobody uses any more, disappear; the last one turns VFs off (sriov_disable)."""
    physical = function.physical
    topology.depart(function)
    physical.virtual_functions.remove(function)
    if not physical.virtual_functions:
        offset = _capability_of(physical).offset
        _control(physical, offset, 0)
        physical.config.write(offset + sriov.NUM_VFS, bytes(2))


def _control(physical: Function, offset: int, wanted: int) -> None:
    changed = sriov.VF_ENABLE | sriov.VF_MEMORY
    value = physical.config.get(offset + sriov.CONTROL, 2) & ~changed | wanted
    physical.config.write(offset + sriov.CONTROL, value.to_bytes(2, "little"))
