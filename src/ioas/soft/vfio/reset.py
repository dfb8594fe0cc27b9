"""Resets of one function: VFIO_DEVICE_RESET, and what opening, closing and FLR bits set off (7.3).

As pci_try_reset_function: configuration space is put back afterwards, so a program finds BARs, command register and
messages as it left them.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.pci.resets import secondary_bus_reset, working_methods_of
from ioas.soft.vfio.argument import Argument

if TYPE_CHECKING:
    from ioas.soft.pci import Function
    from ioas.soft.vfio.device_file import DeviceFile


def reset(file: DeviceFile, argument: Argument, _: None) -> int:
    """VFIO_DEVICE_RESET.

    Raises KernelError: EINVAL when nothing resets this function alone; ENOTTY when the function, whose model has
    failed, does not come back.
    """
    device = file.device
    with device.system.lock, file.kept_bound(device.lock):
        if not device.reset_works:
            raise refuse(EINVAL, "the function has no way to be reset by itself", "device", device.name)
        device.power.change(0)
        with device.exports.away():
            came_back = device.function_reset()
        if not came_back:
            reason = "its model has failed, and a reset of the function alone does not bring it back"
            raise refuse(ENOTTY, reason, "device", device.name)
    return 0


def reset_function(function: Function) -> bool:
    """Reset by the function's first method, keeping its configuration; False when it has none that works."""
    if not working_methods_of(function):
        return False
    function.reset_by()
    return function.failure is None


def reset_bus(functions: Sequence[Function]) -> None:
    """Reset all `functions` of one bus by the port above it, keeping their configurations (pci_reset_bus)."""
    port = functions[0].place.bus.port
    if port is None:
        return
    controllers = [function.interrupts.msix for function in functions if function.interrupts.msix]
    tables = [(messages, messages.snapshot()) for messages in controllers]
    configurations = [(function.config, function.config.snapshot()) for function in functions]
    secondary_bus_reset(port)
    for messages, table in tables:
        messages.restore(table)
    for config, configuration in configurations:
        config.restore(configuration)
