"""Accesses that are to a BAR only in part: each side gets its bytes, and a missing one is found before the device."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.clients.kinds import contents
from tests.run.conftest import Runner

HOST = Path(__file__).parent / "clients" / "mmio_host.py"
HEAD = """
import ctypes, mmap, os, sys
from mmio import Device, MAP_FIXED, READ_WRITE, unmap
PAGE = 4096
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
BASE = 0x70000000
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
def memory(at, protection=READ_WRITE):
    flags = ANONYMOUS | MAP_FIXED
    assert libc.mmap(ctypes.c_void_p(at), PAGE, protection, flags, -1, ctypes.c_long(0)) == at
memory(BASE), memory(BASE + 2 * PAGE)
bar = Device().map(PAGE, PAGE, address=BASE + PAGE, flags=mmap.MAP_SHARED | MAP_FIXED)
code = mmap.mmap(-1, PAGE, prot=READ_WRITE | mmap.PROT_EXEC)
def execute(body, *arguments):
    code[: len(body) + 1] = body + b"\\xc3"
    at = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(at)(*arguments)
LOAD, STORE = b"\\x48\\x8b\\x07", b"\\x48\\x89\\x37"  # mov rax, [rdi]; mov [rdi], rsi
ADD = b"\\x48\\x01\\x37"  # add [rdi], rsi
COPY = b"\\xf3\\x0f\\x6f\\x07\\xf3\\x0f\\x7f\\x06"  # movdqu xmm0, [rdi]; movdqu [rsi], xmm0
"""


def run(source: str, tmp_path: Path, status: int = 0) -> tuple[str, list[list[object]]]:
    """What the program says, and the accesses that the device saw."""
    log = tmp_path / "log"
    command = [sys.executable, "-B", str(HOST), str(log), *Runner.script(HEAD + source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (status & 0xFF, "")
    seen = [[verb, offset - 0x1000, data] for verb, offset, data in json.loads(log.read_text())["log"]]
    return done.stdout, seen


def held(offset: int, length: int) -> str:
    return contents(0, 1 << 19)[0x1000 + offset : 0x1000 + offset + length].hex()


def test_a_load_that_begins_in_memory_has_the_rest_from_the_device(tmp_path: Path) -> None:
    said, seen = run(
        """
ctypes.memmove(bar - 5, b"abcde", 5)
print(execute(LOAD, bar - 5, 0).to_bytes(8, "little").hex())
""",
        tmp_path,
    )
    assert said == b"abcde".hex() + held(0, 3) + "\n"
    assert seen == [["read", 0, held(0, 2)], ["read", 2, held(2, 1)]]


def test_a_load_that_ends_in_memory_and_a_vector_that_does(tmp_path: Path) -> None:
    said, seen = run(
        """
ctypes.memmove(bar + PAGE, bytes(range(16)), 16)
print(execute(LOAD, bar + PAGE - 3, 0).to_bytes(8, "little").hex())
target = ctypes.create_string_buffer(16)
execute(COPY, bar + PAGE - 4, ctypes.addressof(target))
print(target.raw.hex())
""",
        tmp_path,
    )
    first, second = said.split()
    assert first == held(0xFFD, 3) + bytes(range(5)).hex()
    assert second == held(0xFFC, 4) + bytes(range(12)).hex()
    assert [(verb, offset) for verb, offset, _ in seen] == [("read", 0xFFD), ("read", 0xFFE), ("read", 0xFFC)]


def test_a_store_and_a_sum_that_cross_reach_both_sides(tmp_path: Path) -> None:
    said, seen = run(
        """
execute(STORE, bar - 4, 0x8877665544332211)
print(ctypes.string_at(bar - 4, 4).hex())
ctypes.memmove(bar + PAGE, bytes(8), 8)
execute(ADD, bar + PAGE - 4, 1 << 32)
print(ctypes.string_at(bar + PAGE, 4).hex())
""",
        tmp_path,
    )
    assert said == "11223344\n01000000\n"
    assert seen == [["write", 0, "55667788"], ["read", 0xFFC, held(0xFFC, 4)], ["write", 0xFFC, held(0xFFC, 4)]]


@pytest.mark.parametrize("body", ["LOAD", "STORE", "ADD"])
def test_where_the_other_side_is_missing_the_device_is_not_asked(body: str, tmp_path: Path) -> None:
    source = f"""
unmap(BASE + 2 * PAGE, PAGE)
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    execute({body}, bar + PAGE - 4, 1)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    said, seen = run(source, tmp_path)
    assert (said, seen) == (f"{-signal.SIGSEGV}\n", [])
