"""As much of an NVMe controller as a test of a driver needs: queues, PRPs, a RAM disk, and faults on request.

From the NVM Express Base Specification, revision 1.4. What it and a driver misread alike would not be noticed, so the
example is tried with QEMU's controller, too (tests/kernel).
"""

from __future__ import annotations

import struct
from typing import ClassVar

from ioas.soft.pci import Bar, Capability, Function, Msix, Pcie

BLOCK = 512
BLOCKS = 2048
PAGE = 4096
LARGEST = 32  # pages: MDTS 5


class _Ring:
    """A queue: where it stands, how many entries it has, where this side is in it."""

    def __init__(self, base: int = 0, entries: int = 1) -> None:
        self.base, self.entries, self.next, self.phase = base, entries, 0, 1
        self.vector: int | None = None

    def step(self, size: int) -> int:
        """The address of the entry that is next; goes on to the one after."""
        address = self.base + size * self.next
        self.next = (self.next + 1) % self.entries
        return address


class Nvme(Function):
    """A controller with one admin and one I/O queue pair, and a disk of 1 MiB."""

    model: ClassVar[str] = "test-nvme"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0953
    class_code: ClassVar[int] = 0x010802
    capabilities: ClassVar[tuple[Capability, ...]] = (Msix(2, 4), Pcie(flr=True))

    mmio = Bar(0, 0x4000, "mem64")
    table = Bar(4, 0x1000)
    cap = mmio.register(0x00, "RO", width=8, reset=1 << 37 | 2 << 24 | 1 << 16 | 63)  # ready within 1 s
    vs = mmio.register(0x08, "RO", reset=0x10400)
    cc = mmio.register(0x14)
    csts = mmio.register(0x1C, "RO")
    aqa = mmio.register(0x24)
    asq = mmio.register(0x28, width=8)
    acq = mmio.register(0x30, width=8)
    admin_tail = mmio.register(0x1000, "WO")
    admin_head = mmio.register(0x1004, "WO")
    io_tail = mmio.register(0x1008, "WO")
    io_head = mmio.register(0x100C, "WO")

    def __init__(self) -> None:
        super().__init__()
        self.disk = bytearray(BLOCK * BLOCKS)
        self.log: list[tuple[int, int]] = []
        """What came, as (opcode, pages of data)."""
        self.failing: dict[int, int] = {}
        """The status with which commands of an opcode end."""
        self.silent: set[int] = set()
        """Opcodes that are never completed."""
        self.delay = 0.0
        """Seconds from a doorbell to the work."""
        self.stuck = self.mute = self.backwards = False
        """It never starts; it never interrupts; it completes what came together in reverse order."""
        self._sq, self._cq = [_Ring(), _Ring()], [_Ring(), _Ring()]

    @cc.on_write
    def _cc_written(self, value: int) -> None:
        if value & 1 and not self.cc & 1 and not self.stuck:
            entries = (self.aqa & 0xFFF) + 1
            self._sq, self._cq = [_Ring(self.asq, entries), _Ring()], [_Ring(self.acq, entries), _Ring()]
            self._cq[0].vector = 0
            self.csts = 1
        elif not value & 1:
            self.csts = 0
        if value >> 14 & 3:
            self.csts |= 2 << 2
        self.cc = value

    @admin_tail.on_write
    def _admin_written(self, tail: int) -> None:
        self.after(self.delay, lambda: self._work(0, tail))

    @io_tail.on_write
    def _io_written(self, tail: int) -> None:
        self.after(self.delay, lambda: self._work(1, tail))

    def _work(self, queue: int, tail: int) -> None:
        done = []
        while self._sq[queue].next != tail and self.csts & 1:
            command = self.dma.read(self._sq[queue].step(64), 64)
            if command is not None and command[0] not in self.silent:
                done.append((struct.unpack_from("<H", command, 2)[0], self._carry_out(queue, command)))
        for identifier, status in reversed(done) if self.backwards else done:
            self._complete(queue, identifier, status)

    def _complete(self, queue: int, identifier: int, status: int) -> None:
        ring = self._cq[queue]
        phase = ring.phase
        address = ring.step(16)
        ring.phase ^= ring.next == 0
        entry = struct.pack("<8xHHHH", self._sq[queue].next, queue, identifier, status << 1 | phase)
        self.dma.write(address, entry)
        if ring.vector is not None and not self.mute:
            self.interrupt(ring.vector)

    def _carry_out(self, queue: int, command: bytes) -> int:
        opcode, _, _, _, prp1, prp2, *words = struct.unpack("<BBHI16xQQ6I", command)
        length = (words[2] + 1) * BLOCK if queue else PAGE if opcode == 6 else 0
        pieces = self._pieces(prp1, prp2, length)
        self.log.append((opcode, len(pieces)))
        if opcode in self.failing:
            return self.failing[opcode]
        return self._io(opcode, words, pieces) if queue else self._admin(opcode, words, prp1, pieces)

    def _admin(self, opcode: int, words: list[int], prp1: int, pieces: list[tuple[int, int]]) -> int:
        if opcode == 6:
            self.dma.write(pieces[0][0], _controller() if words[0] else _namespace())
        elif opcode in (1, 5):
            ring = _Ring(prp1, (words[0] >> 16) + 1)
            ring.vector = words[1] >> 16 if opcode == 5 and words[1] & 2 else None
            (self._sq if opcode == 1 else self._cq)[words[0] & 0xFFFF] = ring
        return 0 if opcode in (0, 1, 4, 5, 6, 9) else 1

    def _io(self, opcode: int, words: list[int], pieces: list[tuple[int, int]]) -> int:
        start = (words[0] | words[1] << 32) * BLOCK
        length = sum(size for _, size in pieces)
        if opcode and start + length > len(self.disk):
            return 0x80
        if len(pieces) > LARGEST + 1:
            return 2
        for address, size in pieces if opcode else []:
            if opcode == 1:
                self.disk[start : start + size] = self.dma.read(address, size) or b""
            else:
                self.dma.write(address, self.disk[start : start + size])
            start += size
        return 0

    def _pieces(self, prp1: int, prp2: int, length: int) -> list[tuple[int, int]]:
        """Where `length` bytes of a command's data lie: addresses and sizes."""
        first = min(length, PAGE - prp1 % PAGE)
        pieces, left = [(prp1, first)] * bool(length), length - first
        count = -(-left // PAGE)
        listed = self.dma.read(prp2, 8 * count) or b"" if count > 1 else prp2.to_bytes(8, "little") * count
        for (address,) in struct.iter_unpack("<Q", listed):
            pieces.append((address, min(left, PAGE)))
            left -= PAGE
        return pieces


def _controller() -> bytes:
    page = bytearray(PAGE)
    page[4:72] = b"serial".ljust(20) + b"model".ljust(40) + b"0.1".ljust(8)
    page[77] = LARGEST.bit_length() - 1
    return bytes(page)


def _namespace() -> bytes:
    page = bytearray(PAGE)
    page[0:8] = BLOCKS.to_bytes(8, "little")
    page[26] = 1
    page[130], page[134] = 12, BLOCK.bit_length() - 1  # format 1 is in use
    return bytes(page)
