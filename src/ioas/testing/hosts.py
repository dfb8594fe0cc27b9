"""Which hosts there are to run a test on, and which device of the kernel's stands for one of a software machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ioas.api.host import BaseHost
    from ioas.soft.pci import Function

HostName = Literal["soft", "kernel"]
HOST_NAMES: tuple[HostName, ...] = ("soft", "kernel")

_IOMMU = Path("/dev/iommu")
_VFIO_PCI = Path("/sys/bus/pci/drivers/vfio-pci")


def available_hosts() -> list[HostName]:
    """Where tests run when nobody says: the software host, and the kernel where a device is bound to vfio-pci.

    Loads nothing, for it is asked whenever pytest collects a test that uses a host.
    """
    return ["soft", "kernel"] if os.access(_IOMMU, os.R_OK | os.W_OK) and _any_device() else ["soft"]


def _any_device() -> bool:
    try:
        return any(name.count(":") == 2 for name in os.listdir(_VFIO_PCI))
    except OSError:
        return False


def counterpart(host: BaseHost, model: str | Function) -> str:
    """The first device of `host` that has the vendor and device id of a software model.

    So a test that was written for a model finds the hardware that this is a model of, and never other hardware. Raises
    UsageError: unknown model, or no such device bound to vfio-pci.
    """
    from ioas.errors import UsageError
    from ioas.soft.host import load_model

    kind = load_model(model.partition(",")[0]) if isinstance(model, str) else model
    wanted = (kind.vendor_id, kind.device_id)
    for bdf in host.devices():
        found = host.sysfs.device(bdf)
        if (found.vendor, found.device) == wanted:
            return bdf
    raise UsageError(f"no device {wanted[0]:04x}:{wanted[1]:04x} ({kind.model}) is bound to vfio-pci")


def is_untranslated(host: BaseHost, bdf: str) -> bool:
    """Whether no IOMMU stands between a device and memory (VFIO's no-IOMMU mode)."""
    device = host.sysfs.device(bdf)
    names = device.vfio_device or "", device.text("iommu_group/name") or ""
    return device.iommu_group is None or names[0].startswith("noiommu-") or names[1] == "vfio-noiommu"
