"""An NVMe driver over ioas's Python API: one controller, one pair of I/O queues, namespace 1.

Sections are those of the NVM Express Base Specification, revision 1.4. The driver knows no IOMMU: it takes DMA memory
from a space of the API, and gives the device the addresses that the memory has (`DmaBuffer.pages`). `nvme.py` is a
program with it.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Self

from ioas.api import Device, DmaBuffer, Irq, Region, Space
from ioas.api.irq import IrqKind

PAGE = 4096
ENTRIES = 16
"""The depth of the queues, which stand in one page each."""
LARGEST = PAGE // 8 * PAGE
"""The bytes that one command may move: what one page of PRP entries leads to."""

CLASS_CODE, CLASS_NVME = 0x09, b"\x02\x08\x01"  # in configuration space

# Registers in BAR 0 (3.1), and their fields.
CAP, VS, CC, CSTS, AQA, ASQ, ACQ, DOORBELLS = 0x00, 0x08, 0x14, 0x1C, 0x24, 0x28, 0x30, 0x1000
CC_ENABLE = 1
CC_ENTRY_SIZES = 4 << 20 | 6 << 16  # completions of 2**4 bytes, commands of 2**6; CC.MPS 0: pages of 4 KiB
CC_SHUTDOWN, CC_SHUTDOWN_MASK = 1 << 14, 3 << 14
CSTS_READY, CSTS_FATAL, CSTS_SHUTDOWN_MASK, CSTS_SHUTDOWN_DONE = 1, 2, 3 << 2, 2 << 2

# Commands (5 and the NVM command set, 6).
DELETE_SQ, CREATE_SQ, DELETE_CQ, CREATE_CQ, IDENTIFY, SET_FEATURES = 0x00, 0x01, 0x04, 0x05, 0x06, 0x09
FLUSH, WRITE, READ = 0x00, 0x01, 0x02
IDENTIFY_NAMESPACE, IDENTIFY_CONTROLLER = 0, 1
NUMBER_OF_QUEUES = 0x07

COMMAND = struct.Struct("<BBHI16xQQ6I")  # 4.2: opcode, flags, id, namespace, PRP 1 and 2, words 10 to 15
COMPLETION = struct.Struct("<I4xHHHH")  # 4.6: result, SQ head, SQ id, command id, status and phase

TIMEOUT = 10.0
"""Seconds to wait for a command."""

STATUS = {  # by type and code (4.6.1): those that drivers see most
    (0, 0x01): "invalid opcode",
    (0, 0x02): "invalid field in the command",
    (0, 0x04): "data transfer error",
    (0, 0x06): "internal error",
    (0, 0x0B): "invalid namespace or format",
    (0, 0x13): "invalid PRP offset",
    (0, 0x80): "block out of range",
    (1, 0x01): "invalid queue identifier",
    (1, 0x08): "invalid interrupt vector",
    (2, 0x80): "write fault",
    (2, 0x81): "unrecovered read error",
}


class NvmeError(Exception):
    """The disk does not do what it should."""


class NvmeTimeoutError(NvmeError):
    """It did not answer in time."""


class CommandError(NvmeError):
    """A command ended with an error: its `opcode`, status code type `type` and status code `code` (4.6.1)."""

    def __init__(self, opcode: int, status: int) -> None:
        self.opcode, self.type, self.code = opcode, status >> 8 & 7, status & 0xFF
        meaning = STATUS.get((self.type, self.code), "see the specification")
        super().__init__(f"command {opcode:#04x} failed: status {self.type:x}/{self.code:02x}h, {meaning}")


class MediaError(CommandError):
    """The medium, or the data on it, is at fault (status code type 2)."""


class Completion(NamedTuple):
    """What came of a command."""

    opcode: int
    status: int
    result: int

    def check(self) -> int:
        """The result. Raises CommandError."""
        if self.status:
            raise (MediaError if self.status >> 8 & 7 == 2 else CommandError)(self.opcode, self.status)
        return self.result


def addresses(pages: Sequence[int], offset: int, length: int) -> list[int]:
    """Where a device finds `length` bytes from `offset` of memory whose `pages` lie there: one address a page."""
    first, last = offset // PAGE, (offset + length - 1) // PAGE
    return [pages[first] + offset % PAGE, *pages[first + 1 : last + 1]]


def cut(blocks: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut `blocks` into pieces whose sizes repeat: where each begins, and its size."""
    start = 0
    for size in itertools.cycle(sizes):
        if start >= blocks:
            return
        yield start, min(size, blocks - start)
        start += size


