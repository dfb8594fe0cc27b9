"""What a write to configuration space sets off besides changing bits (the writefn of vfio_pci_config.c, 7.3).

Each hook carries out the write under the capability's masks and then acts: `position` is the byte in configuration
space, `offset` the byte in the capability, and `data` at most a dword within that capability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ioas.soft.vfio import permissions as rules
from ioas.soft.vfio.permissions import Permissions
from ioas.soft.vfio.power import D3HOT

if TYPE_CHECKING:
    from ioas.soft.vfio.config_space import ConfigSpace

COMMAND = 0x04
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE = 0x1, 0x2, 0x4, 0x400

Hook = Callable[["ConfigSpace", int, int, bytes, Permissions], None]


def _header(space: ConfigSpace, position: int, offset: int, data: bytes, masks: Permissions) -> None:
    """Command: bring back BARs that a hidden reset lost, remember the enables, mask INTx. BARs: keep the fixed bits."""
    value = int.from_bytes(data, "little")
    exports = space.device.exports
    if offset == COMMAND and not value & COMMAND_MEMORY:
        exports.revoke()
    if offset == COMMAND and _reset_behind_us(space, value):
        space.restore_bars()
    space.masked_write(position, offset, data, masks)
    if offset == COMMAND:
        enables = COMMAND_MEMORY | COMMAND_IO
        space.command = space.command & ~enables | value & enables
        exports.restore()
    if offset in (COMMAND, COMMAND + 1):
        space.device.irqs.intx.disable_virtually(bool(space.command & COMMAND_INTX_DISABLE))
    if 0x10 <= offset < 0x28 or 0x30 <= offset < 0x34:
        space.fix_bars()


def _reset_behind_us(space: ConfigSpace, value: int) -> bool:
    """Whether the hardware has lost enables or BARs that VFIO left there (a reset by some device register)."""
    function = space.device.function
    enables = COMMAND_IO | (COMMAND_MEMORY if function.has_command_memory else 0)
    lost = value & space.command & ~space.hardware.get(COMMAND, 2) & enables
    return bool(lost) or any(
        bar and bar != space.hardware.get(0x10 + 4 * index, 4) for index, bar in enumerate(space.real_bars[:6])
    )


def _power(space: ConfigSpace, position: int, offset: int, data: bytes, masks: Permissions) -> None:
    """The state bits of PMCSR are not writable: VFIO changes the power state itself."""
    space.masked_write(position, offset, data, masks)
    if offset == 4:
        device, state = space.device, data[0] & 3
        if state == D3HOT:
            device.exports.revoke()
        device.power.change(state)
        device.exports.restore()


def _vpd(space: ConfigSpace, position: int, offset: int, data: bytes, masks: Permissions) -> None:
    """The write that completes the address asks for a transfer; the flag toggles when it is done."""
    space.masked_write(position, offset, data, masks)
    if not offset <= 3 < offset + len(data):
        return
    start = position - offset
    address = int.from_bytes(space.virtual[start + 2 : start + 4], "little")
    hardware = space.hardware
    if address & 0x8000:
        hardware.write(start + 4, bytes(space.virtual[start + 4 : start + 8]))
    hardware.write(start + 2, address.to_bytes(2, "little"))
    done = hardware.get(start + 2, 2)
    if (done ^ address) & 0x8000:
        if not address & 0x8000:
            space.virtual[start + 4 : start + 8] = hardware.read(start + 4, 4)
        space.virtual[start + 2 : start + 4] = (address ^ 0x8000).to_bytes(2, "little")


def _express(space: ConfigSpace, position: int, offset: int, data: bytes, masks: Permissions) -> None:
    """Device Control: the FLR bit resets the function; a read request size goes through, but not below the payload."""
    start = position - offset
    control = slice(start + 8, start + 10)
    request = space.virtual[start + 9] >> 4 & 7
    space.masked_write(position, offset, data, masks)
    value = int.from_bytes(space.virtual[control], "little")
    if value & 0x8000:
        space.virtual[start + 9] &= 0x7F
        if space.hardware.get(start + 4, 4) & 1 << 28:
            _reset(space)
    if request != (wanted := value >> 12 & 7):
        hardware = space.hardware.get(start + 8, 2)
        size = max(wanted, hardware >> 5 & 7)
        space.hardware.write(start + 8, (hardware & ~0x7000 | size << 12).to_bytes(2, "little"))


def _advanced_features(space: ConfigSpace, position: int, offset: int, data: bytes, masks: Permissions) -> None:
    """The FLR bit of conventional PCI."""
    start = position - offset
    space.masked_write(position, offset, data, masks)
    if space.virtual[start + 4] & 1:
        space.virtual[start + 4] &= ~1
        if space.hardware.get(start + 3, 1) & 3 == 3:
            _reset(space)


def _reset(space: ConfigSpace) -> None:
    with space.device.exports.away():
        space.device.function_reset()


def _msi(space: ConfigSpace, position: int, offset: int, data: bytes, masks: Permissions) -> None:
    """Message Control: MSI is enabled by VFIO_DEVICE_SET_IRQS, and with no more vectors than were asked for there."""
    space.masked_write(position, offset, data, masks)
    if not offset <= 2 <= offset + len(data):
        return
    control = space.start_of(position) + 2
    flags = int.from_bytes(space.virtual[control : control + 2], "little")
    messages = space.device.irqs.messages
    if messages.kind != "msi":
        flags &= ~0x0001
    if flags >> 4 & 7 > messages.msi_log2:
        flags = flags & ~0x0070 | messages.msi_log2 << 4
    space.virtual[control : control + 2] = flags.to_bytes(2, "little")
    space.hardware.write(control, flags.to_bytes(2, "little"))


HOOKS: dict[int, Hook] = {
    rules.BASIC: _header,
    rules.PM: _power,
    rules.VPD: _vpd,
    rules.MSI: _msi,
    rules.EXPRESS: _express,
    rules.ADVANCED_FEATURES: _advanced_features,
}
"""By capability id."""
