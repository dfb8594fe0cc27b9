"""What a machine is made of, before it is built: the common form of `--device` and of machine files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from ioas.errors import UsageError
from ioas.soft.iommu import ReservedRegion
from ioas.soft.iommu.system import Isolation
from ioas.soft.pci import Bdf, Function, OptionValue

UnitKind = Literal["vt-d", "amd"]
"""The kinds of IOMMU that a machine file can ask for."""

VFIO_PCI = "vfio-pci"
NO_UNIT = "none"

ContainerKind = Literal["vfio", "iommufd", "none"]
"""Who serves /dev/vfio/vfio: VFIO itself (CONFIG_VFIO_CONTAINER), iommufd (CONFIG_IOMMUFD_VFIO_CONTAINER), nobody."""

ADDRESS_WIDTHS = (39, 48, 57)
"""The widths of IOVAs, in bits, that the software units translate."""


@dataclass(frozen=True, slots=True)
class DeviceDescription:
    """One device: the model's name, where it stands (None: the next free slot) and the model's options."""

    model: str
    address: str | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """By name; text from the command line, TOML's types from a machine file. The model checks them."""
    origin: str = "--device"
    """Where it was written, for messages: "--device edu,x=1" or "lab.toml:12"."""
    in_file: bool = False
    """Whether that is a machine file."""
    function: Function | None = None
    """The device itself, when it is made already; then `options` are not looked at."""
    unit: str | None = None
    """The name of the unit before it, or "none"; None: the machine's first."""
    acs: bool = True
    """Whether the root port above it keeps it apart; without, everything on its bus shares a group with the port."""
    driver: str = VFIO_PCI
    """Who has it when the machine starts: "vfio-pci", a driver of the machine's own, or "none"."""
    reserved: tuple[ReservedRegion, ...] = ()
    """What firmware reserves for this device alone."""


@dataclass(frozen=True, slots=True)
class UnitDescription:
    """One IOMMU."""

    kind: UnitKind = "vt-d"
    address_width: int = 48
    """Bits of the IOVAs that it translates."""
    scalable: bool = False
    """VT-d: scalable mode, with PASIDs, and in which programs nest first-stage tables of their own."""
    force_aperture: bool = True
    """False: what lies beyond the aperture passes untranslated, as on hardware that can be bypassed."""
    name: str | None = None
    """As in /sys/class/iommu: "dmar0", "ivhd0"."""
    page_sizes: tuple[int, ...] | None = None
    """In bytes, 4 KiB among them; None: all that its tables can have."""
    snoop_control: bool = True
    """VT-d: whether it can make DMA cache coherent against a device's wish."""
    dirty_tracking: bool | None = None
    """Whether it tells which pages devices have written to; None: on AMD. VT-d: in scalable mode only."""
    interrupt_remapping: bool = True
    """Whether it keeps devices from sending interrupts that are not theirs."""
    reserved: tuple[ReservedRegion, ...] = ()
    """What nobody behind it can map, besides what is so in its architecture."""


@dataclass(frozen=True, slots=True)
class MachineDescription:
    """A whole machine: what `SoftHost` builds."""

    devices: tuple[DeviceDescription, ...] = ()
    units: tuple[UnitDescription, ...] = (UnitDescription(name="dmar0"),)
    """The first one stands before everything that names no other. None at all: a machine without IOMMU."""
    isolation: Isolation = "strict"
    container: ContainerKind = "vfio"
    allow_unsafe_interrupts: bool = False
    """Whether iommufd and VFIO take devices whose interrupts are not remapped (parameter of both modules)."""
    unsafe_noiommu: bool = False
    """VFIO's unsafe mode is on from the start: it takes devices without an IOMMU."""

    @property
    def without_translation(self) -> bool:
        """Whether no unit stands before some device."""
        return not self.units or any(device.unit == NO_UNIT for device in self.devices)

    def with_devices(self, devices: Iterable[DeviceDescription]) -> MachineDescription:
        """The same machine with `devices` added after its own."""
        return replace(self, devices=(*self.devices, *devices))

    def without_iommu(self) -> MachineDescription:
        """The same machine without its IOMMUs, in VFIO's unsafe mode."""
        devices = tuple(replace(device, unit=None) for device in self.devices)
        return replace(self, devices=devices, units=(), unsafe_noiommu=True)


def describe_device(device: str | Function) -> DeviceDescription:
    """A description from what `SoftHost` takes: text for `parse_device`, or a function made by the caller.

    Raises UsageError for anything else.
    """
    if isinstance(device, str):
        return parse_device(device)
    if not isinstance(device, Function):
        raise UsageError(f"a device is a text such as 'edu' or a function such as Edu(), not {device!r}")
    return DeviceDescription(str(device), origin=f"device {device}", function=device)


def parse_device(text: str) -> DeviceDescription:
    """Parse ``MODEL[,addr=BDF][,option=value]...``, for example "edu,addr=0000:05:00.0,dma_mask=0xffffffff".

    Values stay text: the model knows their types. Raises UsageError for an empty model, an item without
    "=", an option given twice or a malformed BDF.
    """
    origin = f"--device {text}"
    model, *items = text.split(",")
    if not model:
        raise UsageError(f"{origin}: the model is missing; write MODEL[,addr=BDF][,option=value]")
    options: dict[str, OptionValue] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not name or not separator:
            raise UsageError(f"{origin}: {item!r} is not option=value")
        if name in options:
            raise UsageError(f"{origin}: {name!r} is given twice")
        options[name] = value
    address = options.pop("addr", None)
    try:
        where = None if address is None else str(Bdf.parse(str(address)))
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from None
    return DeviceDescription(model, where, options, origin)


def check_isolation(text: str) -> Isolation:
    """`text` as an isolation policy. Raises UsageError naming the known ones."""
    match text:
        case "strict" | "kernel":
            return text
        case _:
            raise UsageError(f"isolation is {' or '.join(get_args(Isolation))}, not {text!r}")


def check_container(text: str) -> ContainerKind:
    """`text` as who serves /dev/vfio/vfio. Raises UsageError naming the known ones."""
    match text:
        case "vfio" | "iommufd" | "none":
            return text
        case _:
            raise UsageError(f"container is {', '.join(get_args(ContainerKind))}, not {text!r}")
