"""PCI Express (PCI Express Base, capability 0x10), version 2 of the structure: endpoints and root ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.errors import UsageError
from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

ENDPOINT = 0x0
LEGACY_ENDPOINT = 0x1
ROOT_PORT = 0x4
ROOT_COMPLEX_ENDPOINT = 0x9

FLAGS = 0x02
DEVICE_CAPABILITIES = 0x04
DEVICE_CONTROL = 0x08
DEVICE_STATUS = 0x0A
LINK_CAPABILITIES = 0x0C
LINK_CONTROL = 0x10
LINK_STATUS = 0x12
SLOT_CAPABILITIES = 0x14
ROOT_CONTROL = 0x1C
DEVICE_CAPABILITIES_2 = 0x24
DEVICE_CONTROL_2 = 0x28
LINK_CAPABILITIES_2 = 0x2C
LINK_CONTROL_2 = 0x30

FLR_CAPABLE = 1 << 28
INITIATE_FLR = 0x8000
_ROLE_BASED_ERRORS = 0x8000
_DEVICE_CONTROL_WRITABLE = 0x7FFF
_DEVICE_STATUS_ERRORS = 0x000F
_ARI_FORWARDING = 0x20
END_TO_END_PREFIXES = 1 << 21
_EXTENDED_FORMAT = 1 << 20
"""Of TLPs: what prefixes need."""

SPEEDS = {1: "2.5 GT/s", 2: "5.0 GT/s", 3: "8.0 GT/s", 4: "16.0 GT/s", 5: "32.0 GT/s", 6: "64.0 GT/s"}
"""Link speed codes as sysfs spells them."""


class Pcie(Capability):
    """The structure of an endpoint or root port: `flr` offers function level reset; the link is `speed` and `width`.

    `speed` is a code of `SPEEDS`; `width` the number of lanes.
    """

    id: ClassVar[int] = 0x10

    def __init__(self, port_type: int = ENDPOINT, *, flr: bool = False, speed: int = 3, width: int = 4) -> None:
        """Raises UsageError for a link that does not exist."""
        if speed not in SPEEDS or width not in (1, 2, 4, 8, 12, 16, 32):
            raise UsageError(f"there is no PCI Express link of speed {speed} and {width} lanes")
        self.port_type = port_type
        self.flr = flr
        self.speed = speed
        self.width = width

    @property
    def length(self) -> int:
        """Version 2 has all registers, whether or not the function uses them."""
        return 0x3C

    def install(self, function: Function, offset: int) -> None:
        """Declare device, link and root registers, and watch for Initiate Function Level Reset."""
        self._declare_device(function, offset)
        self._declare_link(function, offset)
        if self.port_type == ROOT_PORT:
            function.config.declare(offset + ROOT_CONTROL, 2, 0, writable=0x000F)

        def control_written() -> None:
            if self.flr and self._take_initiate(function, offset):
                function.reinitialise()

        function.config.watch(offset + DEVICE_CONTROL, 2, control_written)

    def _take_initiate(self, function: Function, offset: int) -> bool:
        """The bit reads as zero always (PCI Express Base 7.5.3.4)."""
        wanted = bool(function.config.get(offset + DEVICE_CONTROL, 2) & INITIATE_FLR)
        function.config.set_bits(offset + DEVICE_CONTROL, 2, INITIATE_FLR, False)
        return wanted

    def _declare_device(self, function: Function, offset: int) -> None:
        config = function.config
        # Version 2, port type; slots are not offered: what stands behind a port cannot be unplugged.
        config.declare(offset + FLAGS, 2, 0x0002 | self.port_type << 4)
        config.declare(offset + DEVICE_CAPABILITIES, 4, _ROLE_BASED_ERRORS | (FLR_CAPABLE if self.flr else 0))
        writable = _DEVICE_CONTROL_WRITABLE | (INITIATE_FLR if self.flr else 0)
        config.declare(offset + DEVICE_CONTROL, 2, 0x2810, writable=writable)
        config.declare(offset + DEVICE_STATUS, 2, 0, clearable=_DEVICE_STATUS_ERRORS)
        is_port = self.port_type == ROOT_PORT
        forwarding = _ARI_FORWARDING if is_port else 0
        has_prefixes = is_port or any(each.prefixes for each in function.capabilities)
        prefixes = END_TO_END_PREFIXES | _EXTENDED_FORMAT if has_prefixes else 0
        config.declare(offset + DEVICE_CAPABILITIES_2, 4, forwarding | prefixes)
        config.declare(offset + DEVICE_CONTROL_2, 2, 0, writable=forwarding | 0x001F)

    def _declare_link(self, function: Function, offset: int) -> None:
        config = function.config
        link = self.speed | self.width << 4
        config.declare(offset + LINK_CAPABILITIES, 4, link)
        config.declare(offset + LINK_CONTROL, 2, 0, writable=0x00FB)
        config.declare(offset + LINK_STATUS, 2, link)
        config.declare(offset + LINK_CAPABILITIES_2, 4, ((1 << self.speed) - 1) << 1)
        config.declare(offset + LINK_CONTROL_2, 2, self.speed, writable=0x000F)
