"""Instructions that the processor carries out itself, on a copy of what stands in the window.

The memory operand is exchanged for one that lies in scratch memory of the program (`Cpu.step`): what the instruction
loads has been loaded from the device into it before, what it stores is stored to the device afterwards. So each
access is made once, with its width, and everything else - registers, flags, exceptions, rounding - is the processor's
own doing. Which accesses an instruction makes is the decoder's knowledge, with these additions:

- Read-modify-write instructions write always, cmpxchg too when it fails (Intel SDM volume 2, CMPXCHG).
- Under a mask, stores and plain moves (AVX-512, vmaskmov) access only enabled elements, each by itself, in rising
  order; calculations load their whole operand.
- An operand of 10, 16 or more bytes is one access if its size is a power of two, up to 64; else cut into 8, 4, 2, 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from iced_x86 import (
    Code,
    Encoder,
    Instruction,
    InstructionInfoFactory,
    MemoryOperand,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

from ioas.run.mmio.machine import SCRATCH_CODE, SCRATCH_DATA, SCRATCH_ROOM, Bus, Cpu, NotEmulated
from ioas.run.mmio.registers import MASK64, RIP, address_of
from ioas.run.mmio.strings import get, put

_READING = {OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
_WRITING = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
_VECTOR_MASKED = {Mnemonic.VPMASKMOVD, Mnemonic.VPMASKMOVQ, Mnemonic.VMASKMOVPS, Mnemonic.VMASKMOVPD}
_COMPRESSING = {
    getattr(Mnemonic, name)
    for name in (
        *(f"V{verb}{kind}" for verb in ("COMPRESS", "EXPAND") for kind in ("PS", "PD")),
        *(f"VP{verb}{kind}" for verb in ("COMPRESS", "EXPAND") for kind in "BWDQ"),
    )
}
_BY_ELEMENTS = _COMPRESSING | {
    getattr(Mnemonic, name)
    for name in (
        *(f"VMOV{kind}" for kind in ("UPS", "UPD", "APS", "APD", "SS", "SD", "SH")),
        *(f"VMOVDQ{kind}" for kind in ("A32", "A64", "U8", "U16", "U32", "U64")),
    )
}
"""Loads under a mask that leave out what is not enabled; other instructions with a mask load their whole operand."""
_WIDEST = 64
_POPS = (Code.POP_RM16, Code.POP_RM64)
_SCRATCH = MemoryOperand(Register.RIP, displ=SCRATCH_DATA, displ_size=8)
_information = InstructionInfoFactory()

Action = Callable[[Cpu, Bus, int], None]
Piece = tuple[int, int]
"""Offset and length of an access in the operand."""


class _Operand(NamedTuple):
    """What an instruction does with its memory operand."""

    size: int
    reads: bool
    writes: bool


def action(instruction: Instruction) -> Action:
    """How to carry out `instruction`, which has one memory operand. Raises NotEmulated."""
    operand = _operand(instruction)
    code, length = displace(instruction), instruction.len
    address, relative = address_of(instruction), instruction.is_ip_rel_memory_operand
    lift = operand.size if instruction.code in _POPS and instruction.memory_base == Register.RSP else 0
    pieces = _pieces(instruction, operand.size)

    def carry_out(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        before = words[RIP]
        at = address(words) + lift + (before if relative else 0) & MASK64
        parts = pieces(cpu)
        outside = [(at + start, count) for start, count in parts if not bus.covers(at + start, count)]
        if operand.writes:
            for place, count in outside:
                cpu.write(place, cpu.read(place, count))  # a load has effects, so first see that it can be stored
        data = load(cpu, bus, at, parts) if operand.reads else b""
        result = cpu.step(code, data)
        if operand.writes:
            for start, count in parts:
                put(cpu, bus, at + start, result[start : start + count])
        if words[RIP] == before:
            words[RIP] += length

    return carry_out


def load(cpu: Cpu, bus: Bus, address: int, pieces: Sequence[Piece]) -> bytes:
    """Load the pieces of an operand at `address`; what is not loaded is zero."""
    data = bytearray(SCRATCH_ROOM)
    for start, count in pieces:
        data[start : start + count] = get(cpu, bus, address + start, count)
    return bytes(data)


def displace(instruction: Instruction) -> bytes:
    """The same instruction at SCRATCH_CODE, with its memory operand at SCRATCH_DATA. Raises NotEmulated."""
    copy = instruction.copy()
    copy.segment_prefix = Register.NONE
    copy.memory_base, copy.memory_index = Register.RIP, Register.NONE
    copy.memory_index_scale = 1
    copy.memory_displacement, copy.memory_displ_size = SCRATCH_DATA, 8
    return assemble(copy)


def assemble(instruction: Instruction) -> bytes:
    """The bytes of `instruction` at SCRATCH_CODE. Raises NotEmulated."""
    encoder = Encoder(64)
    try:
        encoder.encode(instruction, SCRATCH_CODE)
    except ValueError as error:
        raise NotEmulated(f"{instruction} cannot be carried out elsewhere: {error}") from error
    return encoder.take_buffer()


def _operand(instruction: Instruction) -> _Operand:
    kinds = [instruction.op_kind(index) for index in range(instruction.op_count)]
    if kinds.count(OpKind.MEMORY) != 1 or instruction.is_vsib:
        raise NotEmulated(f"{instruction} is not served on a mapped BAR")
    used = _information.info(instruction).used_memory()
    if not used:
        raise NotEmulated(f"{instruction} does not access its operand")
    size = MemorySizeExt.size(used[0].memory_size)
    if not 0 < size <= SCRATCH_ROOM:
        raise NotEmulated(
            f"{instruction} accesses {size or 'an unknown number of'} bytes; up to {SCRATCH_ROOM} are served"
        )
    return _Operand(size, used[0].access in _READING, used[0].access in _WRITING)


def _pieces(instruction: Instruction, size: int) -> Callable[[Cpu], Sequence[Piece]]:
    """The accesses that make up the operand, as far as they depend on the thread's mask registers."""
    element = MemorySizeExt.element_size(instruction.memory_size)
    if instruction.mnemonic in _VECTOR_MASKED:
        mask = instruction.op1_register
        return lambda cpu: _by_signs(read_vector(cpu, mask), element, size)
    stores = instruction.op0_kind == OpKind.MEMORY
    if not instruction.has_op_mask or not (stores or instruction.mnemonic in _BY_ELEMENTS):
        whole = _whole(size)
        return lambda cpu: whole
    together = instruction.mnemonic in _COMPRESSING
    count = size // element
    register = instruction.op_mask

    def enabled(cpu: Cpu) -> Sequence[Piece]:
        bits = read_mask(cpu, register)
        chosen = [index for index in range(count) if bits >> index & 1]
        return (
            [(n * element, element) for n, _ in enumerate(chosen)]
            if together
            else [(index * element, element) for index in chosen]
        )

    return enabled


