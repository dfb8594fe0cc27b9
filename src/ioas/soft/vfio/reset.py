"""Resets of one function: VFIO_DEVICE_RESET, and what opening, closing and FLR bits set off (7.3).

As pci_try_reset_function: configuration space is kept, the function interrupts no more, is reset, and its
configuration space is put back; so a program finds BARs, command register and MSI as it left them.
"""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.config_hooks import COMMAND, COMMAND_INTX_DISABLE

if TYPE_CHECKING:
    from ioas.soft.pci import Function
    from ioas.soft.vfio.cdev import Cdev


def reset(file: Cdev, argument: Argument, _: None) -> int:
    """VFIO_DEVICE_RESET. Raises KernelError(EINVAL) when nothing resets this function alone."""
    device = file.device
    with device.lock:
        if not device.reset_works:
            raise refuse(EINVAL, "the function has no way to be reset by itself", "device", device.name)
        device.power.change(0)
        device.function_reset()
    return 0


def reset_function(function: Function) -> bool:
    """Reset by the function's first method, keeping its configuration; False when it has none."""
    methods = function.reset_methods
    if not methods:
        return False
    saved = function.config.snapshot()
    function.config.write(COMMAND, COMMAND_INTX_DISABLE.to_bytes(2, "little"))
    function.reset_by(methods[0])
    function.config.restore(saved)
    return True
