"""Runs every kind of instruction on plain memory and on a mapped BAR, in N threads, and prints where they differ.

``python mmio_kinds.py N FILE``: thread T uses T * 64 KiB of the BAR. FILE gets what the plain memory holds at the end.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading

from kinds import SLOT, Kind, block, contents, function, is_portal, kinds
from mmio import Device

PER_THREAD = 1 << 16
X87_POINTERS = slice(0x308, 0x318)
"""Where the last x87 instruction and its operand stood, in the area that fxsave64 has written."""
_ROOM = 2048


def main() -> int:
    count, path = int(sys.argv[1]), sys.argv[2]
    with open("/proc/cpuinfo") as info:
        features = frozenset(next(line for line in info if line.startswith("flags")).split())
    table = kinds(features)
    code = mmap.mmap(-1, len(table) * _ROOM, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code_at = ctypes.addressof(ctypes.c_char.from_buffer(code))
    for number, kind in enumerate(table):
        body = function(kind, code_at + number * _ROOM, features)
        code[number * _ROOM : number * _ROOM + len(body)] = body
    plain = mmap.mmap(-1, count * PER_THREAD)
    plain[:] = contents(0, count * PER_THREAD)
    plain_at = ctypes.addressof(ctypes.c_char.from_buffer(plain))
    bar = Device().map(count * PER_THREAD)
    wrong: list[str] = []

    def work(thread: int) -> None:
        for number, kind in enumerate(table):
            at = thread * PER_THREAD + number * SLOT
            if failure := compare(kind, code_at + number * _ROOM, plain_at + at, bar + at):
                wrong.append(f"thread {thread}, {failure}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(path, "wb") as file:
        file.write(plain[:])
    sys.stdout.write("\n".join(wrong))
    return bool(wrong)


def compare(kind: Kind, code: int, plain: int, slot: int) -> str:
    """Carry `kind` out on plain memory and on the device; how the results differ."""
    expected = None if is_portal(kind) else run(code, plain)
    found = run(code, slot)
    if expected is None or found == expected:
        return ""
    places = [at for at in range(len(found)) if found[at] != expected[at]]
    return f"{kind.name}: results differ at {[hex(at) for at in places]}"


def run(code: int, slot: int) -> bytes:
    """What the function leaves in its block."""
    memory = ctypes.create_string_buffer(4096 + 64)
    start = -ctypes.addressof(memory) % 64
    at = ctypes.addressof(memory) + start
    initial = bytes(block())
    ctypes.memmove(at, initial, len(initial))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code)(slot, at)
    found = bytearray(ctypes.string_at(at, len(initial)))
    found[X87_POINTERS] = bytes(16)
    return bytes(found)


if __name__ == "__main__":
    sys.exit(main())
