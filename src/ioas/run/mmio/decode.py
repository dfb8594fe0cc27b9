"""From the bytes of an instruction to what has to be done when its memory operand lies in a window.

The loads and stores that drivers use most are carried out here. All others are carried out by the processor itself, on
a copy (`ioas.run.mmio.displaced`), so that registers, flags and exceptions are its own. An action knows nothing of the
thread or the place: it is kept by the instruction's bytes, and used wherever these stand.
"""

from __future__ import annotations

from collections.abc import Callable

from iced_x86 import Decoder, Instruction, MemorySizeExt, Mnemonic, OpKind, Register

from ioas.run.mmio import displaced, gathers, special
from ioas.run.mmio.compiled import Move
from ioas.run.mmio.machine import Bus, Cpu, NotEmulated
from ioas.run.mmio.registers import MASK64, RIP, Slot, Words, address_of, slot
from ioas.run.mmio.strings import string

Action = Callable[[Cpu, Bus, int], None]
"""Carries out one instruction of a thread, whose access at the given address has faulted, and moves on behind it.

Raises NotEmulated, Silent, MemoryFault, StepFault; the thread's registers may have been changed then, except for what a
string instruction has done."""

LONGEST = 15
"""Bytes that an instruction has at most."""
_KEPT = 4096
_PAGE = 4096
_IMMEDIATES = {
    OpKind.IMMEDIATE8,
    OpKind.IMMEDIATE16,
    OpKind.IMMEDIATE32,
    OpKind.IMMEDIATE64,
    OpKind.IMMEDIATE8TO16,
    OpKind.IMMEDIATE8TO32,
    OpKind.IMMEDIATE8TO64,
    OpKind.IMMEDIATE32TO64,
}
_ZERO_EXTENDING = (Mnemonic.MOV, Mnemonic.MOVZX)
_SIGN_EXTENDING = (Mnemonic.MOVSX, Mnemonic.MOVSXD)
_STORING = (Mnemonic.MOV, Mnemonic.MOVNTI, Mnemonic.MOVDIRI)
_FLUSHES = (Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB, Mnemonic.CLDEMOTE)


class Actions:
    """The actions of instructions seen so far, by the bytes that stand where they begin."""

    def __init__(self) -> None:
        self._known: dict[bytes, Action] = {}

    def find(self, code: bytes) -> Action:
        """The action for the instruction that `code` (up to LONGEST bytes) begins with. Raises NotEmulated."""
        action = self._known.get(code)
        if action is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            action = self._known[code] = action_for(decode(code))
        return action


def decode(code: bytes) -> Instruction:
    """The instruction, as if it stood at address 0. Raises NotEmulated for bytes that are none."""
    instruction = Decoder(64, code).decode()
    if instruction.is_invalid:
        raise NotEmulated(f"no known instruction begins with {code.hex(' ')}")
    return instruction


def action_for(instruction: Instruction) -> Action:
    """How to carry out `instruction`. Raises NotEmulated."""
    return (
        _load(instruction)
        or _store(instruction)
        or _flush(instruction)
        or string(instruction)
        or special.action(instruction)
        or gathers.action(instruction)
        or displaced.action(instruction)
    )


def move_of(instruction: Instruction) -> Move | None:
    """The instruction as a move that is whole registers' or a constant's; None when it is something else."""
    if instruction.mnemonic in _ZERO_EXTENDING and instruction.op1_kind == OpKind.MEMORY:
        target = slot(instruction.op0_register)
        return _move(instruction, False, target.index) if target and target.bits >= 32 else None
    if instruction.mnemonic not in _STORING or instruction.op0_kind != OpKind.MEMORY:
        return None
    if instruction.op1_kind in _IMMEDIATES:
        return _move(instruction, True, -1)
    source = slot(instruction.op1_register)
    return _move(instruction, True, source.index) if source and not source.shift else None


def _move(instruction: Instruction, store: bool, register: int) -> Move:
    constant = instruction.immediate(1) & MASK64 if register < 0 else 0
    base, index = slot(instruction.memory_base), slot(instruction.memory_index)
    plain = base and base.bits == 64 and instruction.memory_segment not in (Register.FS, Register.GS)
    return Move(
        instruction.len,
        MemorySizeExt.size(instruction.memory_size),
        store,
        register,
        constant,
        base.index if base and plain else -1,
        index.index if index else -1,
        instruction.memory_index_scale,
        instruction.memory_displacement,
    )


def _place(instruction: Instruction) -> Callable[[Words, int], int]:
    """The address of the operand, given the one that has faulted: the same, unless the access crosses into a page."""
    address = address_of(instruction)
    relative = instruction.is_ip_rel_memory_operand

    def place(words: Words, fault: int) -> int:
        if fault & _PAGE - 1:
            return fault
        return address(words) & MASK64 if not relative else fault

    return place


def _load(instruction: Instruction) -> Action | None:
    """mov, movzx, movsx, movsxd from memory to a general register."""
    mnemonic = instruction.mnemonic
    if mnemonic not in (*_ZERO_EXTENDING, *_SIGN_EXTENDING) or instruction.op_kind(1) != OpKind.MEMORY:
        return None
    target = slot(instruction.op0_register)
    if target is None:
        return None
    size, length, place = MemorySizeExt.size(instruction.memory_size), instruction.len, _place(instruction)
    if target.bits >= 32 and mnemonic in _ZERO_EXTENDING:
        index = target.index

        def whole(cpu: Cpu, bus: Bus, fault: int) -> None:
            words = cpu.words
            words[index] = int.from_bytes(bus.read(place(words, fault), size), "little")
            words[RIP] += length

        return whole
    signed = mnemonic in _SIGN_EXTENDING

    def part(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        target.set(words, int.from_bytes(bus.read(place(words, fault), size), "little", signed=signed))
        words[RIP] += length

    return part


def _store(instruction: Instruction) -> Action | None:
    """mov, movnti, movdiri of a general register or a constant to memory."""
    if instruction.mnemonic not in _STORING or instruction.op0_kind != OpKind.MEMORY:
        return None
    size, length, place = MemorySizeExt.size(instruction.memory_size), instruction.len, _place(instruction)
    if instruction.op1_kind in _IMMEDIATES:
        constant = (instruction.immediate(1) & (1 << 8 * size) - 1).to_bytes(size, "little")

        def store_constant(cpu: Cpu, bus: Bus, fault: int) -> None:
            bus.write(place(cpu.words, fault), constant)
            cpu.words[RIP] += length

        return store_constant
    source = slot(instruction.op1_register)
    if source is None:
        return None
    return _store_register(source, size, length, place)


def _store_register(source: Slot, size: int, length: int, place: Callable[[Words, int], int]) -> Action:
    def store(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        bus.write(place(words, fault), source.get(words).to_bytes(size, "little"))
        words[RIP] += length

    return store


def _flush(instruction: Instruction) -> Action | None:
    """Instructions about caches: a window is not cached, so there is nothing to do."""
    if instruction.mnemonic not in _FLUSHES:
        return None
    length = instruction.len

    def nothing(cpu: Cpu, bus: Bus, fault: int) -> None:
        cpu.words[RIP] += length

    return nothing
