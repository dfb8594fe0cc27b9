"""Two hundred kinds of instruction with a memory operand, each as a small function, and the accesses that it must make.

The accesses are written down here and are not computed: who computes them could be wrong in the same way as what is
tested. A function gets two pointers: to a slot of 128 bytes, the operand at byte 64, and to a block with the registers
to begin with, in which it leaves those that come out.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from iced_x86 import BlockEncoder, Code, Instruction, MemoryOperand, OpCodeInfo, OpCodeOperandKind, OpKind, Register

SLOT, OPERAND = 128, 64
BLOCK = 0x800
_RESULTS = 0x200
Access = tuple[str, int, int]
"""read or write, offset in the slot, length."""

_LOADS = {
    1: "MOV_R8_RM8 MOVZX_R16_RM8 MOVZX_R32_RM8 MOVZX_R64_RM8 MOVSX_R16_RM8 MOVSX_R32_RM8 MOVSX_R64_RM8 ADD_R8_RM8 "
    "CMP_R8_RM8 TEST_RM8_R8 CMP_RM8_IMM8 MUL_RM8 CRC32_R32_RM8 PINSRB_XMM_R32M8_IMM8",
    2: "MOV_R16_RM16 MOVZX_R32_RM16 MOVZX_R64_RM16 MOVSX_R32_RM16 MOVSX_R64_RM16 OR_R16_RM16 CMP_RM16_IMM8 "
    "BSF_R16_RM16 MOVBE_R16_M16 FILD_M16INT FLDCW_M2BYTE PINSRW_XMM_R32M16_IMM8 VEX_KMOVW_KR_KM16 BT_RM16_IMM8",
    4: "MOV_R32_RM32 MOVSXD_R64_RM32 ADD_R32_RM32 SUB_R32_RM32 AND_R32_RM32 XOR_R32_RM32 CMP_R32_RM32 CMP_RM32_R32 "
    "TEST_RM32_R32 TEST_RM32_IMM32 IMUL_R32_RM32 MUL_RM32 DIV_RM32 BSR_R32_RM32 POPCNT_R32_RM32 TZCNT_R32_RM32 "
    "LZCNT_R32_RM32 CMOVE_R32_RM32 CMOVNE_R32_RM32 MOVBE_R32_M32 CRC32_R32_RM32 BT_RM32_IMM8 BT_RM32_R32 "
    "ADCX_R32_RM32 VEX_ANDN_R32_R32_RM32 VEX_MULX_R32_R32_RM32 MOVD_XMM_RM32 MOVSS_XMM_XMMM32 ADDSS_XMM_XMMM32 "
    "CVTSI2SD_XMM_RM32 UCOMISS_XMM_XMMM32 PMOVZXBD_XMM_XMMM32 FLD_M32FP FADD_M32FP FILD_M32INT VEX_VMOVSS_XMM_M32 "
    "VEX_VBROADCASTSS_YMM_M32 VEX_KMOVD_KR_KM32",
    8: "MOV_R64_RM64 ADD_R64_RM64 CMP_R64_RM64 IMUL_R64_RM64 POPCNT_R64_RM64 CMOVE_R64_RM64 MOVBE_R64_M64 BT_RM64_R64 "
    "VEX_RORX_R64_RM64_IMM8 MOVQ_XMM_RM64 MOVQ_MM_MMM64 PADDD_MM_MMM64 MOVSD_XMM_XMMM64 MULSD_XMM_XMMM64 "
    "MOVHPS_XMM_M64 MOVLPD_XMM_M64 MOVDDUP_XMM_XMMM64 FLD_M64FP FILD_M64INT VEX_KMOVQ_KR_KM64",
    16: "MOVUPS_XMM_XMMM128 MOVAPS_XMM_XMMM128 MOVDQU_XMM_XMMM128 MOVDQA_XMM_XMMM128 LDDQU_XMM_M128 MOVNTDQA_XMM_M128 "
    "PADDD_XMM_XMMM128 PSHUFB_XMM_XMMM128 PXOR_XMM_XMMM128 ADDPS_XMM_XMMM128 AESENC_XMM_XMMM128 "
    "PCLMULQDQ_XMM_XMMM128_IMM8 VEX_VMOVDQU_XMM_XMMM128 VEX_VBROADCASTF128_YMM_M128",
    32: "VEX_VMOVUPS_YMM_YMMM256 VEX_VMOVAPS_YMM_YMMM256 VEX_VMOVDQU_YMM_YMMM256 VEX_VMOVNTDQA_YMM_M256 "
    "VEX_VPADDD_YMM_YMM_YMMM256 VEX_VPERMD_YMM_YMM_YMMM256 EVEX_VMOVDQU64_YMM_K1Z_YMMM256",
    64: "EVEX_VMOVDQU64_ZMM_K1Z_ZMMM512 EVEX_VMOVDQA32_ZMM_K1Z_ZMMM512 EVEX_VMOVDQU8_ZMM_K1Z_ZMMM512 "
    "EVEX_VMOVNTDQA_ZMM_M512 EVEX_VPADDQ_ZMM_K1Z_ZMM_ZMMM512B64",
}
_STORES = {
    1: "MOV_RM8_R8 MOV_RM8_IMM8 SETE_RM8 SETNE_RM8 SETB_RM8 SETG_RM8 PEXTRB_R32M8_XMM_IMM8",
    2: "MOV_RM16_R16 MOV_RM16_IMM16 MOVBE_M16_R16 FNSTCW_M2BYTE FISTP_M16INT PEXTRW_R32M16_XMM_IMM8 VEX_KMOVW_M16_KR",
    4: "MOV_RM32_R32 MOV_RM32_IMM32 MOVNTI_M32_R32 MOVBE_M32_R32 MOVD_RM32_XMM MOVSS_XMMM32_XMM STMXCSR_M32 "
    "FST_M32FP FSTP_M32FP FISTP_M32INT EXTRACTPS_RM32_XMM_IMM8 VEX_VMOVSS_M32_XMM MOVDIRI_M32_R32",
    8: "MOV_RM64_R64 MOV_RM64_IMM32 MOVNTI_M64_R64 MOVBE_M64_R64 MOVQ_RM64_XMM MOVQ_XMMM64_XMM MOVQ_MMM64_MM "
    "MOVNTQ_M64_MM MOVSD_XMMM64_XMM MOVHPS_M64_XMM MOVLPS_M64_XMM FSTP_M64FP FISTP_M64INT MOVDIRI_M64_R64",
    16: "MOVUPS_XMMM128_XMM MOVAPS_XMMM128_XMM MOVDQU_XMMM128_XMM MOVNTDQ_M128_XMM MOVNTPS_M128_XMM "
    "VEX_VMOVDQU_XMMM128_XMM VEX_VEXTRACTF128_XMMM128_YMM_IMM8",
    32: "VEX_VMOVUPS_YMMM256_YMM VEX_VMOVAPS_YMMM256_YMM VEX_VMOVNTDQ_M256_YMM EVEX_VMOVDQU8_YMMM256_K1Z_YMM",
    64: "EVEX_VMOVDQU64_ZMMM512_K1Z_ZMM EVEX_VMOVDQA32_ZMMM512_K1Z_ZMM EVEX_VMOVNTDQ_M512_ZMM "
    "EVEX_VMOVUPS_ZMMM512_K1Z_ZMM",
}
_MODIFIES = {
    1: "ADD_RM8_R8 XOR_RM8_IMM8 NOT_RM8 INC_RM8 ROL_RM8_CL XCHG_RM8_R8 CMPXCHG_RM8_R8",
    2: "ADD_RM16_R16 SUB_RM16_IMM8 SHL_RM16_IMM8 XADD_RM16_R16 CMPXCHG_RM16_R16",
    4: "ADD_RM32_R32 ADC_RM32_R32 SBB_RM32_R32 OR_RM32_IMM32 AND_RM32_R32 XOR_RM32_R32 NEG_RM32 DEC_RM32 SAR_RM32_CL "
    "RCL_RM32_1 SHLD_RM32_R32_IMM8 BTS_RM32_IMM8 BTR_RM32_R32 XCHG_RM32_R32 XADD_RM32_R32 CMPXCHG_RM32_R32",
    8: "ADD_RM64_R64 OR_RM64_R64 SHR_RM64_1 ROR_RM64_IMM8 SHRD_RM64_R64_CL BTC_RM64_R64 XCHG_RM64_R64 XADD_RM64_R64 "
    "CMPXCHG_RM64_R64 CMPXCHG8B_M64",
    16: "CMPXCHG16B_M128",
}
_LOCKED = {
    1: "ADD_RM8_R8 CMPXCHG_RM8_R8",
    2: "XADD_RM16_R16",
    4: "ADD_RM32_R32 SUB_RM32_IMM8 AND_RM32_R32 OR_RM32_R32 XOR_RM32_R32 INC_RM32 DEC_RM32 NOT_RM32 NEG_RM32 "
    "BTS_RM32_IMM8 BTR_RM32_R32 BTC_RM32_IMM8 XADD_RM32_R32 CMPXCHG_RM32_R32",
    8: "ADD_RM64_IMM8 XADD_RM64_R64 CMPXCHG_RM64_R64 CMPXCHG8B_M64 XCHG_RM64_R64",
    16: "CMPXCHG16B_M128",
}
_MASK = 0x8D
"""The low byte of k1; vector masks enable the same elements."""
_MASKED = (
    ("EVEX_VMOVDQU32_ZMM_K1Z_ZMMM512", "read", [(4 * n, 4) for n in (0, 2, 3, 7)]),
    ("EVEX_VMOVDQU64_ZMM_K1Z_ZMMM512", "read", [(8 * n, 8) for n in (0, 2, 3, 7)]),
    ("EVEX_VMOVDQU8_XMM_K1Z_XMMM128", "read", [(n, 1) for n in (0, 2, 3, 7)]),
    ("EVEX_VMOVDQU32_ZMMM512_K1Z_ZMM", "write", [(4 * n, 4) for n in (0, 2, 3, 7)]),
    ("EVEX_VMOVDQU64_YMMM256_K1Z_YMM", "write", [(8 * n, 8) for n in (0, 2, 3)]),
    ("EVEX_VMOVUPD_ZMMM512_K1Z_ZMM", "write", [(8 * n, 8) for n in (0, 2, 3, 7)]),
    ("EVEX_VPCOMPRESSD_ZMMM512_K1Z_ZMM", "write", [(4 * n, 4) for n in range(4)]),
    ("EVEX_VPEXPANDD_ZMM_K1Z_ZMMM512", "read", [(4 * n, 4) for n in range(4)]),
    ("VEX_VPMASKMOVD_YMM_YMM_M256", "read", [(4 * n, 4) for n in (0, 2, 3, 7)]),
    ("VEX_VPMASKMOVD_M256_YMM_YMM", "write", [(4 * n, 4) for n in (0, 2, 3, 7)]),
    ("VEX_VMASKMOVPS_M128_XMM_XMM", "write", [(4 * n, 4) for n in (0, 2, 3)]),
)
_SINGLE = {
    "EVEX_VADDPS_ZMM_K1Z_ZMM_ZMMM512B32_ER": 4,
    "EVEX_VPADDQ_ZMM_K1Z_ZMM_ZMMM512B64": 8,
}
"""With one element that is broadcast."""


class Kind(NamedTuple):
    """One kind of instruction."""

    name: str
    body: list[Instruction]
    accesses: list[Access]


def kinds(features: frozenset[str]) -> list[Kind]:
    """All kinds that a processor with these flags (of /proc/cpuinfo) knows, and movdir64b and such in any case."""
    found = []
    for verbs, table, prefix in (
        (("read",), _LOADS, ""),
        (("write",), _STORES, ""),
        (("read", "write"), _MODIFIES, ""),
        (("read", "write"), _LOCKED, "lock "),
    ):
        for size, names in table.items():
            for name in names.split():
                body = [*_bit_number(name), instruction(name, lock=bool(prefix))]
                found.append(Kind(prefix + name, body, [(verb, OPERAND, size) for verb in verbs]))
    for name, verb, pieces in _MASKED:
        body = instruction(name, mask=name.startswith("EVEX"))
        found.append(Kind(f"masked {name}", [body], [(verb, OPERAND + at, size) for at, size in pieces]))
    for name, size in _SINGLE.items():
        body = instruction(name)
        body.is_broadcast = True
        found.append(Kind(f"broadcast {name}", [body], [("read", OPERAND, size)]))
    found += [*_pieces(), *_strings(), *_jumps(), *_portals()]
    return [kind for kind in found if all(_known(each, features) for each in kind.body)]


def _bit_number(name: str) -> list[Instruction]:
    """For bit tests by register: a number within the operand."""
    by_register = name.startswith("BT") and "_R" in name[4:]
    return [Instruction.create_reg_i32(Code.MOV_R32_IMM32, Register.EBX, 21)] if by_register else []


def _known(instruction: Instruction, features: frozenset[str]) -> bool:
    name = OpCodeInfo(instruction.code).op_code_string
    needs = {"EVEX": "avx512_vbmi2", "VEX": "avx2"}.get(name.split(".")[0], "")
    if instruction.code in (Code.MOVDIRI_M32_R32, Code.MOVDIRI_M64_R64):
        needs = "movdiri"  # the plain memory that results are compared with needs the processor's own
    return not needs or needs in features


def instruction(name: str, lock: bool = False, mask: bool = False) -> Instruction:
    """The instruction with iced's name `name`, its operand in the slot, other operands as the block sets them up."""
    code = getattr(Code, name)
    made, kinds = Instruction(), {value: key for key, value in vars(OpCodeOperandKind).items() if key.isupper()}
    made.code = code
    information = OpCodeInfo(code)
    for index in range(information.op_count):
        _operand(made, index, kinds[information.op_kind(index)])
    made.has_lock_prefix = lock
    if mask:
        made.op_mask = Register.K1
    return made


