"""Gathers and scatters: one access for each element that the mask enables, in rising order, at addresses of its own.

An element that has been accessed has its mask cleared, and at the end all are (Intel SDM volume 2, VPGATHERDD). If the
memory of an element beside the window is missing, the instruction has done nothing here, where the processor keeps what
it has loaded.
"""

from __future__ import annotations

from collections.abc import Callable

from iced_x86 import (
    Code,
    Code_,
    EncodingKind,
    Instruction,
    MemoryOperand,
    MemorySizeExt,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

from ioas.run.mmio.displaced import assemble, read_mask
from ioas.run.mmio.machine import SCRATCH_DATA, Bus, Cpu
from ioas.run.mmio.registers import MASK64, RIP, segment_base, slot
from ioas.run.mmio.strings import get, put

_SCRATCH = MemoryOperand(Register.RIP, displ=SCRATCH_DATA, displ_size=8)
_WIDEST = 64
_MOVES: dict[tuple[bool, int], tuple[Code_, Code_]] = {
    (False, 16): (Code.VEX_VMOVDQU_XMM_XMMM128, Code.VEX_VMOVDQU_XMMM128_XMM),
    (False, 32): (Code.VEX_VMOVDQU_YMM_YMMM256, Code.VEX_VMOVDQU_YMMM256_YMM),
    (True, 16): (Code.EVEX_VMOVDQU64_XMM_K1Z_XMMM128, Code.EVEX_VMOVDQU64_XMMM128_K1Z_XMM),
    (True, 32): (Code.EVEX_VMOVDQU64_YMM_K1Z_YMMM256, Code.EVEX_VMOVDQU64_YMMM256_K1Z_YMM),
    (True, 64): (Code.EVEX_VMOVDQU64_ZMM_K1Z_ZMMM512, Code.EVEX_VMOVDQU64_ZMMM512_K1Z_ZMM),
}
"""Load and store of a whole vector register, by whether it is EVEX that encodes it, and its size."""


def action(instruction: Instruction) -> Callable[[Cpu, Bus, int], None] | None:
    """How to carry out a gather or a scatter; None for all others."""
    prefetches = instruction.op_count == 1  # of a processor that is no more
    return _Vector(instruction).carry_out if instruction.is_vsib and not prefetches else None


class _Vector:
    def __init__(self, instruction: Instruction) -> None:
        self._evex = instruction.encoding == EncodingKind.EVEX
        self._stores = instruction.op0_kind == OpKind.MEMORY
        self._data = instruction.op1_register if self._stores else instruction.op0_register
        self._mask = instruction.op_mask if self._evex else instruction.op2_register
        self._index = instruction.memory_index
        self._index_size = 8 if instruction.is_vsib64 else 4
        self._size = MemorySizeExt.size(instruction.memory_size)
        self._count = min(RegisterExt.size(self._index) // self._index_size, RegisterExt.size(self._data) // self._size)
        self._base = slot(instruction.memory_base)
        self._segment = segment_base(instruction.memory_segment)
        self._scale, self._displacement = instruction.memory_index_scale, instruction.memory_displacement
        self._length = instruction.len

    def carry_out(self, cpu: Cpu, bus: Bus, fault: int) -> None:
        """Access the elements, then set the registers."""
        addresses = self._addresses(cpu)
        data = bytearray(self._read(cpu, self._data))
        for number in self._enabled(cpu):
            part = slice(number * self._size, (number + 1) * self._size)
            if self._stores:
                put(cpu, bus, addresses[number], bytes(data[part]))
            else:
                data[part] = get(cpu, bus, addresses[number], self._size)
        if not self._stores:
            self._write(cpu, self._data, bytes(data[: self._count * self._size]))
        self._clear_mask(cpu)
        cpu.words[RIP] += self._length

    def _addresses(self, cpu: Cpu) -> list[int]:
        words, indexes = cpu.words, self._read(cpu, self._index)
        start = self._displacement + (self._base.get(words) if self._base else 0) + self._segment(words)
        parts = (
            indexes[at : at + self._index_size] for at in range(0, self._count * self._index_size, self._index_size)
        )
        return [start + int.from_bytes(part, "little", signed=True) * self._scale & MASK64 for part in parts]

    def _enabled(self, cpu: Cpu) -> list[int]:
        if self._evex:
            bits = read_mask(cpu, self._mask)
            return [number for number in range(self._count) if bits >> number & 1]
        mask = self._read(cpu, self._mask)
        return [number for number in range(self._count) if mask[(number + 1) * self._size - 1] & 0x80]

    def _clear_mask(self, cpu: Cpu) -> None:
        if self._evex:
            cpu.step(assemble(Instruction.create_reg_mem(Code.VEX_KMOVQ_KR_KM64, self._mask, _SCRATCH)), bytes(8))
        else:
            self._write(cpu, self._mask, b"")

    def _read(self, cpu: Cpu, register: Register_) -> bytes:
        store = _MOVES[self._evex, RegisterExt.size(register)][1]
        return cpu.step(assemble(Instruction.create_mem_reg(store, _SCRATCH, register)), b"")[:_WIDEST]

    def _write(self, cpu: Cpu, register: Register_, value: bytes) -> None:
        """Its low bytes; the rest becomes zero."""
        load = _MOVES[self._evex, RegisterExt.size(register)][0]
        cpu.step(assemble(Instruction.create_reg_mem(load, register, _SCRATCH)), value.ljust(_WIDEST, b"\0"))
