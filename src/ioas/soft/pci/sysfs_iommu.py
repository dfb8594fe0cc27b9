"""IOMMU groups and units in sysfs (formats: drivers/iommu/iommu.c, intel/iommu.c and amd/init.c, 7.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ioas.soft.pci.function import Function
from ioas.soft.pci.nodes import Text, Tree
from ioas.soft.pci.sysfs_function import path_of
from ioas.soft.pci.topology import Topology

if TYPE_CHECKING:
    from ioas.soft.iommu import Unit

_GROUPS, _UNITS = "/sys/kernel/iommu_groups", "/sys/devices/virtual/iommu"
_VTD_ADDRESS, _VTD_SPACE = 0xFED90000, 0x1000
"""Where the registers of a machine's first VT-d unit lie on QEMU's q35; those of the next ones follow."""


def add_iommu(tree: Tree, topology: Topology) -> None:
    """Add /sys/kernel/iommu_groups, /sys/class/iommu and the links between them and the functions."""
    tree.directory(_GROUPS)
    tree.directory("/sys/class/iommu")
    functions = list(topology.everything())
    for unit in topology.system.units:
        if unit.kind in _DESCRIPTIONS:
            _add_unit(tree, unit, [each for each in functions if each.requester.unit is unit])
    for function in functions:
        _add_membership(tree, function)


def _add_membership(tree: Tree, function: Function) -> None:
    group = function.requester.group
    if group is None:
        return
    directory = f"{_GROUPS}/{group.id}"
    if not group.requesters or group.requesters[0] is function.requester:
        tree.add(f"{directory}/reserved_regions", Text(lambda: _reserved_regions(function)))
        tree.add(f"{directory}/type", Text(b"DMA\n", 0o644))
    tree.link(f"{directory}/devices/{function.bdf}", path_of(function))
    tree.link(f"{path_of(function)}/iommu_group", directory)


def add_noiommu_group(tree: Tree, function: Function) -> None:
    """Show the group that VFIO has made of a function without an IOMMU."""
    directory = _group_of(function)
    for name, text in (("name", b"vfio-noiommu\n"), ("reserved_regions", b"")):
        tree.add(f"{directory}/{name}", Text(text))
    tree.add(f"{directory}/type", Text(b"unknown\n", 0o644))
    tree.link(f"{directory}/devices/{function.bdf}", path_of(function))
    tree.link(f"{path_of(function)}/iommu_group", directory)


def remove_noiommu_group(tree: Tree, function: Function) -> None:
    """Show it no more."""
    tree.remove(_group_of(function))
    tree.remove(f"{path_of(function)}/iommu_group")


def _group_of(function: Function) -> str:
    group = function.requester.group
    return f"/sys/kernel/iommu_groups/{group.id if group is not None else ''}"


def _reserved_regions(function: Function) -> bytes:
    """The regions of all members of the function's group, each once, by address."""
    group = function.requester.group
    regions = {
        region
        for requester in (group.requesters if group is not None else ())
        if requester.unit is not None
        for region in requester.unit.reserved_regions(requester)
    }
    return "".join(f"{start:#018x} {last:#018x} {kind}\n" for start, last, kind in sorted(regions)).encode()


def _add_unit(tree: Tree, unit: Unit, functions: Sequence[Function]) -> None:
    path = f"{_UNITS}/{unit.name}"
    for function in functions:
        _link_to_unit(tree, path, function)
    directory, attributes = _DESCRIPTIONS[unit.kind](unit, functions)
    for name, value in attributes.items():
        tree.add(f"{path}/{directory}/{name}", Text(f"{value}\n".encode()))
    tree.link(f"{path}/subsystem", "/sys/class/iommu")
    tree.add(f"{path}/uevent", Text(b"", 0o644))
    tree.link(f"/sys/class/iommu/{unit.name}", path)


def _link_to_unit(tree: Tree, path: str, function: Function) -> None:
    tree.link(f"{path}/devices/{function.bdf}", path_of(function))
    tree.link(f"{path_of(function)}/iommu", path)


def add_to_iommu(tree: Tree, function: Function) -> None:
    """Show the unit and the group of a function that has appeared."""
    unit = function.requester.unit
    if unit is not None and unit.kind in _DESCRIPTIONS:
        _link_to_unit(tree, f"{_UNITS}/{unit.name}", function)
    _add_membership(tree, function)


def remove_from_iommu(tree: Tree, function: Function) -> None:
    """Show them no more; the group goes with its last function."""
    unit, group = function.requester.unit, function.requester.group
    if unit is not None and unit.kind in _DESCRIPTIONS:
        tree.remove(f"{_UNITS}/{unit.name}/devices/{function.bdf}")
    if group is not None:
        alone = group.requesters == [function.requester]
        tree.remove(f"{_GROUPS}/{group.id}" if alone else f"{_GROUPS}/{group.id}/devices/{function.bdf}")


Description = tuple[str, Mapping[str, str]]


def _describe_vtd(unit: Unit, functions: Sequence[Function]) -> Description:
    """Capability registers as IOMMU_GET_HW_INFO tells them: struct iommu_hw_info_vtd, two u64 from byte 8."""
    info = unit.hw_info(0)[1]
    capability, extended = (int.from_bytes(info[start : start + 8], "little") for start in (8, 16))
    return "intel-iommu", {
        "version": "1:0",
        "address": f"{_VTD_ADDRESS + _VTD_SPACE * unit.alike.index(unit):x}",
        "cap": f"{capability:x}",
        "ecap": f"{extended:x}",
        # VT-d 10.4.2: 2**(4 + 2 * ND) domains, ND in the capability register's lowest bits.
        "domains_supported": str(1 << 4 + 2 * (capability & 7)),
        "domains_used": str(len({id(function.requester.group) for function in functions})),
    }


def _describe_amd(unit: Unit, functions: Sequence[Function]) -> Description:
    """Extended features as IOMMU_GET_HW_INFO tells them: struct iommu_hw_info_amd, two u64 from byte 0."""
    info = unit.hw_info(0)[1]
    features, more = (int.from_bytes(info[start : start + 8], "little") for start in (0, 8))
    return "amd-iommu", {"cap": "0", "features": f"{features:x}:{more:x}"}


_DESCRIPTIONS: Mapping[str, Callable[[Unit, Sequence[Function]], Description]] = {
    "vtd": _describe_vtd,
    "amd": _describe_amd,
}