_SMALL = {"IMM8SEX16": OpKind.IMMEDIATE8TO16, "IMM8SEX32": OpKind.IMMEDIATE8TO32, "IMM8SEX64": OpKind.IMMEDIATE8TO64}
_REGISTERS = {
    "R8": Register.BL,
    "R16": Register.BX,
    "R32": Register.EBX,
    "R64": Register.RBX,
    "XMM": Register.XMM1,
    "YMM": Register.YMM1,
    "ZMM": Register.ZMM1,
    "MM": Register.MM1,
    "K": Register.K3,
    "CL": Register.CL,
    "AL": Register.AL,
    "AX": Register.AX,
    "EAX": Register.EAX,
    "RAX": Register.RAX,
}


def _operand(made: Instruction, index: int, kind: str) -> None:
    first = kind.split("_")[0]
    if "MEM" in kind:
        made.set_op_kind(index, OpKind.MEMORY)
        made.memory_base, made.memory_displacement, made.memory_displ_size = Register.R15, OPERAND, 1
    elif first in _SMALL:
        made.set_op_kind(index, _SMALL[first])
        made.set_immediate_i32(index, -5)
    elif kind == "IMM8_CONST_1":
        made.set_op_kind(index, OpKind.IMMEDIATE8)
        made.immediate8 = 1
    elif first == "IMM8":
        made.set_op_kind(index, OpKind.IMMEDIATE8)
        made.immediate8 = 3
    elif first == "IMM16":
        made.set_op_kind(index, OpKind.IMMEDIATE16)
        made.immediate16 = 0x8321
    elif first == "IMM32":
        made.set_op_kind(index, OpKind.IMMEDIATE32)
        made.immediate32 = 0x81234567
    elif first == "IMM32SEX64":
        made.set_op_kind(index, OpKind.IMMEDIATE32TO64)
        made.set_immediate_i32(index, -0x12345678)
    else:
        vector = first in ("XMM", "YMM", "ZMM")
        register = _REGISTERS[first] + (index if vector else 0)
        made.set_op_kind(index, OpKind.REGISTER)
        made.set_op_register(index, Register.RDX if kind == "R64_VVVV" else register)