def _by_signs(mask: bytes, element: int, size: int) -> Sequence[Piece]:
    return [(at, element) for at in range(0, size, element) if mask[at + element - 1] & 0x80]


def _whole(size: int) -> Sequence[Piece]:
    if size & size - 1 == 0 and size <= _WIDEST:
        return [(0, size)]
    pieces, at = [], 0
    while at < size:
        width = next(w for w in (8, 4, 2, 1) if w <= size - at)
        pieces.append((at, width))
        at += width
    return pieces


def read_mask(cpu: Cpu, register: Register_) -> int:
    """The value of a mask register, k0 to k7: the thread stores it into its scratch memory."""
    wide = Instruction.create_mem_reg(Code.VEX_KMOVQ_M64_KR, _SCRATCH, register)
    return int.from_bytes(cpu.step(assemble(wide), b"")[:8], "little")


def read_vector(cpu: Cpu, register: Register_) -> bytes:
    """The contents of a vector register of 16 or 32 bytes, padded to 64; the processor must have AVX."""
    wide = RegisterExt.size(register) == 32
    code = Code.VEX_VMOVDQU_YMMM256_YMM if wide else Code.VEX_VMOVDQU_XMMM128_XMM
    return cpu.step(assemble(Instruction.create_mem_reg(code, _SCRATCH, register)), b"")
