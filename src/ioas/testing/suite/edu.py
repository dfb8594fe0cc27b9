"""A small driver for the edu device (QEMU, docs/specs/edu.rst), by which the suite makes a device do things."""

from __future__ import annotations

import time

from ioas.api import Device

IDENTIFICATION, LIVENESS, INTERRUPT_STATUS, INTERRUPT_RAISE, INTERRUPT_ACKNOWLEDGE = 0x00, 0x04, 0x24, 0x60, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
DMA_START, DMA_TO_MEMORY, DMA_INTERRUPT = 1, 2, 4
DMA_DONE = 0x100
"""What the end of a transfer adds to the interrupt status."""
BUFFER = 0x40000
BUFFER_SIZE = 4096
IDENTITY = 0x010000ED
IDS = (0x1234, 0x11E8)

IOVA = 0x100000
"""Where tests map what edu has to reach, which puts out 28 address bits."""
PATIENCE = 30.0
"""Seconds until a test gives up on a device, which takes 0.1 s as a rule."""


class Edu:
    """An edu device that is bound, attached, and may do DMA."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.registers = device.bar(0)
        device.bus_master = True
        self.acknowledge()  # what an earlier user may have left

    def start(self, source: int, destination: int, count: int, flags: int) -> None:
        """Begin a transfer of `count` bytes; `flags` are DMA_TO_MEMORY, DMA_INTERRUPT."""
        self.registers.write64(DMA_SOURCE, source)
        self.registers.write64(DMA_DESTINATION, destination)
        self.registers.write64(DMA_COUNT, count)
        self.registers.write64(DMA_COMMAND, DMA_START | flags)

    def finish(self) -> None:
        """Wait until the transfer is over. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while self.registers.read64(DMA_COMMAND) & DMA_START:
            if time.monotonic() > deadline:
                raise TimeoutError(f"edu is still busy after {PATIENCE} s")
            time.sleep(0.002)

    def load(self, iova: int, count: int, offset: int = 0) -> None:
        """Copy memory into the device's buffer."""
        self.start(iova, BUFFER + offset, count, 0)
        self.finish()

    def store(self, iova: int, count: int, offset: int = 0) -> None:
        """Copy the device's buffer into memory."""
        self.start(BUFFER + offset, iova, count, DMA_TO_MEMORY)
        self.finish()

    def interrupt(self, value: int = 1) -> None:
        """Raise the interrupt, with `value` added to its status."""
        self.registers.write32(INTERRUPT_RAISE, value)

    def acknowledge(self) -> int:
        """Take the interrupt back; the status that it had."""
        status = self.registers.read32(INTERRUPT_STATUS)
        self.registers.write32(INTERRUPT_ACKNOWLEDGE, status)
        return status