def _slot(at: int) -> MemoryOperand:
    return MemoryOperand(Register.R15, displ=at, displ_size=1)


def _lea(register: int, at: int) -> Instruction:
    return Instruction.create_reg_mem(Code.LEA_R64_M, register, _slot(at))


def _block(at: int) -> MemoryOperand:
    return MemoryOperand(Register.R14, displ=at, displ_size=8)


_BESIDE = 0x180
"""Plain memory in the block, for string instructions that move between it and the slot."""


def _pieces() -> list[Kind]:
    """Operands that are no power of two, and those without alignment."""
    fld, fstp, fbstp = instruction("FLD_M80FP"), instruction("FSTP_M80FP"), instruction("FBSTP_M80BCD")
    found = [
        Kind("fld m80", [fld], [("read", OPERAND, 8), ("read", OPERAND + 8, 2)]),
        Kind("fstp m80", [fstp], [("write", OPERAND, 8), ("write", OPERAND + 8, 2)]),
        Kind("fbstp m80", [fbstp], [("write", OPERAND, 8), ("write", OPERAND + 8, 2)]),
    ]
    for name, verb, size in (
        ("MOV_R32_RM32", "read", 4),
        ("MOV_RM64_R64", "write", 8),
        ("MOVUPS_XMM_XMMM128", "read", 16),
    ):
        made = instruction(name)
        made.memory_displacement = OPERAND - 3
        found.append(Kind(f"misaligned {name}", [made], [(verb, OPERAND - 3, size)]))
    far = instruction("BTS_RM32_R32")
    load = Instruction.create_reg_i32(Code.MOV_R32_IMM32, Register.EBX, -40)
    found.append(Kind("bts of a bit before", [load, far], [("read", OPERAND - 8, 4), ("write", OPERAND - 8, 4)]))
    table = [Instruction.create_reg_i32(Code.MOV_R32_IMM32, Register.EAX, 7), _lea(Register.RBX, OPERAND)]
    clear = Instruction.create_reg_i32(Code.MOV_R32_IMM32, Register.EBX, 0)
    found.append(Kind("xlatb", [*table, _plain(Code.XLAT_M8), clear], [("read", OPERAND + 7, 1)]))
    return found


