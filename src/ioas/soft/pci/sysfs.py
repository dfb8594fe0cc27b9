"""The sysfs of a machine: what /sys would show of its PCI functions, groups, IOMMU, drivers and VFIO devices.

Names, links, modes and formats are those of a Linux 7.3 guest of QEMU with edu behind root ports and intel-iommu.
Values come from the same objects that answer the program: configuration space, groups, the unit. Left out is what
describes the rest of a PC: ACPI nodes, port services, most of run time power management.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ioas.soft.pci.function import Function
from ioas.soft.pci.nodes import Text, Tree
from ioas.soft.pci.ports import RootPortWithoutAcs
from ioas.soft.pci.sysfs_function import add_function, cpu_list, cpu_mask, path_of, uevent
from ioas.soft.pci.sysfs_iommu import add_iommu
from ioas.soft.pci.sysfs_parameters import serve_type1, serve_unsafe_interrupts, serve_unsafe_noiommu
from ioas.soft.pci.topology import Topology

DeviceNumber = tuple[int, int]
"""Major and minor."""


class VfioNode(NamedTuple):
    """A function's VFIO device as sysfs shows it: name "vfio0" and the cdev's device number."""

    name: str
    major: int
    minor: int


_MODULES: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "iommufd": {"allow_unsafe_interrupts": ("N", 0o644)},
    "vfio": {"enable_unsafe_noiommu_mode": ("N", 0o644)},
    "vfio_iommu_type1": {
        "allow_unsafe_interrupts": ("N", 0o644),
        "disable_hugepages": ("N", 0o644),
        "dma_entry_limit": ("65535", 0o644),
    },
    "vfio_pci": {
        "disable_denylist": ("N", 0o444),
        "disable_idle_d3": ("N", 0o644),
        "enable_sriov": ("N", 0o644),
        "nointxmask": ("N", 0o644),
    },
    "pcieportdrv": {},
}
_VERSIONS = {"vfio": "0.3", "vfio_iommu_type1": "0.2"}
_DRIVERS = {"vfio-pci": "vfio_pci", "pcieport": "pcieportdrv"}
"""PCI drivers and their modules."""


def build_sysfs(
    topology: Topology,
    vfio: Mapping[str, VfioNode],
    misc: Mapping[str, DeviceNumber] | None = None,
) -> Tree:
    """A tree with /sys of the settled `topology`.

    `vfio`: BDF text -> its VFIO device (those functions are bound to vfio-pci). `misc`: path below /dev -> device
    number of the nodes that are no device's, such as {"iommu": (10, 258)}. Nodes of /dev and VFIO's groups are the
    caller's to add to the same tree.
    """
    tree = Tree()
    _add_modules(tree)
    serve_unsafe_interrupts(tree, topology.system)
    serve_unsafe_noiommu(tree, topology.system)
    serve_type1(tree, topology.system.type1)
    _add_pci_bus(tree)
    for function in topology.everything():
        driver = "vfio-pci" if str(function.bdf) in vfio else _port_driver(function)
        add_function(tree, function, driver)
        if driver is not None:
            _bind(tree, function, driver)
    _add_bus_directories(tree, topology)
    add_iommu(tree, topology)
    for bdf, node in vfio.items():
        add_vfio_device(tree, topology.functions[bdf], node)
    _add_class_devices(tree, misc or {})
    return tree


def _port_driver(function: Function) -> str | None:
    return "pcieport" if isinstance(function, RootPortWithoutAcs) else None


def _text(value: str, mode: int = 0o444) -> Text:
    return Text(f"{value}\n".encode(), mode)


def _add_modules(tree: Tree) -> None:
    for module, parameters in _MODULES.items():
        tree.directory(f"/sys/module/{module}")
        for name, (value, mode) in parameters.items():
            tree.add(f"/sys/module/{module}/parameters/{name}", _text(value, mode))
        if module in _VERSIONS:
            tree.add(f"/sys/module/{module}/version", _text(_VERSIONS[module]))
        tree.add(f"/sys/module/{module}/uevent", Text(b"", 0o200))


def _add_pci_bus(tree: Tree) -> None:
    bus = "/sys/bus/pci"
    tree.directory(f"{bus}/devices")
    tree.directory(f"{bus}/slots")
    tree.directory("/sys/bus/auxiliary/devices")
    for name in ("drivers_probe", "rescan", "uevent"):
        tree.add(f"{bus}/{name}", Text(b"", 0o200))
    tree.add(f"{bus}/drivers_autoprobe", _text("1", 0o644))
    tree.add(f"{bus}/resource_alignment", Text(b"", 0o644))
    for driver, module in _DRIVERS.items():
        for name in ("bind", "new_id", "remove_id", "uevent", "unbind"):
            tree.add(f"{bus}/drivers/{driver}/{name}", Text(b"", 0o200))
        tree.link(f"{bus}/drivers/{driver}/module", f"/sys/module/{module}")
        tree.link(f"/sys/module/{module}/drivers/pci:{driver}", f"{bus}/drivers/{driver}")


def _bind(tree: Tree, function: Function, driver: str) -> None:
    tree.link(f"/sys/bus/pci/drivers/{driver}/{function.bdf}", path_of(function))


def _add_bus_directories(tree: Tree, topology: Topology) -> None:
    """The pci_bus directory of each bus, below the bridge it belongs to."""
    for bus in topology.buses.values():
        bridge = path_of(bus.port) if bus.port is not None else "/sys/devices/pci0000:00"
        name = f"0000:{bus.number:02x}"
        path = f"{bridge}/pci_bus/{name}"
        tree.link(f"{path}/device", bridge)
        tree.link(f"{path}/subsystem", "/sys/class/pci_bus")
        tree.add(f"{path}/rescan", Text(b"", 0o200))
        tree.add(f"{path}/uevent", Text(b"", 0o644))
        tree.add(f"{path}/cpuaffinity", _text(cpu_mask()))
        tree.add(f"{path}/cpulistaffinity", _text(cpu_list()))
        tree.link(f"/sys/class/pci_bus/{name}", path)
    tree.add("/sys/devices/pci0000:00/uevent", Text(b"", 0o644))


def add_vfio_device(tree: Tree, function: Function, node: VfioNode) -> None:
    """Show the VFIO device of a function that is bound to vfio-pci."""
    path = f"{path_of(function)}/vfio-dev/{node.name}"
    tree.link(f"{path}/device", path_of(function))
    _add_device(tree, path, "vfio-dev", node.name, f"vfio/devices/{node.name}", (node.major, node.minor))


def remove_vfio_device(tree: Tree, function: Function, node: VfioNode) -> None:
    """Show it no more."""
    for path in (
        f"{path_of(function)}/vfio-dev",
        f"/sys/class/vfio-dev/{node.name}",
        f"/sys/dev/char/{node.major}:{node.minor}",
    ):
        tree.remove(path)


def add_vfio_group(tree: Tree, name: str, number: DeviceNumber) -> None:
    """Show a VFIO group, whose node is /dev/vfio/`name`."""
    _add_device(tree, f"/sys/devices/virtual/vfio/{name}", "vfio", name, f"vfio/{name}", number)


def remove_vfio_group(tree: Tree, name: str, number: DeviceNumber) -> None:
    """Show it no more."""
    for path in (
        f"/sys/devices/virtual/vfio/{name}",
        f"/sys/class/vfio/{name}",
        f"/sys/dev/char/{number[0]}:{number[1]}",
    ):
        tree.remove(path)


def _add_class_devices(tree: Tree, misc: Mapping[str, DeviceNumber]) -> None:
    for name in ("vfio", "vfio-dev", "misc"):
        tree.directory(f"/sys/class/{name}")
    for device, number in misc.items():
        name = device.rsplit("/", 1)[-1]
        _add_device(tree, f"/sys/devices/virtual/misc/{name}", "misc", name, device, number)


def _add_device(tree: Tree, path: str, kind: str, name: str, device: str, number: DeviceNumber) -> None:
    """A character device's directory: `dev`, `uevent`, `subsystem`, and the links to it by class and by number."""
    major, minor = number
    tree.add(f"{path}/dev", _text(f"{major}:{minor}"))
    tree.link(f"{path}/subsystem", f"/sys/class/{kind}")
    tree.add(f"{path}/uevent", uevent({"MAJOR": str(major), "MINOR": str(minor), "DEVNAME": device}))
    tree.link(f"/sys/class/{kind}/{name}", path)
    tree.link(f"/sys/dev/char/{major}:{minor}", path)
