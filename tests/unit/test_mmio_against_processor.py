"""Every instruction with a memory operand that this processor knows, on plain memory and on a window: the same results.

The processor carries each out on ordinary memory; we carry it out on a window that holds the same bytes. Registers,
flags, vectors, stack and memory must be what they were with the processor.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator

import pytest
from iced_x86 import Code, Encoder, Instruction, OpCodeInfo, OpCodeOperandKind, OpKind, Register

from ioas.run.mmio.decode import LONGEST, Actions
from ioas.run.mmio.machine import NotEmulated
from ioas.run.ptrace import R
from tests.support.tracee import MEMORY, ROOM, STACK, WINDOW, Tracee, tracee

SIGBUS, SIGTRAP = 7, 5
RESUME_FLAG = 0x10000
XSTATE_BV = 512
OPERAND = 64
CONTENTS = bytes(OPERAND) + b"".join(struct.pack("<f", 1.5 + n / 7) for n in range(64))
START = {
    R.RAX: 0x1122334455667788,
    R.RBX: 0x0102030405060708,
    R.RCX: 0x13,
    R.RDX: 0x99AABBCCDDEEFF05,
    R.RSI: 7,
    R.RDI: 9,
    R.R9: 0xFEEDFACECAFEBEEF,
}
NOT_SERVED = ("XSAVE", "XRSTOR", "CALL_RM16", "JMP_RM16", "LSS", "LFS", "LGS", "_M16")
_KINDS = {value: key for key, value in vars(OpCodeOperandKind).items() if key.isupper()}
_REGISTERS = {
    "R8": Register.CL,
    "R16": Register.DX,
    "R32": Register.EDX,
    "R64": Register.RDX,
    "MM": Register.MM1,
    "K": Register.K3,
    "ST0": Register.ST0,
    "STI": Register.ST1,
    "AL": Register.AL,
    "AX": Register.AX,
    "EAX": Register.EAX,
    "RAX": Register.RAX,
    "CL": Register.CL,
}
_VECTORS = {"XMM": Register.XMM1, "YMM": Register.YMM1, "ZMM": Register.ZMM1}
_IMMEDIATES = {
    "IMM8SEX16": OpKind.IMMEDIATE8TO16,
    "IMM8SEX32": OpKind.IMMEDIATE8TO32,
    "IMM8SEX64": OpKind.IMMEDIATE8TO64,
    "IMM32SEX64": OpKind.IMMEDIATE32TO64,
    "IMM8": OpKind.IMMEDIATE8,
    "IMM16": OpKind.IMMEDIATE16,
    "IMM32": OpKind.IMMEDIATE32,
}


def encodings(name: str) -> Iterator[bytes]:
    """The instruction with iced's name `name`, its operand at r15 + 64: plain, locked, and under a mask."""
    information = OpCodeInfo(getattr(Code, name))
    if not (information.mode64 and information.is_instruction):
        return
    variants = [(False, False, False)]
    variants += [(True, False, False)] if information.can_use_lock_prefix else []
    variants += [(False, True, False)] if information.can_use_op_mask_register else []
    variants += [(False, True, True)] if information.can_use_zeroing_masking else []
    for lock, mask, zero in variants:
        made = instruction(information)
        if made is None:
            return
        made.has_lock_prefix, made.zeroing_masking = lock, zero
        made.op_mask = Register.K1 if mask else made.op_mask
        encoder = Encoder(64)
        try:
            encoder.encode(made, 0)
        except ValueError:  # forms that the encoder does not know
            continue
        yield encoder.take_buffer()


def instruction(information: OpCodeInfo) -> Instruction | None:
    """With operands filled in; None without a memory operand of the ordinary kind."""
    made, memory = Instruction(), False
    made.code = information.code
    for index in range(information.op_count):
        kind = _KINDS[information.op_kind(index)]
        first = kind.split("_")[0]
        if "MEM" in kind:
            if "VSIB" in kind or "OFFS" in kind:
                return None
            made.set_op_kind(index, OpKind.MEMORY)
            made.memory_base, made.memory_displacement, made.memory_displ_size = Register.R15, OPERAND, 1
            memory = True
        elif kind.startswith("IMM8_CONST_1"):
            made.set_op_kind(index, OpKind.IMMEDIATE8)
            made.immediate8 = 1
        elif first in _IMMEDIATES:
            made.set_op_kind(index, _IMMEDIATES[first])
            made.set_immediate_i32(index, 3) if "SEX" in first else made.set_immediate_u32(index, 3)
        elif first in _VECTORS or first in _REGISTERS:
            made.set_op_kind(index, OpKind.REGISTER)
            made.set_op_register(index, _VECTORS[first] + index if first in _VECTORS else _REGISTERS[first])
        else:
            return None
    return made if memory else None


@pytest.fixture(scope="module")
def thread() -> Iterator[Tracee]:
    with tracee() as made:
        _fill_vectors(made)
        yield made


def _fill_vectors(thread: Tracee) -> None:
    """Something in the vector, mask and x87 registers, as far as the processor has them."""
    thread.fill(MEMORY, bytes(n * 73 + 5 & 0xFF for n in range(1024)))
    loads = [
        *(f"62 f1 fe 48 6f {0x07 | n << 3:02x}" for n in range(1, 4)),  # vmovdqu64 zmmN, [rdi]
        *(f"c4 e1 f8 90 {0x07 | n << 3:02x}" for n in (1, 3)),  # kmovq kN, [rdi]
        *(f"f3 0f 6f {0x07 | n << 3:02x}" for n in range(1, 4)),  # movdqu xmmN, [rdi]
        "d9 e8",
        "d9 eb",
    ]
    for number, code in enumerate(loads):
        thread.set_up(bytes.fromhex(code), {R.RDI: MEMORY + 64 * number})
        if thread.step() == SIGTRAP:
            thread.clean = thread.extended()