def _plain(code: int) -> Instruction:
    made = Instruction()
    made.code = code
    if code == Code.XLAT_M8:
        made.set_op_kind(0, OpKind.MEMORY)
        made.memory_base, made.memory_index = Register.RBX, Register.AL
    return made


def _strings() -> list[Kind]:
    """movs, stos, lods, cmps and scas, alone, repeated, and backwards."""
    found = []
    for size, letter in ((1, "b"), (2, "w"), (4, "d"), (8, "q")):
        to_memory = [
            _lea(Register.RSI, OPERAND),
            Instruction.create_reg_mem(Code.LEA_R64_M, Register.RDI, _block(_BESIDE)),
        ]
        to_slot = [
            Instruction.create_reg_mem(Code.LEA_R64_M, Register.RSI, _block(_BESIDE)),
            _lea(Register.RDI, OPERAND),
        ]
        both = [_lea(Register.RSI, OPERAND - 32), _lea(Register.RDI, OPERAND)]
        counted = Instruction.create_reg_i32(Code.MOV_R32_IMM32, Register.ECX, 3)
        make = {
            verb: getattr(Instruction, f"create_{verb}{letter}")
            for verb in ("movs", "rep_movs", "rep_stos", "lods", "stos", "repe_cmps", "repne_scas", "scas")
        }
        three = [OPERAND + n * size for n in range(3)]
        found += [
            Kind(f"movs{letter} in", [*to_memory, make["movs"](64)], [("read", OPERAND, size)]),
            Kind(f"movs{letter} out", [*to_slot, make["movs"](64)], [("write", OPERAND, size)]),
            Kind(
                f"rep movs{letter} in",
                [*to_memory, counted, make["rep_movs"](64)],
                [("read", at, size) for at in three],
            ),
            Kind(
                f"rep movs{letter} out",
                [*to_slot, counted, make["rep_movs"](64)],
                [("write", at, size) for at in three],
            ),
            Kind(
                f"rep movs{letter} within",
                [*both, counted, make["rep_movs"](64)],
                [each for at in three for each in (("read", at - 32, size), ("write", at, size))],
            ),
            Kind(f"rep stos{letter}", [*to_slot, counted, make["rep_stos"](64)], [("write", at, size) for at in three]),
            Kind(
                f"std rep stos{letter}",
                [*to_slot, counted, _plain(Code.STD), make["rep_stos"](64), _plain(Code.CLD)],
                [("write", OPERAND - n * size, size) for n in range(3)],
            ),
            Kind(f"lods{letter}", [*to_memory, make["lods"](64)], [("read", OPERAND, size)]),
            Kind(f"stos{letter}", [*to_slot, make["stos"](64)], [("write", OPERAND, size)]),
            Kind(f"scas{letter}", [*to_slot, make["scas"](64)], [("read", OPERAND, size)]),
            Kind(
                f"repne scas{letter}",
                [*to_slot, counted, make["repne_scas"](64)],
                [("read", at, size) for at in three],
            ),
            Kind(f"repe cmps{letter}", [*to_slot, counted, make["repe_cmps"](64)], [("read", OPERAND, size)]),
        ]
    return found


