"""Resets of one function, as software starts them: function level, by power state, by the bus above.

Each is started through the register that hardware has for it; the function and its root port watch those registers.
Order and conditions follow pci_reset_fn_methods and pci_parent_bus_reset (drivers/pci/pci.c, 7.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ioas.soft.pci import header
from ioas.soft.pci.capabilities import Pcie, PowerManagement, pcie, pm

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

ResetMethod = Literal["flr", "pm", "bus"]


def power_state(function: Function) -> int:
    """0 for D0 (and for functions without power management) to 3 for D3hot."""
    placed = function.find(PowerManagement)
    return function.config.get(placed[1] + pm.CONTROL, 2) & pm.STATE_MASK if placed else pm.D0


def methods_of(function: Function) -> Sequence[ResetMethod]:
    """The methods that reset `function` and nothing else, in the kernel's order."""
    methods: list[ResetMethod] = []
    if (express := function.find(Pcie)) and express[0].flr:
        methods.append("flr")
    if (power := function.find(PowerManagement)) and not power[0].no_soft_reset:
        methods.append("pm")
    bus = function.place.bus
    if bus.port is not None and len(bus.functions) == 1:
        methods.append("bus")
    return tuple(methods)


def working_methods_of(function: Function) -> Sequence[ResetMethod]:
    """Those of `methods_of` that the function hears: a dead one hears its bus alone, for the other bits stand in it."""
    methods = methods_of(function)
    return methods if function.failure is None else tuple(each for each in methods if each == "bus")


def carry_out(function: Function, method: ResetMethod | None) -> None:
    """Save configuration, quiesce, reset, restore. Not to be called with the function's lock held.

    Without a method the first that works is taken, as the kernel goes on where a function does not come back. A bus
    reset takes the port's lock before the function's; holding the function's already could deadlock with another reset
    of the same bus.
    """
    available = working_methods_of(function)
    chosen = method if method is not None else next(iter(available), None)
    if chosen is None or chosen not in available:
        raise ValueError(f"{function} has no reset method {method or 'at all'}")
    with function.lock:
        saved = function.config.snapshot()  # of a dead function too: what it held when it died
        table = function.interrupts.msix.snapshot() if function.interrupts.msix else b""
        function.config.write(header.COMMAND, header.COMMAND_INTX_DISABLE.to_bytes(2, "little"))
    _STARTS[chosen](function)
    with function.lock:
        if function.interrupts.msix:
            function.interrupts.msix.restore(table)
        function.config.restore(saved)


def _start_flr(function: Function) -> None:
    placed = function.find(Pcie)
    if placed:
        _change(function, placed[1] + pcie.DEVICE_CONTROL, pcie.INITIATE_FLR, pcie.INITIATE_FLR)


def _start_pm(function: Function) -> None:
    placed = function.find(PowerManagement)
    if placed:
        for state in (pm.D3HOT, pm.D0):
            _change(function, placed[1] + pm.CONTROL, pm.STATE_MASK, state)


def _start_bus(function: Function) -> None:
    port = function.place.bus.port
    if port is not None:
        secondary_bus_reset(port)


def secondary_bus_reset(port: Function) -> None:
    """Reset everything behind a root port, by the bit of its bridge control register."""
    for value in (header.BRIDGE_CONTROL_BUS_RESET, 0):
        _change(port, header.BRIDGE_CONTROL, header.BRIDGE_CONTROL_BUS_RESET, value)


def _change(function: Function, offset: int, mask: int, value: int) -> None:
    with function.lock:
        word = function.config.get(offset, 2) & ~mask | value
        function.config.write(offset, word.to_bytes(2, "little"))


_STARTS: dict[ResetMethod, Callable[[Function], None]] = {"flr": _start_flr, "pm": _start_pm, "bus": _start_bus}