def state(thread: Tracee, memory: bytes) -> tuple[object, ...]:
    words = list(thread.cpu.words)
    words[R.R15] = 0
    words[R.EFLAGS] &= ~RESUME_FLAG
    # Which parts are as after a reset (XSTATE_BV) the processor may tell otherwise once it has done something else.
    registers = thread.extended()
    return words, registers[:XSTATE_BV] + registers[XSTATE_BV + 8 :], memory, thread.peek(STACK, ROOM)


def compare(thread: Tracee, code: bytes) -> str:
    """Carry `code` out both ways: "same", what differs, or why there is nothing to compare."""
    thread.fill(MEMORY, CONTENTS + bytes(ROOM - len(CONTENTS)))
    thread.set_up(code, {**START, R.R15: MEMORY})
    if (number := thread.step()) != SIGTRAP:
        return f"signal {number} on plain memory"
    expected = state(thread, thread.peek(MEMORY, 1024))
    thread.device.contents[:] = CONTENTS + bytes(ROOM - len(CONTENTS))
    thread.set_up(code, {**START, R.R15: WINDOW})
    if (number := thread.step()) != SIGBUS:
        return f"signal {number} on the window"
    thread.cpu.quick.get_siginfo(thread.pid)
    fault = thread.cpu.quick.siginfo[2]
    thread.space.bus.look(fault)
    Actions().find(os.pread(thread.space.memory, LONGEST, thread.cpu.words[R.RIP]))(thread.cpu, thread.space.bus, fault)
    thread.cpu.commit()
    found = state(thread, bytes(thread.device.contents[:1024]))
    names = ("registers", "vectors", "memory", "stack")
    return ", ".join(name for name, one, other in zip(names, expected, found, strict=True) if one != other) or "same"


def test_every_instruction_does_on_a_window_what_it_does_on_memory(thread: Tracee) -> None:
    results: dict[str, list[str]] = {}
    for name in sorted(name for name in vars(Code) if name.isupper() or name[0].isupper()):
        if not isinstance(getattr(Code, name), int) or any(part in name for part in NOT_SERVED):
            continue
        for code in encodings(name):
            results.setdefault(compare(thread, code), []).append(f"{name} {code.hex(' ')}")
    same = results.pop("same")
    nothing = {key: results.pop(key) for key in tuple(results) if key.startswith("signal")}
    assert results == {}
    assert len(same) > 500, nothing.keys()


def test_what_is_not_served_is_named(thread: Tracee) -> None:
    thread.set_up(bytes.fromhex("41 0f ae 07"), {R.R15: WINDOW})  # fxsave [r15]
    with pytest.raises(NotEmulated, match=r"fxsave.*512 bytes"):
        Actions().find(thread.cpu.code(LONGEST))


GATHERS = sorted(name for name in vars(Code) if re.match("E?VEX_VP?(GATHER|SCATTER)[DQ]", name))
INDEXES = struct.pack("<16i", *(7 * n + 3 for n in (5, 0, 3, 9, 12, 1, 15, 8, 2, 6, 11, 4, 14, 10, 7, 13)))
WIDE_INDEXES = struct.pack("<8q", *(9 * n + 1 for n in (5, 0, 3, 7, 1, 6, 2, 4)))
SIGNS = b"".join(struct.pack("<I", n % 3 << 31 & 0xFFFFFFFF) for n in range(16))


def _gather(name: str) -> bytes:
    """Vector 1 with r15 + vector 2 * 4 + 64, under the mask in vector 3 or k1."""
    information = OpCodeInfo(getattr(Code, name))
    made = Instruction()
    made.code = information.code
    for index in range(information.op_count):
        kind = _KINDS[information.op_kind(index)]
        if "VSIB" in kind:
            made.set_op_kind(index, OpKind.MEMORY)
            made.memory_base, made.memory_index_scale = Register.R15, 4
            made.memory_index = {"X": Register.XMM2, "Y": Register.YMM2, "Z": Register.ZMM2}[kind.split("VSIB")[1][2]]
            made.memory_displacement, made.memory_displ_size = OPERAND, 1
        else:
            made.set_op_kind(index, OpKind.REGISTER)
            made.set_op_register(index, _VECTORS[kind.split("_")[0]] + (2 if index == 2 else 0))
    if name.startswith("EVEX"):
        made.op_mask = Register.K1
    encoder = Encoder(64)
    encoder.encode(made, 0)
    return encoder.take_buffer()


@pytest.mark.parametrize("indexes", [INDEXES, WIDE_INDEXES], ids=["VM32", "VM64"])
def test_gathers_and_scatters_do_on_a_window_what_they_do_on_memory(
    thread: Tracee, indexes: bytes, request: pytest.FixtureRequest
) -> None:
    before = thread.clean
    thread.fill(MEMORY, indexes + SIGNS)
    for code in ("62 f1 fe 48 6f 17", "62 f1 fe 48 6f 5f 01", "c5 fe 6f 17", "c5 fe 6f 5f 40"):  # vector 2, vector 3
        thread.set_up(bytes.fromhex(code), {R.RDI: MEMORY})
        if thread.step() == SIGTRAP:
            thread.clean = thread.extended()
    kind = request.node.callspec.id
    results = {name: compare(thread, _gather(name)) for name in GATHERS if kind in name}
    thread.clean = before
    unknown = [name for name, result in results.items() if result.startswith("signal 4 ")]  # to this processor
    assert {name: result for name, result in results.items() if name not in unknown and result != "same"} == {}
    assert len(unknown) in (0, len([name for name in results if name.startswith("EVEX")]), len(results))
