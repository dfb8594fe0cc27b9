"""edu: QEMU's educational device, from its published description (QEMU, docs/specs/edu.rst).

An inverter, a factorial unit, an interrupt generator and a DMA engine with a buffer of 4 KiB: everything that a first
driver needs. Where the description is silent the model does what QEMU 10's edu does, with one exception: QEMU carries
out a transfer that leaves the device's buffer, into its own memory, and logs it; here it is dropped and recorded.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from ioas.soft.pci import Bar, Capability, Function, Migration, Msi, Option

STATUS_COMPUTING = 0x01
STATUS_INTERRUPT = 0x80

DMA_START = 0x1
DMA_TO_MEMORY = 0x2
DMA_INTERRUPT = 0x4

FACTORIAL_DONE = 0x001
DMA_DONE = 0x100
"""Values that the device itself puts into the interrupt status register."""

BUFFER = 0x40000
BUFFER_SIZE = 4096
DMA_DELAY = 0.1
"""Seconds from the start command to the transfer."""
FACTORIAL_DELAY = 0.001


class Edu(Function):
    """The educational device: a conventional PCI function with INTx and one MSI vector."""

    model: ClassVar[str] = "edu"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x11E8
    revision_id: ClassVar[int] = 0x10
    class_code: ClassVar[int] = 0x00FF00
    subsystem_vendor_id: ClassVar[int] = 0x1AF4
    subsystem_id: ClassVar[int] = 0x1100
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (Msi(1, address64=True),)

    dma_mask = Option((1 << 28) - 1, "the address bits that the DMA engine has", minimum=0, maximum=(1 << 64) - 1)

    pri = Option(False, "asks for missing pages by page requests where somebody answers them; QEMU's edu does not")

    migration = Option(False, "can be migrated, with its DMA under way; QEMU's edu cannot")

    # Below 0x80 accesses have 4 bytes, from there on 4 or 8; a narrow write to a wide register clears its upper half.
    mmio = Bar(0, 1 << 20)
    identification = mmio.register(0x00, "RO", reset=0x010000ED)
    liveness = mmio.register(0x04, doorbell=True)
    factorial = mmio.register(0x08, doorbell=True)
    status = mmio.register(0x20)
    interrupt_status = mmio.register(0x24, "RO")
    interrupt_raise = mmio.register(0x60, "WO", doorbell=True)
    interrupt_acknowledge = mmio.register(0x64, "WO", doorbell=True)
    dma_source = mmio.register(0x80, width=8, sizes=(4, 8), split=False)
    dma_destination = mmio.register(0x88, width=8, sizes=(4, 8), split=False)
    dma_count = mmio.register(0x90, width=8, sizes=(4, 8), split=False)
    dma_command = mmio.register(0x98, width=8, sizes=(4, 8), split=False, doorbell=True)

    def __init__(self, /, **options: str | int | bool | float) -> None:
        super().__init__(**options)
        self.buffer = bytearray(BUFFER_SIZE)
        self.page_requests = self.pri
        self.migrates = Migration() if self.migration else None

    def reset(self) -> None:
        """QEMU's edu has no reset of its own: registers, buffer and a transfer under way outlive a bus reset."""

    def save(self) -> bytes:
        """Registers and the timers of transfer and factorial go without saying."""
        return bytes(self.buffer)

    def load(self, state: bytes) -> None:
        """The buffer of another edu."""
        if len(state) != BUFFER_SIZE:
            raise ValueError(f"a buffer of {len(state)} bytes is none of edu's")
        self.buffer[:] = state

    @liveness.on_write
    def _liveness_written(self, value: int) -> None:
        self.liveness = ~value

    @factorial.on_write
    def _factorial_written(self, value: int) -> None:
        if not self.status & STATUS_COMPUTING:
            self.factorial = value
            self.status |= STATUS_COMPUTING
            self.after(FACTORIAL_DELAY, self._finish_factorial)

    def _finish_factorial(self) -> None:
        self.factorial = _factorial(self.factorial)
        self.status &= ~STATUS_COMPUTING
        if self.status & STATUS_INTERRUPT:
            self._raise(FACTORIAL_DONE)

    @status.on_write
    def _status_written(self, value: int) -> None:
        self.status = self.status & STATUS_COMPUTING | value & STATUS_INTERRUPT

    @interrupt_raise.on_write
    def _raise(self, value: int) -> None:
        self.interrupt_status |= value
        if self.interrupt_status:
            self.interrupt(0)

    @interrupt_acknowledge.on_write
    def _acknowledge(self, value: int) -> None:
        self.interrupt_status &= ~value
        if not self.interrupt_status:
            self.deassert()

    def read_window(self, bar: int, offset: int, length: int) -> bytes | None:
        """What is narrower than a register does not reach the device, and reads as 0."""
        return super().read_window(bar, offset, length) if length >= 4 else bytes(length)

    def write_window(self, bar: int, offset: int, data: bytes) -> bool:
        """While a transfer is under way the DMA registers ignore writes."""
        if offset >= 0x80 and self.dma_command & DMA_START:
            return True
        return super().write_window(bar, offset, data)

    @dma_command.on_write
    def _command_written(self, value: int) -> None:
        if value & DMA_START:
            self.dma_command = value
            self.after(DMA_DELAY, self._transfer)

    def _transfer(self) -> None:
        write = bool(self.dma_command & DMA_TO_MEMORY)
        inside, outside = self.dma_destination, self.dma_source
        if write:
            inside, outside = outside, inside
        if not self._in_buffer(inside, self.dma_count):
            self._finish_transfer()
            return
        address = self._clamp(outside)
        move = partial(self._move, inside - BUFFER, address, write=write)
        self.dma.when_present(address, self.dma_count, move, write=write)

    def _move(self, start: int, address: int, *, write: bool) -> None:
        part = slice(start, start + self.dma_count)
        if write:
            self.dma.write(address, self.buffer[part])
        elif (data := self.dma.read(address, self.dma_count)) is not None:
            self.buffer[part] = data
        self._finish_transfer()

    def _finish_transfer(self) -> None:
        self.dma_command &= ~DMA_START
        if self.dma_command & DMA_INTERRUPT:
            self._raise(DMA_DONE)

    def _in_buffer(self, start: int, count: int) -> bool:
        if start >= BUFFER and start + count <= BUFFER + BUFFER_SIZE:
            return True
        self.record(f"a transfer of {count:#x} bytes at {start:#x} was dropped: it leaves the device's buffer")
        return False

    def _clamp(self, address: int) -> int:
        clamped = address & self.dma_mask
        if clamped != address:
            self.record(f"DMA address {address:#x} was clamped to {clamped:#x} by the mask {self.dma_mask:#x}")
        return clamped


def _factorial(number: int) -> int:
    """The factorial modulo 2**32. From 34 on it is 0, for 34! has 32 factors of two."""
    product = 1
    for factor in range(2, min(number, 34) + 1):
        product = product * factor & 0xFFFFFFFF
    return product
