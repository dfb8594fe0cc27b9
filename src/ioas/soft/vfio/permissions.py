"""What a program may see and write in configuration space: one rule for each capability.

The data of vfio_pci_config.c (7.3): how long each capability is (so where the next thing begins), which of its
bits are virtual (kept by VFIO instead of the hardware) and which can be written. Capabilities of length 0 are taken
out of the list that the program walks. Offsets are bytes from the start of the capability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ioas.soft.pci import Config

HEADER_SIZE = 0x40

BASIC, PM, VPD, MSI, EXPRESS, MSIX, ADVANCED_FEATURES = 0x00, 0x01, 0x03, 0x05, 0x10, 0x11, 0x13

Length = int | Callable[[Config, int], int]
"""Bytes, or a function of the hardware's configuration space and the capability's offset."""


class Field(NamedTuple):
    """`width` bytes from `offset`: the bits that are virtual and those that can be written."""

    offset: int
    width: int
    virtual: int
    writable: int


@dataclass(frozen=True, slots=True)
class Permissions:
    """Two masks over the bytes of a capability, padded to whole dwords."""

    virtual: bytes
    writable: bytes

    @classmethod
    def of(cls, size: int, *fields: Field) -> Permissions:
        """Masks of `size` bytes: nothing is virtual or writable except `fields`."""
        virtual, writable = bytearray(size + 3 & ~3), bytearray(size + 3 & ~3)
        for field in fields:
            span = slice(field.offset, field.offset + field.width)
            virtual[span] = field.virtual.to_bytes(field.width, "little")
            writable[span] = field.writable.to_bytes(field.width, "little")
        return cls(bytes(virtual), bytes(writable))


@dataclass(frozen=True, slots=True)
class Rule:
    """How VFIO treats a capability.

    Without `permissions` reads come from the hardware (except the pointer to the next capability) and writes
    are dropped, or with `raw_writes` go straight to the hardware.
    """

    length: Length = 0
    permissions: Permissions | None = None
    raw_writes: bool = False


ALL8, ALL16, ALL32 = 0xFF, 0xFFFF, 0xFFFF_FFFF
_NEXT = Field(1, 1, ALL8, 0)
"""The pointer to the next capability is always virtual, so that capabilities can be hidden."""
_EXTENDED_HEADER = Field(0, 4, ALL32, 0)

_HEADER = Permissions.of(
    HEADER_SIZE,
    Field(0x00, 4, ALL32, 0),  # ids
    Field(0x04, 2, 0x0400, ALL16),  # command: only the INTx disable bit is virtual
    Field(0x06, 2, 0x0010, 0),  # status: whether there are capabilities
    Field(0x0C, 1, 0, ALL8),  # cache line size
    Field(0x0D, 1, 0, ALL8),  # latency timer
    Field(0x0F, 1, 0, ALL8),  # BIST
    *(Field(0x10 + 4 * bar, 4, ALL32, ALL32) for bar in range(6)),
    Field(0x30, 4, ALL32, ALL32),  # ROM
    Field(0x34, 1, ALL8, 0),  # the first capability
    Field(0x3C, 1, ALL8, ALL8),  # interrupt line
    Field(0x3D, 1, ALL8, 0),  # interrupt pin, to be able to hide INTx
)

_POWER = Permissions.of(
    8,
    _NEXT,
    Field(2, 2, 0xF800, 0),  # PME support
    Field(4, 4, 0x8100, ALL32 & ~0x8103),  # PME is virtual; the state is set by VFIO itself
)

_VPD = Permissions.of(8, _NEXT, Field(2, 2, ALL16, ALL16), Field(4, 4, ALL32, ALL32))
_PCIX = Permissions.of(24, _NEXT, Field(2, 2, 0, ALL16), Field(8, 4, 0, ALL32))
_EXPRESS = Permissions.of(
    0x34,
    _NEXT,
    Field(0x08, 2, 0x8000 | 0x00E0 | 0x7000, ALL16 & ~0x0200),  # FLR, payload, read request; not phantom functions
    Field(0x28, 2, 0, ALL16 & ~0x0020),  # not ARI forwarding
)
_AF = Permissions.of(6, _NEXT, Field(4, 1, 0x01, 0x01))  # FLR

_UNCORRECTABLE = 0x03FF_F031
_CORRECTABLE = 0xF1C1
_ERRORS = Permissions.of(
    0x2C,
    _EXTENDED_HEADER,
    *(Field(offset, 4, 0, _UNCORRECTABLE) for offset in (0x04, 0x08, 0x0C)),
    *(Field(offset, 4, 0, _CORRECTABLE) for offset in (0x10, 0x14)),
    Field(0x18, 4, 0, 0x0140),  # ECRC enables
)
_POWER_BUDGET = Permissions.of(0x10, _EXTENDED_HEADER, Field(0x08, 1, 0, ALL8))


def msi_permissions(flags: int) -> Permissions:
    """MSI's layout depends on the device: bit 7 of `flags` (Message Control) is 64-bit, bit 8 masking."""
    wide, masks = bool(flags & 0x80), bool(flags & 0x100)
    fields = [_NEXT, Field(2, 1, ALL8, ALL8), Field(4, 4, ALL32, ALL32)]
    data = 8
    if wide:
        fields.append(Field(8, 4, ALL32, ALL32))
        data = 12
    fields.append(Field(data, 2, ALL16, ALL16))
    if masks:
        fields += [Field(data + 4, 4, 0, ALL32), Field(data + 8, 4, 0, ALL32)]
    return Permissions.of(_msi_size(flags), *fields)


