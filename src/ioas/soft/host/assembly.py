"""Putting a machine together from its description: the units, the devices in their slots, the groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ioas.errors import MachineError, UsageError
from ioas.soft.host.description import NO_UNIT, VFIO_PCI, DeviceDescription, MachineDescription, UnitDescription
from ioas.soft.host.models import load_model
from ioas.soft.iommu import ReservedRegion, System, Traits, Unit, amd_unit, vtd_unit
from ioas.soft.pci import Function, Topology


class Assembly(NamedTuple):
    """A machine's hardware, and who drives what vfio-pci does not have at first."""

    topology: Topology
    others: Mapping[str, str]
    """By BDF: a driver's name, or "none"."""


def assemble(system: System, description: MachineDescription) -> Assembly:
    """Build what `description` says into `system`.

    Raises UsageError, MachineError for devices of a machine file: unknown model or option, busy or impossible address.
    """
    units = {each.name or "": _make_unit(system, each) for each in description.units}
    system.allow_unsafe_interrupts(description.allow_unsafe_interrupts)
    topology = Topology(system, next(iter(units.values()), None))
    reserved: dict[Function, tuple[ReservedRegion, ...]] = {}
    drivers: dict[Function, str] = {}
    # Devices with an address of their own take it first, so that those without do not stand in their way.
    for device in sorted(description.devices, key=lambda each: each.address is None):
        function = _plug(topology, device, units)
        reserved[function] = device.reserved
        drivers[function] = device.driver
    topology.settle()
    others = {str(function.bdf): driver for function, driver in drivers.items() if driver != VFIO_PCI}
    for function, regions in reserved.items():
        function.requester.direct_regions.extend(regions)
    return Assembly(topology, others)


def _make_unit(system: System, each: UnitDescription) -> Unit:
    traits = Traits(
        page_sizes=None if each.page_sizes is None else sum(each.page_sizes),
        interrupt_remapping=each.interrupt_remapping,
        force_aperture=each.force_aperture,
        reserved=each.reserved,
        dirty_tracking=each.kind == "amd" if each.dirty_tracking is None else each.dirty_tracking,
    )
    if each.kind == "amd":
        return amd_unit(system, each.name or "ivhd0", address_width=each.address_width, traits=traits)
    return vtd_unit(
        system,
        each.name or "dmar0",
        address_width=each.address_width,
        scalable=each.scalable,
        snoop_control=each.snoop_control,
        traits=traits,
    )


def _plug(topology: Topology, device: DeviceDescription, units: Mapping[str, Unit]) -> Function:
    try:
        function = device.function or _make(device)
        unit: Unit | Literal["first"] | None = "first"
        if device.unit is not None:
            unit = None if device.unit == NO_UNIT else units[device.unit]
        topology.plug(function, device.address, acs=device.acs, unit=unit)
    except UsageError as error:
        kind = MachineError if device.in_file else UsageError
        raise kind(f"{device.origin}: {error}") from None
    return function


def _make(device: DeviceDescription) -> Function:
    try:
        return load_model(device.model).create(device.options)
    except UsageError:
        raise
    except Exception as error:  # the model's own code
        raise UsageError(f"the model failed while it was made: {type(error).__name__}: {error}") from error
