"""IOMMU groups: which functions cannot be kept apart.

Follows pci_device_group, pci_acs_enabled and pci_acs_path_enabled (drivers/iommu/iommu.c and drivers/pci/pci.c, 7.3)
for the topologies that exist here: root ports on the root bus and endpoints behind them. DMA aliases (PCIe-to-PCI
bridges, quirks) do not occur.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ioas.soft.pci import header
from ioas.soft.pci.capabilities import Acs, Pcie, acs, pcie

if TYPE_CHECKING:
    from ioas.soft.iommu import Group
    from ioas.soft.pci.function import Function


def is_multifunction(function: Function) -> bool:
    """Whether the header says that the slot has several functions."""
    return bool(function.config.get(header.HEADER_TYPE, 1) & header.MULTIFUNCTION)


def acs_enabled(function: Function, services: int = acs.ISOLATING) -> bool:
    """Whether `services` keep this function's traffic apart from that of its neighbours.

    Conventional functions: never. Ports: by their ACS structure. Endpoints: by it when multifunction, else always.
    """
    express = function.find(Pcie)
    if express is None:
        return False
    if express[0].port_type == pcie.ROOT_PORT or is_multifunction(function):
        return _flags_enabled(function, services)
    return True


def _flags_enabled(function: Function, services: int) -> bool:
    placed = function.find(Acs)
    if placed is None:
        return False
    offset = placed[1]
    # A service that is not in the capability register is hard-wired on, except egress control.
    wanted = services & (function.config.get(offset + acs.CAPABILITY, 2) | acs.EGRESS_CONTROL)
    return function.config.get(offset + acs.CONTROL, 2) & wanted == wanted


def acs_path_enabled(function: Function, services: int = acs.ISOLATING) -> bool:
    """Whether `acs_enabled` holds for `function` and every bridge above it."""
    above: Function | None = function
    while above is not None:
        if not acs_enabled(above, services):
            return False
        above = above.place.bus.port
    return True


def shared_group(function: Function, groups: Mapping[Function, Group]) -> Group | None:
    """The group among `groups` that `function` must join; None when it gets one of its own."""
    top = function
    while (port := top.place.bus.port) is not None and not acs_path_enabled(port):
        top = port
        if port in groups:
            return groups[port]
    if top in groups:
        return groups[top]
    return _group_of_slot(top, groups)


def _group_of_slot(function: Function, groups: Mapping[Function, Group]) -> Group | None:
    """Functions of one slot that nothing isolates share a group."""
    if not is_multifunction(function) or acs_enabled(function):
        return None
    for sibling in function.place.bus.functions.values():
        same_slot = sibling.bdf.device == function.bdf.device
        if sibling is not function and same_slot and not acs_enabled(sibling) and sibling in groups:
            return groups[sibling]
    return None
