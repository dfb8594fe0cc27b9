"""A supervisor whose device takes the time that a doorbell takes to reach it: ``-m bench.doorbell_host PROGRAM``.

The program rings with what CLOCK_MONOTONIC says, in nanoseconds. At its end the median of the differences is printed.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import ClassVar

from ioas.run import Options, Supervisor, take_signals
from ioas.soft.pci import Bar, Capability, Function, Msi


class Bell(Function):
    """A doorbell, and how often it has been rung."""

    model: ClassVar[str] = "bell"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0004
    capabilities: ClassVar[tuple[Capability, ...]] = (Msi(1, address64=True),)
    window = Bar(0, 1 << 20)
    ring = window.register(0x00, "WO", width=8, doorbell=True)
    rung = window.register(0x08, "RO", width=8)
    delays: ClassVar[list[int]] = []

    @ring.on_write
    def _ring(self, value: int) -> None:
        self.delays.append(time.monotonic_ns() - value)
        self.rung += 1


def main() -> int:
    """Run the program; print a line."""
    out = os.dup(1)  # the supervisor lets go of what the program inherits
    mask = take_signals()
    from ioas.soft.host import SoftHost

    status = Supervisor(SoftHost([Bell()]), sys.argv[1:], Options(mmio="poll"), mask).run()
    os.write(out, f"doorbell {int(statistics.median(Bell.delays))}\n".encode())
    return status


if __name__ == "__main__":
    sys.exit(main())
