"""String instructions: movs, lods, stos, cmps and scas, with and without a repeat prefix, in both directions.

Each element is one access, as the processor makes them on uncached memory. What has been done stands in the registers
at any time, so a thread whose other operand is not there faults where the processor would have stopped, and a very
long repetition is done in portions.
"""

from __future__ import annotations

from collections.abc import Callable

from iced_x86 import Instruction, MemorySizeExt, Mnemonic, OpKind

from ioas.run.mmio.flags import of_subtraction
from ioas.run.mmio.machine import Bus, Cpu
from ioas.run.mmio.registers import (
    ARITHMETIC,
    DIRECTION,
    FLAGS,
    MASK64,
    RAX,
    RCX,
    RDI,
    RIP,
    RSI,
    ZERO,
    Slot,
    Words,
    segment_base,
)

_PORTION = 4096
"""Elements that are moved before the thread goes on, and at once comes back for the rest."""
_SOURCES = {OpKind.MEMORY_SEG_RSI: 64, OpKind.MEMORY_SEG_ESI: 32}
_DESTINATIONS = {OpKind.MEMORY_ESRDI: 64, OpKind.MEMORY_ESEDI: 32}
_MOVES = (Mnemonic.MOVSB, Mnemonic.MOVSW, Mnemonic.MOVSD, Mnemonic.MOVSQ)
_LOADS = (Mnemonic.LODSB, Mnemonic.LODSW, Mnemonic.LODSD, Mnemonic.LODSQ)
_STORES = (Mnemonic.STOSB, Mnemonic.STOSW, Mnemonic.STOSD, Mnemonic.STOSQ)
_COMPARES = (Mnemonic.CMPSB, Mnemonic.CMPSW, Mnemonic.CMPSD, Mnemonic.CMPSQ)
_SCANS = (Mnemonic.SCASB, Mnemonic.SCASW, Mnemonic.SCASD, Mnemonic.SCASQ)

Element = Callable[[Cpu, Bus], None]


class _Operand:
    """A string operand: a pointer register that moves on by one element."""

    def __init__(self, index: int, bits: int, segment: int, size: int) -> None:
        self._pointer = Slot(index, 0, bits)
        self._base = segment_base(segment)
        self.size = size

    def address(self, words: Words) -> int:
        return self._pointer.get(words) + self._base(words) & MASK64

    def advance(self, words: Words) -> None:
        step = -self.size if words[FLAGS] & DIRECTION else self.size
        self._pointer.set(words, self._pointer.get(words) + step)


def string(instruction: Instruction) -> Callable[[Cpu, Bus, int], None] | None:
    """How to carry out a string instruction; None when it is none of those above."""
    element = _element(instruction)
    if element is None:
        return None
    length = instruction.len
    if not (instruction.has_rep_prefix or instruction.has_repne_prefix):

        def once(cpu: Cpu, bus: Bus, address: int) -> None:
            element(cpu, bus)
            cpu.words[RIP] += length

        return once
    until_equal = instruction.mnemonic in (*_COMPARES, *_SCANS)
    wanted = ZERO if instruction.has_repe_prefix else 0
    count = Slot(RCX, 0, _address_bits(instruction))

    def repeat(cpu: Cpu, bus: Bus, address: int) -> None:
        words = cpu.words
        for _ in range(_PORTION):
            if not count.get(words):
                break
            element(cpu, bus)
            count.set(words, count.get(words) - 1)
            if until_equal and words[FLAGS] & ZERO != wanted:
                break
        else:
            if count.get(words):
                return
        words[RIP] += length

    return repeat


def _address_bits(instruction: Instruction) -> int:
    kinds = [instruction.op_kind(index) for index in range(instruction.op_count)]
    return next(bits for kind in kinds if (bits := _SOURCES.get(kind) or _DESTINATIONS.get(kind)))


def _element(instruction: Instruction) -> Element | None:
    """What is done for one element: accesses, then pointers."""
    kinds = [instruction.op_kind(index) for index in range(instruction.op_count)]
    if not any(kind in _SOURCES or kind in _DESTINATIONS for kind in kinds):
        return None
    size, bits = MemorySizeExt.size(instruction.memory_size), _address_bits(instruction)
    source = _Operand(RSI, bits, instruction.memory_segment, size)
    destination = _Operand(RDI, bits, 0, size)
    accumulator = Slot(RAX, 0, size * 8)
    mnemonic = instruction.mnemonic
    if mnemonic in _MOVES:
        return _move(source, destination)
    if mnemonic in _LOADS:
        return _load(source, accumulator)
    if mnemonic in _STORES:
        return _store(accumulator, destination)
    if mnemonic in _COMPARES:
        return _compare(source, destination)
    return _scan(accumulator, destination) if mnemonic in _SCANS else None


def _move(source: _Operand, destination: _Operand) -> Element:
    def element(cpu: Cpu, bus: Bus) -> None:
        words, size = cpu.words, source.size
        to = destination.address(words)
        into_window = bus.covers(to, size)
        if not into_window:
            cpu.write(to, cpu.read(to, size))  # a load has effects, so first see that its value can be put down
        data = get(cpu, bus, source.address(words), size)
        if into_window:
            bus.write(to, data)
        else:
            cpu.write(to, data)
        source.advance(words)
        destination.advance(words)

    return element


def _load(source: _Operand, accumulator: Slot) -> Element:
    def element(cpu: Cpu, bus: Bus) -> None:
        words = cpu.words
        accumulator.set(words, int.from_bytes(get(cpu, bus, source.address(words), source.size), "little"))
        source.advance(words)

    return element


def _store(accumulator: Slot, destination: _Operand) -> Element:
    def element(cpu: Cpu, bus: Bus) -> None:
        words = cpu.words
        put(cpu, bus, destination.address(words), accumulator.get(words).to_bytes(destination.size, "little"))
        destination.advance(words)

    return element


def _compare(source: _Operand, destination: _Operand) -> Element:
    def element(cpu: Cpu, bus: Bus) -> None:
        words, size = cpu.words, source.size
        other = destination.address(words)
        if not bus.covers(other, size):
            cpu.read(other, size)  # as in `_move`
        left = int.from_bytes(get(cpu, bus, source.address(words), size), "little")
        right = int.from_bytes(get(cpu, bus, other, size), "little")
        words[FLAGS] = words[FLAGS] & ~ARITHMETIC | of_subtraction(left, right, size)
        source.advance(words)
        destination.advance(words)

    return element


def _scan(accumulator: Slot, destination: _Operand) -> Element:
    def element(cpu: Cpu, bus: Bus) -> None:
        words, size = cpu.words, destination.size
        right = int.from_bytes(get(cpu, bus, destination.address(words), size), "little")
        words[FLAGS] = words[FLAGS] & ~ARITHMETIC | of_subtraction(accumulator.get(words), right, size)
        destination.advance(words)

    return element


def get(cpu: Cpu, bus: Bus, address: int, length: int) -> bytes:
    """One load, from a window or from the program's memory. Raises MemoryFault, Silent, NotEmulated."""
    return bus.read(address, length) if bus.covers(address, length) else cpu.read(address, length)


def put(cpu: Cpu, bus: Bus, address: int, data: bytes) -> None:
    """One store. Raises as `get`."""
    if bus.covers(address, len(data)):
        bus.write(address, data)
    else:
        cpu.write(address, data)
