"""Why two functions share a group: the port on the way that does not keep them apart.

Follows pci_device_group and pci_acs_path_enabled (drivers/iommu/iommu.c, drivers/pci/pci.c, 7.3): every port from a
function to the root has to have ACS with source validation, request and completion redirection and upstream forwarding.
"""

from __future__ import annotations

from collections.abc import Iterator

from ioas.sysfs import PciDevice, Sysfs

_EXTENDED, _ACS = 0x100, 0x000D
_REQUIRED = 0x1D
"""Of ACS's control register (PCI Express 6.2, 7.7.11.3): source validation, P2P request and completion redirection,
upstream forwarding."""


def why_together(sysfs: Sysfs, device: PciDevice, sibling: PciDevice) -> tuple[str, str] | None:
    """Who is to blame for two functions' one group, and a sentence; None when it cannot be seen.

    Configuration space beyond its first 64 bytes is for root to read.
    """
    if device.bdf.rpartition(".")[0] == sibling.bdf.rpartition(".")[0]:
        blamed = f"device {sibling.bdf}", "they are functions of one device, which has no ACS"
        return blamed if isolates(device) is False else None
    for port in _ports_above(sysfs, device):
        if isolates(port) is False:
            return f"port {port.bdf}", f"port {port.bdf} has no ACS, so they can reach each other"
    return None


def isolates(device: PciDevice) -> bool | None:
    """Whether a function's ACS is there and on; None when its extended configuration space cannot be read."""
    config = device.config
    if len(config) < _EXTENDED + 4:
        return None if len(config) <= 64 else False  # 256 bytes: a function without extended capabilities
    offset, seen = _EXTENDED, set[int]()
    while offset >= _EXTENDED and offset not in seen and offset + 8 <= len(config):
        seen.add(offset)
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & 0xFFFF == _ACS:
            return int.from_bytes(config[offset + 6 : offset + 8], "little") & _REQUIRED == _REQUIRED
        offset = header >> 20
    return False


def _ports_above(sysfs: Sysfs, device: PciDevice) -> Iterator[PciDevice]:
    bdf = device.parent
    while bdf is not None:
        port = PciDevice(sysfs, bdf)
        yield port
        bdf = port.parent
