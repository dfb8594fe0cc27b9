"""VFIO_DEVICE_SET_IRQS (follows vfio_set_irqs_validate_and_prepare and vfio_pci_set_irqs_ioctl, 7.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import Caller
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.irqs import KINDS, Irqs
from ioas.uapi import vfio as uapi
from ioas.uapi.base import end_of

if TYPE_CHECKING:
    from ioas.soft.vfio.device_file import DeviceFile

NONE, BOOL, EVENTFD = uapi.VFIO_IRQ_SET_DATA_NONE, uapi.VFIO_IRQ_SET_DATA_BOOL, uapi.VFIO_IRQ_SET_DATA_EVENTFD
_DATA_SIZES = {NONE: 0, BOOL: 1, EVENTFD: 4}
_HEADER = end_of(uapi.vfio_irq_set, "count")
_NAMES = ("INTx", "MSI", "MSI-X", "errors", "requests")
"""The interrupt indexes in words."""
_U32_MAX = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class _Order:
    """What the program asks for: interrupts `start` and on of `index`, with a datum each (or none)."""

    caller: Caller
    index: int
    start: int
    count: int
    type: int
    data: tuple[int, ...]


def set_irqs(file: DeviceFile, argument: Argument, header: uapi.vfio_irq_set) -> int:
    """Carry out the ioctl. Raises KernelError: EINVAL, ENOTTY, EFAULT, and what eventfds are refused with."""
    device = file.device
    with file.kept_bound(device.lock):
        data_type = _check(header, device.irqs.count(header.index))
        data = argument.read(_HEADER, _DATA_SIZES[data_type] * header.count)
        act = _ACTIONS.get((header.index, header.flags & uapi.VFIO_IRQ_SET_ACTION_TYPE_MASK))
        if act is None:
            name = _NAMES[header.index]
            raise refuse(ENOTTY, f"interrupt index {header.index} ({name}) has no such action", "field", "flags")
        values = struct.unpack(f"={header.count}{'i' if data_type == EVENTFD else 'B'}", data) if data else ()
        order = _Order(argument.caller, header.index, header.start, header.count, data_type, values)
        act(device.irqs, order)
    return 0


def _check(header: uapi.vfio_irq_set, known: int) -> int:
    """The data type, after all checks of ranges and sizes; `known` is how many interrupts the index has."""
    if header.index >= uapi.VFIO_PCI_NUM_IRQS:
        raise refuse(EINVAL, f"interrupt indexes are 0 to {uapi.VFIO_PCI_NUM_IRQS - 1}", "field", "index")
    if header.count >= _U32_MAX - header.start:
        raise refuse(EINVAL, "start and count overflow", "field", "count")
    if header.flags & ~(uapi.VFIO_IRQ_SET_DATA_TYPE_MASK | uapi.VFIO_IRQ_SET_ACTION_TYPE_MASK):
        raise refuse(EINVAL, "unknown flags", "field", "flags")
    name = _NAMES[header.index]
    if header.start >= known or header.start + header.count > known:
        raise refuse(EINVAL, f"the device has {known} interrupts of index {header.index} ({name})", "limit", name)
    data_type = header.flags & uapi.VFIO_IRQ_SET_DATA_TYPE_MASK
    if data_type not in _DATA_SIZES:
        raise refuse(EINVAL, "exactly one of DATA_NONE, DATA_BOOL and DATA_EVENTFD is needed", "field", "flags")
    if header.argsz - _HEADER < header.count * _DATA_SIZES[data_type]:
        raise refuse(EINVAL, f"argsz is {header.argsz}, too small for {header.count} interrupts", "field", "argsz")
    return data_type


def _mask_intx(irqs: Irqs, order: _Order) -> None:
    _one_active_intx(irqs, order)
    if order.type == EVENTFD:
        raise refuse(ENOTTY, "INTx cannot be masked by an eventfd", "field", "flags")
    if order.type == NONE or order.data[0]:
        irqs.intx.mask()


def _unmask_intx(irqs: Irqs, order: _Order) -> None:
    _one_active_intx(irqs, order)
    if order.type == EVENTFD:
        fd = order.data[0]
        irqs.intx.unmask_by(order.caller.eventfd(fd) if fd >= 0 else None)
    elif order.type == NONE or order.data[0]:
        irqs.intx.unmask()


def _one_active_intx(irqs: Irqs, order: _Order) -> None:
    if not irqs.intx.active:
        raise refuse(EINVAL, "INTx is not enabled", "field", "index")
    _one(order)


def _one(order: _Order) -> None:
    if order.start or order.count != 1:
        raise refuse(EINVAL, "there is one INTx: start is 0 and count 1", "field", "count")


def _trigger_intx(irqs: Irqs, order: _Order) -> None:
    intx = irqs.intx
    if intx.active and not order.count and order.type == NONE:
        intx.disable()
        return
    _nothing_else(irqs, order)
    _one(order)
    if order.type == EVENTFD:
        trigger = order.caller.eventfd(order.data[0]) if order.data[0] >= 0 else None
        if intx.active:
            intx.set_trigger(trigger)
        else:
            intx.enable(trigger)
        return
    _only_if_enabled(irqs, order)
    if order.type == NONE or order.data[0]:
        intx.fire()


def _trigger_messages(irqs: Irqs, order: _Order) -> None:
    messages = irqs.messages
    kind = "msix" if order.index == uapi.VFIO_PCI_MSIX_IRQ_INDEX else "msi"
    if messages.kind == kind and not order.count and order.type == NONE:
        messages.disable()
        return
    _nothing_else(irqs, order)
    if order.type == EVENTFD:
        fresh = messages.kind is None
        if fresh:
            messages.enable("msix" if kind == "msix" else "msi", order.start + order.count)
        try:
            messages.set_block(order.caller, order.start, order.data)
        except KernelError:
            if fresh:
                messages.disable()
            raise
        return
    _only_if_enabled(irqs, order)
    for index in range(order.count):
        if order.type == NONE or order.data[index]:
            messages.fire(order.start + index)


def _nothing_else(irqs: Irqs, order: _Order) -> None:
    if irqs.kind not in (None, KINDS[order.index]):
        raise refuse(EINVAL, f"{irqs.kind} is enabled; it must be disabled first", "field", "index")


def _only_if_enabled(irqs: Irqs, order: _Order) -> None:
    if irqs.kind != KINDS[order.index]:
        raise refuse(EINVAL, f"{KINDS[order.index]} is not enabled; give it eventfds first", "field", "index")


def _trigger_event(irqs: Irqs, order: _Order) -> None:
    """Errors and requests (vfio_pci_set_ctx_trigger_single, 7.3): set, unset, or signal by hand."""
    event = irqs.events[order.index]
    if order.start or order.count > 1:
        raise refuse(EINVAL, "there is one such interrupt: start is 0 and count at most 1", "field", "count")
    if order.type == NONE:
        if event.trigger is None:
            raise refuse(EINVAL, "no eventfd is set", "field", "index")
        if order.count:
            event.fire()
        else:
            event.replace(None)
        return
    if not order.count:
        raise refuse(EINVAL, "count is 0", "field", "count")
    if order.type == BOOL:
        if order.data[0]:
            event.fire()
    elif order.data[0] >= -1:
        event.replace(order.caller.eventfd(order.data[0]) if order.data[0] >= 0 else None)
    else:
        raise refuse(EINVAL, "an eventfd is a descriptor, or -1 for none", "field", "data")


_ACTIONS: dict[tuple[int, int], Callable[[Irqs, _Order], None]] = {
    (uapi.VFIO_PCI_INTX_IRQ_INDEX, uapi.VFIO_IRQ_SET_ACTION_MASK): _mask_intx,
    (uapi.VFIO_PCI_INTX_IRQ_INDEX, uapi.VFIO_IRQ_SET_ACTION_UNMASK): _unmask_intx,
    (uapi.VFIO_PCI_INTX_IRQ_INDEX, uapi.VFIO_IRQ_SET_ACTION_TRIGGER): _trigger_intx,
    (uapi.VFIO_PCI_MSI_IRQ_INDEX, uapi.VFIO_IRQ_SET_ACTION_TRIGGER): _trigger_messages,
    (uapi.VFIO_PCI_MSIX_IRQ_INDEX, uapi.VFIO_IRQ_SET_ACTION_TRIGGER): _trigger_messages,
    (uapi.VFIO_PCI_ERR_IRQ_INDEX, uapi.VFIO_IRQ_SET_ACTION_TRIGGER): _trigger_event,
    (uapi.VFIO_PCI_REQ_IRQ_INDEX, uapi.VFIO_IRQ_SET_ACTION_TRIGGER): _trigger_event,
}
"""By index and action; everything else is ENOTTY."""
