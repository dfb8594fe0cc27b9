"""Errors that a function reports, and what the host does about them (PCI Express Base 6.0, 6.2; pcie/err.c, 7.3).

An uncorrectable error shows in the device status and, with AER, in its status register; unmasked it is a message to the
root port, if software wants to hear of it. The kernel then tells the drivers of all functions on the bus. After a fatal
one, by the severity register, it resets the bus as well and puts nothing back: configuration is lost.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from ioas.soft.pci import header
from ioas.soft.pci.capabilities import Aer, Pcie, aer, pcie
from ioas.soft.pci.resets import secondary_bus_reset

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

ErrorKind = Literal[
    "data link protocol", "poisoned TLP", "flow control protocol", "completion timeout", "completer abort",
    "unexpected completion", "receiver overflow", "malformed TLP", "ECRC", "unsupported request", "ACS violation",
    "internal",
]  # fmt: skip
BITS: dict[ErrorKind, int] = {
    "data link protocol": 4,
    "poisoned TLP": 12,
    "flow control protocol": 13,
    "completion timeout": 14,
    "completer abort": 15,
    "unexpected completion": 16,
    "receiver overflow": 17,
    "malformed TLP": 18,
    "ECRC": 19,
    "unsupported request": 20,
    "ACS violation": 21,
    "internal": 22,
}
"""Bits of AER's uncorrectable status, mask and severity registers."""
_NON_FATAL, _FATAL = 0x2, 0x4
"""Bits of device status, and of device control for the messages."""


_ALL_MESSAGES = 0xF
"""Bits of device control: correctable, non-fatal and fatal errors, unsupported requests."""
_ADVISORY = 0x2000
"""The bit of advisory non-fatal errors in AER's correctable mask."""


def enable(function: Function) -> None:
    """Turn messages of errors on, as the kernel does at boot where a function has AER (pci_aer_init)."""
    reporting, express = function.find(Aer), function.find(Pcie)
    if reporting is not None and express is not None:
        config, mask = function.config, reporting[1] + aer.CORRECTABLE_MASK
        control = config.get(express[1] + pcie.DEVICE_CONTROL, 2) | _ALL_MESSAGES
        config.write(express[1] + pcie.DEVICE_CONTROL, control.to_bytes(2, "little"))
        config.write(mask, (config.get(mask, 4) & ~_ADVISORY).to_bytes(4, "little"))


def report(function: Function, kind: ErrorKind) -> None:
    """`function` has run into an error; with its lock held. Without AER nobody hears of it: an incident says so."""
    reporting, express = function.find(Aer), function.find(Pcie)
    if reporting is None or express is None:
        function.record(f"an error ({kind}) could not be reported: the function has no AER")
        return
    config, bit, (_, start), (_, device) = function.config, 1 << BITS[kind], reporting, express
    fatal = bool(config.get(start + aer.UNCORRECTABLE_SEVERITY, 4) & bit)
    config.set_bits(device + pcie.DEVICE_STATUS, 2, _FATAL if fatal else _NON_FATAL, True)
    config.set_bits(start + aer.UNCORRECTABLE_STATUS, 4, bit, True)
    wanted = config.get(device + pcie.DEVICE_CONTROL, 2) & (_FATAL if fatal else _NON_FATAL)
    wanted |= config.get(header.COMMAND, 2) & header.COMMAND_SERR
    if config.get(start + aer.UNCORRECTABLE_MASK, 4) & bit or not wanted:
        function.record(f"an error ({kind}) was not reported: it is masked, or messages of errors are off")
        return
    function.place.timers.after(0, partial(_recover, function, fatal))


def _recover(function: Function, fatal: bool) -> None:
    """What the kernel does, on a thread of its own (pcie_do_recovery)."""
    bus = function.place.bus
    for each in list(bus.functions.values()):
        with each.lock:
            for listener in each.on_error:
                listener()
    if fatal and bus.port is not None:
        secondary_bus_reset(bus.port)
        return
    with function.lock:
        _clear(function)


def _clear(function: Function) -> None:
    """pcie_clear_device_status and pci_aer_clear_nonfatal_status."""
    reporting, express = function.find(Aer), function.find(Pcie)
    if reporting is not None and express is not None:
        config, start = function.config, reporting[1]
        config.set_bits(express[1] + pcie.DEVICE_STATUS, 2, 0xF, False)
        fatal = config.get(start + aer.UNCORRECTABLE_SEVERITY, 4)
        config.set(start + aer.UNCORRECTABLE_STATUS, 4, config.get(start + aer.UNCORRECTABLE_STATUS, 4) & fatal)