class Queue:
    """A submission and a completion queue (4.1), each in one page, and a page of PRP lists for each command."""

    def __init__(self, space: Space, doorbells: Region, number: int, stride: int, entries: int) -> None:
        """`stride`: bytes between doorbells. `entries`: 2 to 64."""
        self.entries = entries
        self.irq: Irq | None = None
        self.commands = space.alloc(entries * COMMAND.size)
        self.completions = space.alloc(entries * COMPLETION.size, writable=True)
        self._lists = space.alloc(entries * PAGE)
        self._doorbells, self._tail_offset = doorbells, DOORBELLS + 2 * number * stride
        self._head_offset = self._tail_offset + stride
        self._tail = self._head = 0
        self._phase = 1
        self._free = deque(range(entries - 1))  # one fewer than entries: a full queue would look like an empty one
        self._opcodes: dict[int, int] = {}

    @property
    def full(self) -> bool:
        """Whether a command has to complete before the next can be submitted."""
        return not self._free

    @property
    def in_flight(self) -> int:
        """How many commands have not completed."""
        return len(self._opcodes)

    def submit(self, opcode: int, namespace: int, data: Sequence[int], *words: int) -> None:
        """Give a command to the device: `data` is where its data lies (`addresses`), `words` are command words 10..."""
        identifier = self._free.popleft()
        prp1, prp2 = self._prps(identifier, data)
        command = COMMAND.pack(opcode, 0, identifier, namespace, prp1, prp2, *words, *[0] * (6 - len(words)))
        self.commands.view[self._tail * COMMAND.size : (self._tail + 1) * COMMAND.size] = command
        self._opcodes[identifier] = opcode
        self._tail = (self._tail + 1) % self.entries
        self._doorbells.write32(self._tail_offset, self._tail)

    def complete(self) -> Completion:
        """Wait for the next completion, by interrupt or by looking. Raises NvmeTimeoutError after `TIMEOUT`."""
        deadline = time.monotonic() + TIMEOUT
        offset = self._head * COMPLETION.size
        # The phase stands in the last bytes of the entry: once it is turned the rest is there (4.6).
        while self.completions.view[offset + 14] & 1 != self._phase:
            self._wait(deadline)
        result, _, _, identifier, status = COMPLETION.unpack_from(self.completions.view, offset)
        self._head = (self._head + 1) % self.entries
        self._phase ^= self._head == 0
        self._doorbells.write32(self._head_offset, self._head)
        if identifier not in self._opcodes:
            raise NvmeError(f"the device completed command {identifier}, which is not under way")
        self._free.append(identifier)
        return Completion(self._opcodes.pop(identifier), status >> 1 & 0x7FF, result)

    def close(self) -> None:
        """Let go of the memory: the device must not use it any more."""
        for buffer in (self.commands, self.completions, self._lists):
            buffer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wait(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            if self.irq is not None:
                self.irq.wait(left)  # one that came before we looked counts, too: the loop above looks again
        except TimeoutError as error:
            raise NvmeTimeoutError(f"{self.in_flight} commands have not completed in {TIMEOUT:g} s") from error

    def _prps(self, identifier: int, data: Sequence[int]) -> tuple[int, int]:
        """PRP 1 and 2 (4.3): two addresses stand in the command, more in a list that the second leads to."""
        if len(data) <= 2:
            return data[0] if data else 0, data[1] if len(data) == 2 else 0
        if len(data) - 1 > PAGE // 8:
            raise NvmeError(f"{len(data)} pages are more than one command takes here ({PAGE // 8 + 1})")
        struct.pack_into(f"<{len(data) - 1}Q", self._lists.view, identifier * PAGE, *data[1:])
        return data[0], self._lists.pages[identifier]


class Disk:
    """An NVMe controller with one pair of I/O queues, and its namespace 1; `opened` makes one."""

    def __init__(self, registers: Region, admin: Queue, io: Queue) -> None:
        self._registers, self._admin, self._io = registers, admin, io
        self._ready_timeout = max(registers.read64(CAP) >> 24 & 0xFF, 1) * 0.5  # CAP.TO: in units of 500 ms
        self.model = self.serial = self.firmware = ""
        self.blocks = self.block_size = self.max_blocks = 0

    @property
    def version(self) -> str:
        """The revision of the specification that the controller follows."""
        version = self._registers.read32(VS)
        return f"{version >> 16}.{version >> 8 & 0xFF}"

    def enable(self) -> None:
        """Start the controller with empty queues (7.6.1)."""
        self.disable()
        last = self._admin.entries - 1
        self._registers.write32(AQA, last << 16 | last)
        self._registers.write64(ASQ, self._admin.commands.pages[0])
        self._registers.write64(ACQ, self._admin.completions.pages[0])
        self._registers.write32(CC, CC_ENTRY_SIZES | CC_ENABLE)
        self._await(CSTS_READY, CSTS_READY, "start")

    def disable(self) -> None:
        """Reset the controller: afterwards it touches no memory."""
        self._registers.write32(CC, self._registers.read32(CC) & ~CC_ENABLE)
        self._await(CSTS_READY, 0, "stop")

    def shut_down(self) -> None:
        """Tell the controller to put its data away (7.6.2), without the I/O queues first."""
        self._command(DELETE_SQ, 0, [], 1)
        self._command(DELETE_CQ, 0, [], 1)
        self._registers.write32(CC, self._registers.read32(CC) & ~CC_SHUTDOWN_MASK | CC_SHUTDOWN)
        self._await(CSTS_SHUTDOWN_MASK, CSTS_SHUTDOWN_DONE, "shut down")

    def create_io_queues(self, vector: int | None) -> None:
        """Create the pair of I/O queues (5.3, 5.4), whose completions interrupt by `vector` if there is one."""
        self._command(SET_FEATURES, 0, [], NUMBER_OF_QUEUES, 0)  # one of each: numbers begin at 0
        size = self._io.entries - 1 << 16 | 1
        interrupt = 0 if vector is None else vector << 16 | 2
        self._command(CREATE_CQ, 0, self._io.completions.pages, size, interrupt | 1)
        self._command(CREATE_SQ, 0, self._io.commands.pages, size, 1 << 16 | 1)

    def identify(self, page: DmaBuffer) -> None:
        """Ask what it is (5.15)."""
        self._command(IDENTIFY, 0, page.pages, IDENTIFY_CONTROLLER)
        texts = (page.view[4:24], page.view[24:64], page.view[64:72])
        self.serial, self.model, self.firmware = (bytes(text).decode("ascii", "replace").strip() for text in texts)
        transfer = min(PAGE << page.view[77] if page.view[77] else LARGEST, LARGEST)  # MDTS, in pages; 0: any
        self._command(IDENTIFY, 1, page.pages, IDENTIFY_NAMESPACE)
        self.blocks = int.from_bytes(page.view[0:8], "little")
        metadata, shift = struct.unpack_from("<HB", page.view, 128 + 4 * (page.view[26] & 0xF))
        if metadata or not 9 <= shift <= 12:
            raise NvmeError(f"blocks of {1 << shift} bytes with {metadata} of metadata are not for this driver")
        self.block_size, self.max_blocks = 1 << shift, transfer >> shift

    def transfer(self, opcode: int, start: int, blocks: int, buffer: DmaBuffer, sizes: Sequence[int]) -> int:
        """READ or WRITE `blocks` from block `start`, by commands whose sizes (in blocks) are `sizes` in turn.

        As many are under way at once as the queue takes. Returns how many there were. Raises CommandError for the
        first that failed, when none is under way any more.
        """
        done: list[Completion] = []
        for first, count in cut(blocks, sizes):
            if self._io.full:
                done.append(self._io.complete())
            data = addresses(buffer.pages, first * self.block_size, count * self.block_size)
            self._io.submit(opcode, 1, data, (start + first) & 0xFFFFFFFF, (start + first) >> 32, count - 1)
        done += [self._io.complete() for _ in range(self._io.in_flight)]
        for completion in done:
            completion.check()
        return len(done)

    def flush(self) -> None:
        """Let everything that was written reach the medium."""
        self._io.submit(FLUSH, 1, [])
        self._io.complete().check()

    def _command(self, opcode: int, namespace: int, data: Sequence[int], *words: int) -> int:
        self._admin.submit(opcode, namespace, data, *words)
        return self._admin.complete().check()

    def _await(self, mask: int, value: int, what: str) -> None:
        deadline = time.monotonic() + self._ready_timeout
        while (status := self._registers.read32(CSTS)) & mask != value:
            if status == 0xFFFFFFFF:
                raise NvmeError("the controller is gone")
            if time.monotonic() > deadline:
                raise NvmeTimeoutError(f"the controller did not {what} in {self._ready_timeout} s, status {status:#x}")
            time.sleep(0.001)


@contextmanager
def opened(device: Device, space: Space, interrupts: bool) -> Iterator[Disk]:
    """Start the controller of `device`, whose DMA goes to `space`; shut it down afterwards.

    `interrupts`: wait by MSI-X or MSI, not by looking. Raises NvmeError, and IoasError as the device's calls.
    """
    if device.config.read(CLASS_CODE, 3) != CLASS_NVME:
        raise NvmeError(f"{device.bdf} is no NVMe controller")
    registers = device.bar(0)
    capabilities = registers.read64(CAP)
    if capabilities >> 48 & 0xF:
        raise NvmeError("the controller does not take pages of 4 KiB")
    entries, stride = min((capabilities & 0xFFFF) + 1, ENTRIES), 4 << (capabilities >> 32 & 0xF)
    with ExitStack() as cleanup:
        admin, io = (cleanup.enter_context(Queue(space, registers, number, stride, entries)) for number in (0, 1))
        if interrupts:
            kind: IrqKind = "msix" if device.irq_info("msix").count else "msi"
            irqs = cleanup.enter_context(device.irqs(kind, min(device.irq_info(kind).count, 2) or 1))
            admin.irq, io.irq = irqs[0], irqs[len(irqs) - 1]
        disk = Disk(registers, admin, io)
        cleanup.callback(setattr, device, "bus_master", False)  # even if it cannot be disabled: no DMA from here on
        cleanup.callback(disk.disable)
        device.bus_master = True
        disk.enable()
        with space.alloc(PAGE, writable=True) as page:
            disk.identify(page)
        disk.create_io_queues(io.irq.vector if io.irq else None)
        yield disk
        disk.shut_down()
