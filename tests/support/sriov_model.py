"""A function with four virtual functions: a counter and a DMA engine each, messages, and nothing else."""

from __future__ import annotations

from typing import ClassVar

from ioas.soft.pci import Bar, Capability, Function, Msix, Pcie, SrIov, VirtualFunction

VENDOR, DEVICE, VF_DEVICE = 0x1234, 0x51F0, 0x51F1
VFS = 4


class Virtual(VirtualFunction):
    """Register 0: a counter of its own. Register 8: what is written there is an IOVA, to which its index goes."""

    model: ClassVar[str] = "virtual"
    vendor_id: ClassVar[int] = VENDOR
    device_id: ClassVar[int] = VF_DEVICE
    class_code: ClassVar[int] = 0xFF0000
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(flr=True), Msix(2, 0, 0x1000))

    window = Bar(0, 0x4000, "mem64", prefetchable=True)
    counter = window.register(0)
    target = window.register(8, width=8)

    @target.on_write
    def _send(self, value: int) -> None:
        self.dma.write(value, self.index.to_bytes(4, "little"))
        self.interrupt(0)


class Physical(Function):
    """Their PF, which can do the same."""

    model: ClassVar[str] = "physical"
    vendor_id: ClassVar[int] = VENDOR
    device_id: ClassVar[int] = DEVICE
    class_code: ClassVar[int] = 0xFF0000
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(flr=True), SrIov(Virtual, VFS))

    window = Bar(0, 0x4000)
    counter = window.register(0)
