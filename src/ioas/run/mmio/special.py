"""Instructions whose accesses do not fit `ioas.run.mmio.displaced`: bit strings, calls, tables, 64-byte stores."""

from __future__ import annotations

from collections.abc import Callable

from iced_x86 import Instruction, MemorySizeExt, Mnemonic, OpKind

from ioas.run.mmio.displaced import read_vector
from ioas.run.mmio.machine import Bus, Cpu, MemoryFault, NotEmulated
from ioas.run.mmio.registers import (
    ARITHMETIC,
    CARRY,
    FLAGS,
    MASK64,
    RAX,
    RDI,
    RIP,
    RSP,
    Slot,
    Words,
    address_of,
    segment_base,
    slot,
)
from ioas.run.mmio.strings import get, put

Action = Callable[[Cpu, Bus, int], None]
_BIT_TESTS: dict[int, Callable[[int, int], int]] = {
    Mnemonic.BT: lambda value, bit: value,
    Mnemonic.BTS: lambda value, bit: value | bit,
    Mnemonic.BTR: lambda value, bit: value & ~bit,
    Mnemonic.BTC: lambda value, bit: value ^ bit,
}
_PORTAL = 64
_PASID = 4


def action(instruction: Instruction) -> Action | None:
    """How to carry out one of these; None for all others. Raises NotEmulated."""
    make = _MAKERS.get(instruction.mnemonic)
    return make(instruction) if make else None


def portal(instruction: Instruction) -> Slot | None:
    """The register with the destination of movdir64b, enqcmd, or of movdiri's kin; None for other instructions."""
    return slot(instruction.op0_register) if instruction.mnemonic in _PORTALS else None


def _address(instruction: Instruction) -> Callable[[Words], int]:
    address, relative = address_of(instruction), instruction.is_ip_rel_memory_operand
    return lambda words: address(words) + (words[RIP] if relative else 0) & MASK64


def _bit_test(instruction: Instruction) -> Action | None:
    """bt, bts, btr, btc with the bit's number in a register, which reaches beyond the operand."""
    if instruction.op0_kind != OpKind.MEMORY or instruction.op1_kind != OpKind.REGISTER:
        return None
    number = slot(instruction.op1_register)
    if number is None:
        return None
    size, length, address = MemorySizeExt.size(instruction.memory_size), instruction.len, _address(instruction)
    change, writes = _BIT_TESTS[instruction.mnemonic], instruction.mnemonic != Mnemonic.BT

    def carry_out(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        offset = number.get(words)
        offset -= (offset >> number.bits - 1) << number.bits
        at = address(words) + offset // (size * 8) * size & MASK64
        value, bit = int.from_bytes(bus.read(at, size), "little"), 1 << offset % (size * 8)
        if writes:
            bus.write(at, change(value, bit).to_bytes(size, "little"))
        words[FLAGS] = words[FLAGS] & ~CARRY | (CARRY if value & bit else 0)
        words[RIP] += length

    return carry_out


def _call(instruction: Instruction) -> Action | None:
    """A call through memory: the return address must be the program's."""
    if instruction.op0_kind != OpKind.MEMORY:
        return None
    if MemorySizeExt.size(instruction.memory_size) != 8:
        raise NotEmulated(f"{instruction} is not served on a mapped BAR")
    length, address = instruction.len, _address(instruction)

    def carry_out(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        target = int.from_bytes(bus.read(address(words), 8), "little")
        cpu.write(words[RSP] - 8, (words[RIP] + length).to_bytes(8, "little"))
        words[RSP] -= 8
        words[RIP] = target

    return carry_out


def _translate(instruction: Instruction) -> Action:
    """The table look-up xlatb."""
    length, address = instruction.len, _address(instruction)

    def carry_out(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        words[RAX] = words[RAX] & ~0xFF | bus.read(address(words), 1)[0]
        words[RIP] += length

    return carry_out


def _store_64(instruction: Instruction) -> Action:
    """movdir64b: 64 bytes from memory, stored at once; also where the processor does not know it."""
    target, length, source = slot(instruction.op0_register), instruction.len, _address(instruction)
    if target is None:
        raise NotEmulated(f"{instruction} has no destination")

    def carry_out(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        to = _aligned(target.get(words))
        put(cpu, bus, to, get(cpu, bus, source(words), _PORTAL))
        words[RIP] += length

    return carry_out


def _enqueue(instruction: Instruction) -> Action:
    """enqcmd: 64 bytes with the PASID of the process in the first four, 0 here; always accepted (ZF clear)."""
    target, length, source = slot(instruction.op0_register), instruction.len, _address(instruction)
    if target is None:
        raise NotEmulated(f"{instruction} has no destination")

    def carry_out(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        to = _aligned(target.get(words))
        data = get(cpu, bus, source(words), _PORTAL)
        put(cpu, bus, to, bytes(_PASID) + data[_PASID:])
        words[FLAGS] &= ~ARITHMETIC
        words[RIP] += length

    return carry_out


def _aligned(address: int) -> int:
    if address % _PORTAL:
        raise MemoryFault(0)  # the processor raises a general protection fault, which names no address
    return address


def _masked_bytes(instruction: Instruction) -> Action:
    """maskmovdqu: bytes of a vector register, those that the signs of another enable, to [rdi]."""
    data_register, mask_register = instruction.op1_register, instruction.op2_register
    length, base = instruction.len, segment_base(instruction.memory_segment)
    narrow = instruction.op0_kind != OpKind.MEMORY_SEG_RDI
    pointer = Slot(RDI, 0, 32 if narrow else 64)

    def carry_out(cpu: Cpu, bus: Bus, fault: int) -> None:
        words = cpu.words
        data, mask = read_vector(cpu, data_register), read_vector(cpu, mask_register)
        at = pointer.get(words) + base(words) & MASK64
        for index in range(16):
            if mask[index] & 0x80:
                put(cpu, bus, at + index, data[index : index + 1])
        words[RIP] += length

    return carry_out


_PORTALS = {Mnemonic.MOVDIR64B, Mnemonic.ENQCMD}
_MAKERS: dict[int, Callable[[Instruction], Action | None]] = {
    **dict.fromkeys(_BIT_TESTS, _bit_test),
    Mnemonic.CALL: _call,
    Mnemonic.XLATB: _translate,
    Mnemonic.MOVDIR64B: _store_64,
    Mnemonic.ENQCMD: _enqueue,
    Mnemonic.MASKMOVDQU: _masked_bytes,
    Mnemonic.VMASKMOVDQU: _masked_bytes,
}
