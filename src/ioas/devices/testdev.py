"""testdev: a device with everything that a PCI function can have here, for tests. docs/testdev.md is its data sheet.

It has every capability, a window of each kind and a DMA engine that works through a list in memory: with PASIDs, with
page requests, as slowly as wanted, from and to any address that the IOMMU lets it reach, memory of its own and of other
devices included. It raises exceptions in its own code on request, too.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import ClassVar

from ioas.soft.pci import (
    Acs,
    Aer,
    Bar,
    BridgeSubsystem,
    Capability,
    Function,
    Migration,
    Msi,
    Msix,
    Option,
    Pasid,
    Pcie,
    PowerManagement,
    Rom,
    SrIov,
    VirtualFunction,
)

IDENTIFICATION = int.from_bytes(b"TEST", "little")

START, ABORT = 0x1, 0x2
BUSY, DONE, STOPPED, ABORTED = 0x1, 0x2, 0x4, 0x8
"""Bits of the status register."""
FROM_MEMORY, TO_MEMORY = 0x1, 0x2
"""Bits of an element: source or destination is an offset in the device's own memory."""
SIGNAL = 0x4
PLAIN_SOURCE, PLAIN_DESTINATION = 0x8, 0x10
"""The transfer goes without PASID, whatever the PASID register says."""
ELEMENT = Struct("<QQIIQ")
"""Source, destination, bytes, flags, and 8 bytes that must be zero."""
PASID_ON = 1 << 31
FAIL_NOW, FAIL_LATER, FAIL_IN_RESET = 1, 2, 3

MEMORY_SIZE = 64 << 10
LONGEST = 1 << 20
"""Bytes of one element."""
MICROSECOND = 1e-6


def _rom_image() -> bytes:
    """One image of 512 bytes with a valid header, and a text behind it (PCI Firmware 3.3, 5.1)."""
    image = bytearray(512)
    image[0:2] = b"\x55\xaa"
    image[0x18:0x1A] = (0x1C).to_bytes(2, "little")
    image[0x1C:0x24] = b"PCIR\x34\x12\x54\x7e"
    image[0x26:0x28] = (0x18).to_bytes(2, "little")
    image[0x2C:0x2E] = (1).to_bytes(2, "little")
    image[0x31] = 0x80
    image[0x40:0x4F] = b"ioas test ROM\r\n"
    return bytes(image)


class TestVirtual(VirtualFunction):
    """A virtual function of it: a register that keeps what is written, one that writes, and two messages."""

    __test__ = False

    model: ClassVar[str] = "testdev-vf"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x7E55
    class_code: ClassVar[int] = 0xFF0000
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(flr=True), Msix(2, 0, 0x1000))
    migrates = Migration()

    window = Bar(0, 0x4000, "mem64", prefetchable=True)
    scratch = window.register(0x00)
    target = window.register(0x08, "WO", width=8, sizes=(4, 8))

    @target.on_write
    def _send(self, iova: int) -> None:
        self.dma.write(iova, self.index.to_bytes(4, "little"))
        self.interrupt(0)