def _msi_size(flags: int) -> int:
    return 10 + (4 if flags & 0x80 else 0) + (10 if flags & 0x100 else 0)


def _msi_length(config: Config, start: int) -> int:
    return _msi_size(config.get(start + 2, 2))


def _pcix_length(config: Config, start: int) -> int:
    return 24 if config.get(start + 2, 2) >> 12 & 3 else 8


def _vendor_length(config: Config, start: int) -> int:
    return config.get(start + 2, 1)


def _express_length(config: Config, start: int) -> int:
    """Root complex integrated endpoints (type 9) have no link registers."""
    flags = config.get(start + 2, 2)
    integrated = flags >> 4 & 0xF == 9
    if flags & 0xF == 1:
        return 0x0C if integrated else 0x14
    return 0x2C if integrated else 0x34


def _hypertransport_length(config: Config, start: int) -> int:
    return 24 if config.get(start + 3, 1) & 0xE0 else 28


def _sata_length(config: Config, start: int) -> int:
    return 16 if config.get(start + 4, 1) & 0xF == 0xF else 8


def _virtual_channel_length(config: Config, start: int) -> int:
    length = 0x10 + (1 + (config.get(start + 4, 4) & 7)) * 0x0C
    phases = config.get(start + 8, 4)
    arbitration = next((count for bit, count in ((8, 128), (4, 64), (2, 32)) if phases & bit), 0) * 4
    return (length + 15 & ~15) + arbitration // 8 if arbitration else length


def _acs_length(config: Config, start: int) -> int:
    if not config.get(start + 4, 1) & 0x20:
        return 8
    bits = config.get(start + 5, 1)
    return 8 + ((bits + 31 & ~31) if bits else 256) // 8


def _resizable_bar_length(config: Config, start: int) -> int:
    return 4 + (config.get(start + 8, 1) >> 5) * 8


def _power_allocation_length(config: Config, start: int) -> int:
    return 16 + (config.get(start + 4, 1) & 0x1F) + 1


def _tph_length(config: Config, start: int) -> int:
    capability = config.get(start + 4, 4)
    return 12 + (capability >> 16 & 0x7FF) * 2 + 2 if capability & 0x600 == 0x200 else 12


def _header_length(config: Config, start: int) -> int:
    """Vendor-specific and DVSEC capabilities carry their length in bits 31-20 of the second dword."""
    return config.get(start + 4, 4) >> 20


STANDARD: dict[int, Rule] = {
    BASIC: Rule(HEADER_SIZE, _HEADER),
    PM: Rule(8, _POWER),
    0x02: Rule(12),  # AGP
    VPD: Rule(8, _VPD),
    MSI: Rule(_msi_length),  # its permissions are the device's own: msi_permissions
    0x07: Rule(_pcix_length, _PCIX),
    0x08: Rule(_hypertransport_length),
    0x09: Rule(_vendor_length, raw_writes=True),
    EXPRESS: Rule(_express_length, _EXPRESS),
    MSIX: Rule(12),
    0x12: Rule(_sata_length),
    ADVANCED_FEATURES: Rule(6, _AF),
}
"""Capabilities by id; those that are not here are hidden."""

EXTENDED: dict[int, Rule] = {
    0x01: Rule(0x2C, _ERRORS),
    0x02: Rule(_virtual_channel_length),
    0x03: Rule(12),  # serial number
    0x04: Rule(0x10, _POWER_BUDGET),
    0x08: Rule(_virtual_channel_length),
    0x09: Rule(_virtual_channel_length),
    0x0B: Rule(_header_length, raw_writes=True),  # vendor
    0x0D: Rule(_acs_length),
    0x0E: Rule(8),  # ARI
    0x0F: Rule(8),  # ATS
    0x10: Rule(0x40),  # SR-IOV
    0x12: Rule(40),  # multicast
    0x13: Rule(16),  # PRI
    0x15: Rule(_resizable_bar_length),
    0x16: Rule(_power_allocation_length),
    0x17: Rule(_tph_length),
    0x18: Rule(8),  # LTR
    0x23: Rule(_header_length, raw_writes=True),  # DVSEC
}
"""Extended capabilities by id; those that are not here are hidden (PASID among them)."""


def length_of(rule: Rule | None, config: Config, start: int) -> int:
    """Bytes of the capability at `start`; 0 when it is hidden."""
    if rule is None:
        return 0
    return rule.length if isinstance(rule.length, int) else rule.length(config, start)