def _jumps() -> list[Kind]:
    """Pushing and popping the operand; jmp and call through it, after its address has been stored there."""
    store = Instruction.create_mem_reg(Code.MOV_RM64_R64, _slot(OPERAND), Register.RAX)
    target = MemoryOperand(Register.RIP, displ=_TARGET, displ_size=8)
    load = Instruction.create_reg_mem(Code.LEA_R64_M, Register.RAX, target)
    clear = Instruction.create_reg_reg(Code.XOR_R32_RM32, Register.EDX, Register.EDX)
    clear.ip = _TARGET
    drop = Instruction.create_reg(Code.POP_R64, Register.RDX)
    drop.ip = _TARGET
    plain = Instruction.create_reg_reg(Code.XOR_R32_RM32, Register.EDX, Register.EDX)
    both: list[Access] = [("write", OPERAND, 8), ("read", OPERAND, 8)]
    return [
        Kind(
            "push m64",
            [instruction("PUSH_RM64"), Instruction.create_reg(Code.POP_R64, Register.RAX)],
            [("read", OPERAND, 8)],
        ),
        Kind(
            "pop m64",
            [Instruction.create_reg(Code.PUSH_R64, Register.RBX), instruction("POP_RM64")],
            [("write", OPERAND, 8)],
        ),
        Kind("jmp m64", [load, store, instruction("JMP_RM64"), _plain(Code.INT3), clear], both),
        Kind("call m64", [load, store, instruction("CALL_RM64"), _plain(Code.INT3), drop, plain], both),
    ]