class TestDevice(Function):
    """A function with everything, for tests: all capabilities, windows of all kinds, a DMA engine with lists."""

    __test__ = False  # or pytest takes it for a class of tests

    model: ClassVar[str] = "testdev"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x7E54
    revision_id: ClassVar[int] = 0x01
    class_code: ClassVar[int] = 0xFF0000
    subsystem_vendor_id: ClassVar[int] = 0x1234
    subsystem_id: ClassVar[int] = 0x0001
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (
        PowerManagement(no_soft_reset=False),
        Msi(8, masking=True),
        Msix(16, 4),
        Pcie(flr=True),
        BridgeSubsystem(0x1234, 0x0001),
        Aer(),
        Acs(),
        Pasid(20, execute=True, privileged=True),
        SrIov(TestVirtual, total=8),
    )
    rom: ClassVar[Rom | None] = Rom(_rom_image())
    migrates = Migration()

    pri = Option(True, "asks for missing pages by page requests where somebody answers them")

    mmio = Bar(0, 4096)
    identification = mmio.register(0x00, "RO", reset=IDENTIFICATION)
    version = mmio.register(0x04, "RO", reset=1)
    scratch = mmio.register(0x08, width=8, sizes=(1, 2, 4, 8))
    status = mmio.register(0x10, "RO")
    command = mmio.register(0x14, "WO", doorbell=True)
    list_address = mmio.register(0x18, width=8, sizes=(4, 8))
    list_length = mmio.register(0x20)
    elements_done = mmio.register(0x24, "RO")
    pasid = mmio.register(0x28)
    delay = mmio.register(0x2C)
    vector = mmio.register(0x30)
    events = mmio.register(0x34, "W1C", doorbell=True)
    raise_vector = mmio.register(0x38, "WO", doorbell=True)
    lower = mmio.register(0x3C, "WO", doorbell=True)
    fault_address = mmio.register(0x40, "RO", width=8, sizes=(4, 8))
    bytes_moved = mmio.register(0x48, "RO", width=8, sizes=(4, 8))
    fail = mmio.register(0x50, doorbell=True)

    store = Bar(2, MEMORY_SIZE, "mem64", prefetchable=True)
    memory = store.memory()
    table = Bar(4, 4096)
    ports = Bar(5, 32, "io")
    index = ports.register(0x00)
    data = ports.register(0x04)

    def __init__(self, /, **options: str | int | bool | float) -> None:
        super().__init__(**options)
        self.page_requests = self.pri

    def reset(self) -> None:
        """Registers and memory are cleared; a list under way is gone."""
        failing = self.fail == FAIL_IN_RESET
        super().reset()
        self.memory[:] = bytes(MEMORY_SIZE)
        if failing:
            self._fail()

    # The port pair reaches the registers of BAR 0, four bytes at a time.

    @data.on_read
    def _data_read(self) -> int:
        found = self.read_window(0, self.index, 4)
        return 0xFFFFFFFF if found is None else int.from_bytes(found, "little")

    @data.on_write
    def _data_written(self, value: int) -> None:
        self.write_window(0, self.index, value.to_bytes(4, "little"))

    # Interrupts and failures at will.

    @raise_vector.on_write
    def _raise_vector_written(self, value: int) -> None:
        self.interrupt(value)

    @lower.on_write
    def _lower_written(self, value: int) -> None:
        self.deassert()

    @fail.on_write
    def _fail_written(self, value: int) -> None:
        self.fail = value
        if value == FAIL_NOW:
            self._fail()
        elif value == FAIL_LATER:
            self.after(self.delay * MICROSECOND, self._fail)

    def _fail(self) -> None:
        raise RuntimeError("as it was told to")

    # The DMA engine.

    @command.on_write
    def _command_written(self, value: int) -> None:
        busy = self.status & BUSY
        if value & ABORT and busy:
            self.cancel_timers()
            self._finish(ABORTED)
        elif value & START and not busy:
            self.elements_done = 0
            self.fault_address = 0
            self.status = BUSY
            self._next()

    def _next(self) -> None:
        """Go on with the next element, after the delay."""
        if self.elements_done >= self.list_length:
            self._finish(DONE)
        else:
            self.after(self.delay * MICROSECOND, self._fetch)

    def _fetch(self) -> None:
        place = self.list_address + self.elements_done * ELEMENT.size
        self.dma.when_present(place, ELEMENT.size, self._take, write=False, pasid=self._pasid(0, 0))

    def _take(self) -> None:
        """Read the element that is next, and see that its source is there."""
        place = self.list_address + self.elements_done * ELEMENT.size
        element = self.dma.read(place, ELEMENT.size, self._pasid(0, 0))
        if element is None:
            self._stop(place)
            return
        source, destination, length, flags, zero = ELEMENT.unpack(element)
        if zero or length > LONGEST or not self._inside(source, destination, length, flags):
            self.record(f"element {self.elements_done} of the list at {self.list_address:#x} is malformed")
            self._stop(place)
            return
        read = partial(self._read_source, source, destination, length, flags)
        if flags & FROM_MEMORY:
            read()
        else:
            self.dma.when_present(source, length, read, write=False, pasid=self._pasid(flags, PLAIN_SOURCE))

    def _inside(self, source: int, destination: int, length: int, flags: int) -> bool:
        ends = [start for bit, start in ((FROM_MEMORY, source), (TO_MEMORY, destination)) if flags & bit]
        return all(start + length <= MEMORY_SIZE for start in ends)

    def _read_source(self, source: int, destination: int, length: int, flags: int) -> None:
        write = partial(self._move, source, destination, length, flags)
        if flags & TO_MEMORY:
            write()
        else:
            self.dma.when_present(destination, length, write, write=True, pasid=self._pasid(flags, PLAIN_DESTINATION))

    def _move(self, source: int, destination: int, length: int, flags: int) -> None:
        """Move the bytes of one element; both ends are there, or never will be."""
        if flags & FROM_MEMORY:
            data: bytes | None = bytes(self.memory[source : source + length])
        else:
            data = self.dma.read(source, length, self._pasid(flags, PLAIN_SOURCE))
        if data is None:
            self._stop(source)
        elif flags & TO_MEMORY:
            self.memory[destination : destination + length] = data
            self._moved(length, flags)
        elif self.dma.write(destination, data, self._pasid(flags, PLAIN_DESTINATION)):
            self._moved(length, flags)
        else:
            self._stop(destination)

    def _moved(self, length: int, flags: int) -> None:
        self.bytes_moved += length
        self.elements_done += 1
        if flags & SIGNAL:
            self._tell(BUSY)
        self._next()

    def _stop(self, address: int) -> None:
        """A transfer was stopped at `address`."""
        self.fault_address = address
        self._finish(STOPPED)

    def _finish(self, outcome: int) -> None:
        self.status = outcome
        self._tell(outcome)

    def _tell(self, event: int) -> None:
        """Interrupt, with the event's bit set; BUSY stands for an element that signals."""
        self.events |= event
        self.interrupt(self.vector)

    @events.on_write
    def _events_written(self, value: int) -> None:
        """Clearing the last event lowers the interrupt line."""
        self.events &= ~value
        if not self.events:
            self.deassert()

    def _pasid(self, flags: int, plain: int) -> int | None:
        """The PASID of a transfer, unless the element says that it goes without."""
        return self.pasid & ~PASID_ON if self.pasid & PASID_ON and not flags & plain else None
