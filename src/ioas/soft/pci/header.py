"""The first 64 bytes of configuration space: type 0 (endpoints) and type 1 (bridges) headers.

Offsets and bits as in PCI Local Bus 3.0 section 6.1 and the PCI-to-PCI Bridge specification; names follow
include/uapi/linux/pci_regs.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.soft.pci.config import Config

VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
REVISION_ID = 0x08
CLASS_CODE = 0x09
CACHE_LINE_SIZE = 0x0C
LATENCY_TIMER = 0x0D
HEADER_TYPE = 0x0E
BAR0 = 0x10
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
ROM_ADDRESS = 0x30
CAPABILITIES = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D

PRIMARY_BUS = 0x18
SECONDARY_BUS = 0x19
SUBORDINATE_BUS = 0x1A
IO_BASE = 0x1C
IO_LIMIT = 0x1D
SECONDARY_STATUS = 0x1E
MEMORY_BASE = 0x20
MEMORY_LIMIT = 0x22
PREFETCHABLE_BASE = 0x24
PREFETCHABLE_LIMIT = 0x26
PREFETCHABLE_BASE_UPPER = 0x28
PREFETCHABLE_LIMIT_UPPER = 0x2C
IO_BASE_UPPER = 0x30
IO_LIMIT_UPPER = 0x32
BRIDGE_ROM_ADDRESS = 0x38
BRIDGE_CONTROL = 0x3E

COMMAND_IO = 0x0001
COMMAND_MEMORY = 0x0002
COMMAND_MASTER = 0x0004
COMMAND_SERR = 0x0100
COMMAND_INTX_DISABLE = 0x0400
COMMAND_WRITABLE = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_SERR | COMMAND_INTX_DISABLE
"""Parity error response, which functions need not have, is none of them, as with QEMU's devices."""

STATUS_INTERRUPT = 0x0008
STATUS_CAPABILITIES = 0x0010
STATUS_ERRORS = 0xF900
"""Master data parity error, signalled and received aborts, signalled system error, parity error: all RW1C."""

BRIDGE_CONTROL_BUS_RESET = 0x0040
MULTIFUNCTION = 0x80
ADDRESSES_END = 0x40


def declare_common(config: Config, vendor: int, device: int, revision: int, class_code: int, kind: int) -> None:
    """What both header types share. `class_code` has 24 bits; `kind` is the header type, 0 or 1."""
    config.declare(VENDOR_ID, 2, vendor)
    config.declare(DEVICE_ID, 2, device)
    config.declare(COMMAND, 2, 0, writable=COMMAND_WRITABLE)
    config.declare(STATUS, 2, 0, clearable=STATUS_ERRORS)
    config.declare(REVISION_ID, 1, revision)
    config.declare(CLASS_CODE, 3, class_code)
    config.declare(CACHE_LINE_SIZE, 1, 0, writable=0xFF)
    config.declare(HEADER_TYPE, 1, kind)
    config.declare(INTERRUPT_LINE, 1, 0, writable=0xFF)


def declare_type0(config: Config, subsystem_vendor: int, subsystem: int) -> None:
    """An endpoint's part: the subsystem it belongs to."""
    config.declare(SUBSYSTEM_VENDOR_ID, 2, subsystem_vendor)
    config.declare(SUBSYSTEM_ID, 2, subsystem)


def declare_type1(config: Config) -> None:
    """A bridge's part: bus numbers, I/O, memory and prefetchable windows (all 32 or 64 bits wide), control."""
    for offset in (PRIMARY_BUS, SECONDARY_BUS, SUBORDINATE_BUS):
        config.declare(offset, 1, 0, writable=0xFF)
    # The low four bits say how wide a window is: 1 for 32-bit I/O, 1 for 64-bit prefetchable memory.
    for offset in (IO_BASE, IO_LIMIT):
        config.declare(offset, 1, 0x01, writable=0xF0)
    config.declare(SECONDARY_STATUS, 2, 0, clearable=STATUS_ERRORS)
    for offset in (MEMORY_BASE, MEMORY_LIMIT):
        config.declare(offset, 2, 0, writable=0xFFF0)
    for offset in (PREFETCHABLE_BASE, PREFETCHABLE_LIMIT):
        config.declare(offset, 2, 0x0001, writable=0xFFF0)
    for offset in (PREFETCHABLE_BASE_UPPER, PREFETCHABLE_LIMIT_UPPER):
        config.declare(offset, 4, 0, writable=0xFFFFFFFF)
    for offset in (IO_BASE_UPPER, IO_LIMIT_UPPER):
        config.declare(offset, 2, 0, writable=0xFFFF)
    config.declare(BRIDGE_CONTROL, 2, 0, writable=0x0003 | BRIDGE_CONTROL_BUS_RESET)
