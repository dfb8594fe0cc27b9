"""A supervisor whose machine has one device with memory: ``python screen_host.py MODE PROGRAM...``; see `Screen`."""

from __future__ import annotations

import sys
from typing import ClassVar

from ioas.run import Options, Supervisor, take_signals
from ioas.soft.pci import Bar, Capability, Function, Msi


class Screen(Function):
    """Registers and a palette in BAR 0, a frame buffer in BAR 2; it can sum up and fill both."""

    model: ClassVar[str] = "screen"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0003
    capabilities: ClassVar[tuple[Capability, ...]] = (Msi(1, address64=True),)
    registers = Bar(0, 0x4000)
    accesses = registers.register(0x00, "RO")
    total = registers.register(0x04, "RO")
    add_up = registers.register(0x08, "WO")
    fill = registers.register(0x0C, "WO")
    palette = registers.memory(0x1000, 0x2000)
    window = Bar(2, 1 << 20, "mem64", prefetchable=True)
    frame = window.memory()

    @add_up.on_write
    def _add_up(self, value: int) -> None:
        self.total = sum(self.frame) + sum(self.palette)

    @fill.on_write
    def _fill(self, value: int) -> None:
        self.frame[:] = bytes([value]) * len(self.frame)
        self.palette[:] = bytes([value]) * len(self.palette)

    def read_window(self, bar: int, offset: int, length: int) -> bytes | None:
        self.accesses += 1
        return super().read_window(bar, offset, length)


def main() -> int:
    mode, *program = sys.argv[1:]
    mask = take_signals()
    from ioas.soft.host import SoftHost

    return Supervisor(SoftHost([Screen()]), program, Options(mmio=mode), mask).run()  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