_TARGET = 0x7777_0000
"""Stands for the address of the instruction with this `ip`."""


def _portals() -> list[Kind]:
    """movdir64b and enqcmd, from the block to the slot."""
    to = _lea(Register.RDI, OPERAND)
    made = []
    for name, code in (("movdir64b", Code.MOVDIR64B_R64_M512), ("enqcmd", Code.ENQCMD_R64_M512)):
        move = Instruction.create_reg_mem(code, Register.RDI, _block(0x100))
        made.append(Kind(name, [to, move], [("write", OPERAND, 64)]))
    return made


def is_portal(kind: Kind) -> bool:
    """Whether the processor may not know the instruction, so that plain memory cannot be compared."""
    return kind.name in ("movdir64b", "enqcmd")


def block() -> bytearray:
    """The registers to begin with, vectors, masks, and room for what comes out."""
    made = bytearray(BLOCK)
    struct.pack_into(
        "<8Q", made, 0, 0x1122334455667788, 0x0102030405060708, 3, 0, 0x1111222233334444, 0x99AABBCCDDEEFF00, 0, 0x202
    )
    made[0x80:0x88] = (0xFFFF_FFFF_FFFF_FF00 & 0 | _MASK).to_bytes(8, "little")
    made[0x88:0x90] = 0xF0E1D2C3B4A59687.to_bytes(8, "little")
    made[0x100:0x200] = bytes(n * 29 + 7 & 0x7F for n in range(256))
    for n in (0, 2, 3, 7):  # the signs of the vector that is a mask
        made[0x140 + 4 * n + 3] |= 0x80
    return made


