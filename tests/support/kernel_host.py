"""For tests on the running kernel: the guest's devices."""

from __future__ import annotations

from contextlib import ExitStack

from ioas.api import DmaBuffer, Space
from ioas.api.host import BaseHost
from tests.support import lanes

EDU, IGB = (0x1234, 0x11E8), (0x8086, 0x10C9)
EDU_REACHES = 1 << 28
"""The device has 28 address bits."""


def address(host: BaseHost, ids: tuple[int, int]) -> str:
    """The first device with these IDs that VFIO has (lane kernel)."""
    for bdf in host.devices():
        found = host.sysfs.device(bdf)
        if (found.vendor, found.device) == ids:
            return bdf
    return lanes.require("kernel", f"no device {ids[0]:04x}:{ids[1]:04x} is bound to vfio-pci")


def edu_address(host: BaseHost) -> str:
    """Where the edu is."""
    return address(host, EDU)


def low_page(space: Space, rest: ExitStack) -> DmaBuffer:
    """A page where edu can reach it: without an IOMMU that is a matter of luck, so as many as it takes."""
    while True:
        page = rest.enter_context(space.alloc(4096, writable=True))
        if page.iova < EDU_REACHES:
            return page
