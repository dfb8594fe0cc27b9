"""The registers of a stopped thread, as ptrace(2) gives them, and how instructions name parts of them.

A thread's registers are 27 words in the order of `struct user_regs_struct` (sys/user.h, x86-64). An instruction names
8, 16, 32 or 64 bits of one; writing 32 bits clears the upper half, writing fewer keeps the rest (AMD64 Architecture
Programmer's Manual, volume 1, 3.1.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from iced_x86 import Instruction, Register, Register_, RegisterExt


class Words(Protocol):
    """The 27 words; the tracer's are a ctypes array."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


WORDS = 27
RBX, RAX, RCX, RDX, RSI, RDI = 5, 10, 11, 12, 13, 14
RIP, FLAGS, RSP = 16, 18, 19
_FS_BASE, _GS_BASE = 21, 22
MASK64 = (1 << 64) - 1
_MASK32 = 0xFFFFFFFF

CARRY, PARITY, ADJUST, ZERO, SIGN, DIRECTION, OVERFLOW = 0x1, 0x4, 0x10, 0x40, 0x80, 0x400, 0x800
ARITHMETIC = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW

_INDEX = {
    Register.R15: 0,
    Register.R14: 1,
    Register.R13: 2,
    Register.R12: 3,
    Register.RBP: 4,
    Register.RBX: RBX,
    Register.R11: 6,
    Register.R10: 7,
    Register.R9: 8,
    Register.R8: 9,
    Register.RAX: RAX,
    Register.RCX: RCX,
    Register.RDX: RDX,
    Register.RSI: RSI,
    Register.RDI: RDI,
    Register.RIP: RIP,
    Register.RSP: RSP,
}
_HIGH_BYTES = (Register.AH, Register.BH, Register.CH, Register.DH)


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of a general register: `bits` bits of word `index` from bit `shift` on."""

    index: int
    shift: int
    bits: int

    def get(self, words: Words) -> int:
        """The value, unsigned."""
        return words[self.index] >> self.shift & (1 << self.bits) - 1

    def set(self, words: Words, value: int) -> None:
        """Replace the value, as an instruction with this operand does."""
        mask = (1 << self.bits) - 1
        if self.bits >= 32:
            words[self.index] = value & mask
        else:
            words[self.index] = words[self.index] & ~(mask << self.shift) | (value & mask) << self.shift


def slot(register: Register_) -> Slot | None:
    """Where a register operand is kept; None for what is no general register."""
    index = _INDEX.get(RegisterExt.full_register(register))
    if index is None:
        return None
    return Slot(index, 8 if register in _HIGH_BYTES else 0, RegisterExt.size(register) * 8)


def address_of(instruction: Instruction) -> Callable[[Words], int]:
    """How to compute the address of an instruction's memory operand; not for vector indexes.

    The instruction must have been decoded as if it stood at address 0. A pop through the stack pointer uses the value
    after the pop.
    """
    base, index = slot(instruction.memory_base), slot(instruction.memory_index)
    scale, displacement = instruction.memory_index_scale, instruction.memory_displacement
    narrow = RegisterExt.size(instruction.memory_base or instruction.memory_index) == 4
    mask = _MASK32 if narrow else MASK64
    segment = segment_base(instruction.memory_segment)

    def address(words: Words) -> int:
        at = displacement
        if base is not None:
            at += base.get(words)
        if index is not None:
            at += index.get(words) * scale
        return (at & mask) + segment(words) & MASK64

    return address


def segment_base(segment: int) -> Callable[[Words], int]:
    """The base of a segment register: only FS and GS have one in 64-bit code."""
    if segment not in (Register.FS, Register.GS):
        return _no_base
    word = _FS_BASE if segment == Register.FS else _GS_BASE
    return lambda words: words[word]


def _no_base(words: Words) -> int:
    return 0