_GENERAL = (Register.RAX, Register.RBX, Register.RCX, Register.RDX, Register.R8, Register.R9)
_SAVED = (Register.RBX, Register.RBP, Register.R12, Register.R13, Register.R14, Register.R15)


def function(kind: Kind, address: int, features: frozenset[str]) -> bytes:
    """The machine code of the function for `kind` when it stands at `address`."""
    body = [each.copy() for each in kind.body]
    wide = "avx512_vbmi2" in features
    program = [
        *(Instruction.create_reg(Code.PUSH_R64, register) for register in _SAVED),
        Instruction.create_reg_reg(Code.MOV_R64_RM64, Register.R15, Register.RDI),
        Instruction.create_reg_reg(Code.MOV_R64_RM64, Register.R14, Register.RSI),
        _plain(Code.FNINIT),
        Instruction.create_reg_mem(Code.MOVQ_MM_MMM64, Register.MM1, _block(0x100))
        if "MM" in _mm(kind)
        else _plain(Code.FLDPI),
        *(_clear_vector(number) for number in range(16)),
        *(_load_vector(number, wide) for number in range(1, 4)),
        *((Instruction.create_reg_mem(Code.VEX_KMOVQ_KR_KM64, Register.K1, _block(0x80)),) if wide else ()),
        *((Instruction.create_reg_mem(Code.VEX_KMOVQ_KR_KM64, Register.K3, _block(0x88)),) if wide else ()),
        *(
            Instruction.create_reg_mem(Code.MOV_R64_RM64, register, _block(8 * at))
            for at, register in enumerate(_GENERAL)
        ),
        Instruction.create_mem(Code.PUSH_RM64, _block(0x38)),
        _plain(Code.POPFQ),
        *body,
        _plain(Code.PUSHFQ),
        Instruction.create_mem(Code.POP_RM64, _block(_RESULTS)),
        *(
            Instruction.create_mem_reg(Code.MOV_RM64_R64, _block(_RESULTS + 8 + 8 * at), register)
            for at, register in enumerate(_GENERAL)
        ),
        Instruction.create_mem(Code.FXSAVE64_M512BYTE, _block(0x300)),
        *((_store_vector(number) for number in range(1, 4)) if wide else ()),
        *((Instruction.create_mem_reg(Code.VEX_KMOVQ_M64_KR, _block(0x260), Register.K3),) if wide else ()),
        _plain(Code.EMMS),
        *(Instruction.create_reg(Code.POP_R64, register) for register in reversed(_SAVED)),
        _plain(Code.RETNQ),
    ]
    encoder = BlockEncoder(64)
    for number, each in enumerate(program):
        each.ip = each.ip or number + 1
        encoder.add(each)
    return encoder.encode(address)


def _mm(kind: Kind) -> str:
    return "MM" if any(part in ("MM", "MMM64") for part in kind.name.split("_")) else ""


def _clear_vector(number: int) -> Instruction:
    register = Register.XMM0 + number
    return Instruction.create_reg_reg(Code.XORPS_XMM_XMMM128, register, register)


def _load_vector(number: int, wide: bool) -> Instruction:
    place = _block(0x100 + 0x40 * (number - 1))
    if wide:
        return Instruction.create_reg_mem(Code.EVEX_VMOVDQU64_ZMM_K1Z_ZMMM512, Register.ZMM0 + number, place)
    return Instruction.create_reg_mem(Code.MOVDQU_XMM_XMMM128, Register.XMM0 + number, place)


def _store_vector(number: int) -> Instruction:
    place = _block(0x500 + 0x40 * (number - 1))
    return Instruction.create_mem_reg(Code.EVEX_VMOVDQU64_ZMMM512_K1Z_ZMM, place, Register.ZMM0 + number)


def contents(offset: int, length: int) -> bytes:
    """What stands in the window at first, from `offset` on."""
    return bytes(n * 61 + (n >> 7) * 17 + 3 & 0xFF for n in range(offset, offset + length))
