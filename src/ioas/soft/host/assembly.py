"""Putting a machine together from its description: the unit, the devices in their slots, the groups."""

from __future__ import annotations

from typing import NamedTuple

from ioas.errors import MachineError, UsageError
from ioas.soft.host.description import DeviceDescription, MachineDescription, UnitDescription
from ioas.soft.host.models import load_model
from ioas.soft.iommu import Geometry, System, Unit, amd_unit, vtd_unit
from ioas.soft.pci import Function, Topology


class Assembly(NamedTuple):
    """A machine's hardware."""

    unit: Unit
    topology: Topology


def assemble(system: System, description: MachineDescription) -> Assembly:
    """Build what `description` says into `system`.

    Raises UsageError, MachineError for devices of a machine file: unknown model or option, busy or impossible address.
    """
    unit = _make_unit(system, description.unit)
    topology = Topology(system, unit)
    # Devices with an address of their own take it first, so that those without do not stand in their way.
    for device in sorted(description.devices, key=lambda each: each.address is None):
        _plug(topology, device)
    topology.settle()
    return Assembly(unit, topology)


def _make_unit(system: System, description: UnitDescription) -> Unit:
    geometry = Geometry(0, (1 << description.address_width) - 1, description.force_aperture)
    if description.kind == "amd":  # its tables have 4 levels always; what is narrower is the aperture
        return amd_unit(system, geometry=geometry)
    return vtd_unit(system, geometry=geometry, address_width=description.address_width, scalable=description.scalable)


def _plug(topology: Topology, device: DeviceDescription) -> None:
    try:
        topology.plug(device.function or _make(device), device.address)
    except UsageError as error:
        kind = MachineError if device.in_file else UsageError
        raise kind(f"{device.origin}: {error}") from None


def _make(device: DeviceDescription) -> Function:
    try:
        return load_model(device.model).create(device.options)
    except UsageError:
        raise
    except Exception as error:  # the model's own code
        raise UsageError(f"the model failed while it was made: {type(error).__name__}: {error}") from error
