"""What a machine has for DMA from user space: IOMMU units, groups, PCI functions, who drives them.

`take` reads a machine once; the result is plain data, as JSON the schema "ioas.ls", version 1, that docs/doctor.md
describes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ioas.inspect.machine import Machine
from ioas.sysfs import IommuUnit, PciDevice

SCHEMA, VERSION = "ioas.ls", 1

_CLASSES = {
    0x0101: "IDE", 0x0104: "RAID", 0x0106: "SATA", 0x0107: "SAS", 0x0108: "NVMe", 0x0100: "SCSI", 0x0200: "Ethernet",
    0x0207: "InfiniBand", 0x0280: "network", 0x0300: "VGA", 0x0302: "3D controller", 0x0380: "display",
    0x0401: "audio", 0x0403: "audio", 0x0500: "memory", 0x0600: "host bridge", 0x0601: "ISA bridge",
    0x0604: "PCI bridge", 0x0680: "bridge", 0x0700: "serial", 0x0780: "communication", 0x0805: "SD host",
    0x0806: "IOMMU", 0x0880: "system", 0x0C03: "USB", 0x0C05: "SMBus", 0x0B40: "co-processor", 0x1000: "encryption",
    0x1080: "encryption", 0x1200: "accelerator",
}  # fmt: skip
"""Base class and subclass, from the PCI Code and ID Assignment Specification."""


@dataclass(frozen=True, slots=True)
class Function:
    """A PCI function. Numbers are None where the machine does not tell."""

    bdf: str
    vendor: int | None
    device: int | None
    class_code: int | None
    driver: str | None
    group: int | None
    unit: str | None
    vfio: str | None
    """The name of its VFIO device ("vfio0")."""
    resets: tuple[str, ...]
    numa_node: int | None
    link: str | None
    """Speed and width of its PCI Express link now: "8.0 GT/s PCIe x4"."""

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        return _CLASSES.get((self.class_code or 0) >> 8, "device")

    @property
    def is_bridge(self) -> bool:
        """Whether it is a bridge to another PCI bus."""
        return (self.class_code or 0) >> 8 == 0x0604


@dataclass(frozen=True, slots=True)
class Group:
    """An IOMMU group: its members' BDFs, and the IOVA that nobody can map as (start, last, kind)."""

    number: int
    type: str | None
    functions: tuple[str, ...]
    reserved: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """An IOMMU: what it is, the bits of IOVA that it translates, whether it can remap interrupts; None: not told."""

    name: str
    kind: str
    bits: int | None
    interrupt_remapping: bool | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything, in the order of numbers and addresses."""

    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    functions: tuple[Function, ...]

    def as_json(self) -> dict[str, object]:
        """The same of JSON's types, with the schema's name and version."""
        return {"schema": SCHEMA, "version": VERSION, **asdict(self)}


def take(machine: Machine) -> Inventory:
    """Read the machine. Raises nothing: what cannot be read is missing (`Machine.unreadable` says why)."""
    sysfs = machine.sysfs
    groups = (
        Group(found.number, found.type, found.devices, tuple((*region,) for region in found.reserved))
        for found in sysfs.groups()
    )
    return Inventory(
        tuple(unit_of(found) for found in sysfs.units()),
        tuple(groups),
        tuple(function_of(device) for device in sysfs.devices()),
    )


def function_of(device: PciDevice) -> Function:
    """One function."""
    return Function(
        device.bdf,
        device.vendor,
        device.device,
        device.class_code,
        device.driver,
        device.iommu_group,
        device.iommu,
        device.vfio_device,
        tuple(device.reset_methods),
        device.numa_node,
        _link(device),
    )


def _link(device: PciDevice) -> str | None:
    speed, width = device.text("current_link_speed"), device.text("current_link_width")
    return f"{speed} x{width}" if speed and width else None


def unit_of(unit: IommuUnit) -> Unit:
    """One IOMMU, from the registers that its driver shows.

    VT-d specification 11.4.2 (MGAW, SAGAW) and 11.4.3 (IR); AMD 48882, extended feature register (HATS: levels beyond
    4; 3 stands for none).
    """
    cap, ecap = (_register(unit, name) for name in ("intel-iommu/cap", "intel-iommu/ecap"))
    if cap is not None:
        remaps = None if ecap is None else bool(ecap >> 3 & 1)
        return Unit(unit.name, "VT-d", _second_stage_bits(cap), remaps)
    if any(name.startswith("amd-iommu/") for name in unit.attributes):
        features = _register(unit, "amd-iommu/features")
        levels = 3 if features is None else features >> 10 & 3
        return Unit(unit.name, "AMD-Vi", min(48 + 9 * levels, 64) if levels < 3 else None, None)
    return Unit(unit.name, "IOMMU", None, None)


def _second_stage_bits(cap: int) -> int | None:
    """What both the width and the levels of tables allow (compute_vasz_lg2_ss, 7.3)."""
    width, levels = (cap >> 16 & 0x3F) + 1, cap >> 8 & 0x1F
    for bits, bit in ((57, 3), (48, 2), (39, 1)):
        if width > bits - 9 and levels >= 1 << bit:
            return min(bits, width)
    return None


def has_first_stage(unit: IommuUnit) -> bool:
    """Whether it is VT-d in scalable mode with first stages (11.4.3: SMTS, FSTS), which Linux 7.3 prefers."""
    ecap = _register(unit, "intel-iommu/ecap")
    return ecap is not None and bool(ecap >> 43 & 1 and ecap >> 47 & 1)


def ids(function: Function) -> str:
    """Vendor and device ID as the field writes them: "8086:10c9"."""
    return ":".join("????" if number is None else f"{number:04x}" for number in (function.vendor, function.device))


def _register(unit: IommuUnit, name: str) -> int | None:
    try:
        return int(unit.attributes[name].partition(":")[0], 16)
    except (KeyError, ValueError):
        return None
