"""Device models for tests: what edu does not have."""

from __future__ import annotations

from typing import ClassVar

from ioas.soft.pci import Bar, Capability, Function, Msi, Msix, Pcie, PowerManagement, Rom

ROM_IMAGE = bytearray(1024)
ROM_IMAGE[0:2] = b"\x55\xaa"
ROM_IMAGE[0x18:0x1A] = (0x40).to_bytes(2, "little")
ROM_IMAGE[0x40:0x44] = b"PCIR"
ROM_IMAGE[0x50:0x52] = (2).to_bytes(2, "little")
ROM_IMAGE[0x55] = 0x80


class Rich(Function):
    """A PCI Express function with everything: FLR, power states, MSI, MSI-X, a ROM, memory and I/O BARs."""

    model: ClassVar[str] = "rich"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x5678
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (
        PowerManagement(no_soft_reset=False),
        Msi(4, masking=True),
        Msix(8, 4, 0x100),
        Pcie(flr=True),
    )
    rom: ClassVar[Rom | None] = Rom(bytes(ROM_IMAGE) + b"\x11" * 4096)

    memory = Bar(0, 0x4000, "mem64", prefetchable=True)
    ports = Bar(2, 32, "io")
    table = Bar(4, 0x1000)
    scratch = memory.register(0x10, width=8, sizes=(1, 2, 4, 8))
    port = ports.register(0x4)

    def __init__(self) -> None:
        super().__init__()
        self.accesses: list[tuple[str, int, int, int]] = []
        self.memory_bytes = bytearray(0x4000)

    def read_window(self, bar: int, offset: int, length: int) -> bytes | None:
        self.accesses.append(("read", bar, offset, length))
        if bar == 0:
            return bytes(self.memory_bytes[offset : offset + length])
        return super().read_window(bar, offset, length)

    def write_window(self, bar: int, offset: int, data: bytes) -> bool:
        self.accesses.append(("write", bar, offset, len(data)))
        if bar == 0:
            self.memory_bytes[offset : offset + len(data)] = data
            return True
        return super().write_window(bar, offset, data)

    def reset(self) -> None:
        super().reset()
        self.memory_bytes = bytearray(0x4000)


class Unresettable(Function):
    """A function without a reset of its own; it counts the resets that it gets from the bus."""

    model: ClassVar[str] = "unresettable"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0001
    window = Bar(0, 4096)

    def __init__(self) -> None:
        self.resets = 0
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.resets += 1
