"""BARs that are memory: mapped without a trap, the same bytes for everybody, out of reach while they do not answer."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.conftest import Done, Runner

HOST = Path(__file__).parent / "clients" / "screen_host.py"
HEAD = """
import ctypes, errno, fcntl, mmap, os, signal, struct
from mmio import Device, MAP_FIXED, word, unmap
PAGE = 4096
BAR2, CONFIG = 2 << 40, 7 << 40
ACCESSES, TOTAL, ADD_UP, FILL = 0x00, 0x04, 0x08, 0x0C
device = Device()
def read(offset):
    return int.from_bytes(os.pread(device.fd, 4, offset), "little")
def write(offset, value):
    os.pwrite(device.fd, value.to_bytes(4, "little"), offset)
def total():
    write(ADD_UP, 1)
    return read(TOTAL)
def tracer():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("TracerPid"))
def decode(on):
    os.pwrite(device.fd, bytes([2 * on, 0]), CONFIG + 4)
"""


def done(source: str, mode: str = "trap") -> Done:
    command = [sys.executable, "-B", str(HOST), mode, *Runner.script(HEAD + source)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def output(source: str, mode: str = "trap") -> str:
    found = done(source, mode)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


def test_a_bar_that_is_memory_is_mapped_without_tracing_anybody() -> None:
    source = """
frame = device.map(1 << 20, BAR2)
word(frame + 0x100).value = 0x01010101
print(tracer(), hex(read(BAR2 + 0x100)), total())
write(BAR2 + 0x104, 0x02020202)
print(hex(word(frame + 0x104).value), total())
write(FILL, 3)
print(hex(word(frame).value), hex(word(frame + 0xFFFFC).value))
"""
    assert output(source) == "0 0x1010101 4\n0x2020202 12\n0x3030303 0x3030303\n"


def test_memory_within_a_bar_is_mapped_and_the_registers_beside_it_are_trapped() -> None:
    source = """
bar = device.map(0x4000)
before = word(bar + ACCESSES).value
for offset in range(0x1000, 0x3000, 4):
    word(bar + offset).value = 0x01010101
print(word(bar + ACCESSES).value - before, tracer() != 0)
word(bar + ADD_UP).value = 1
print(word(bar + TOTAL).value, hex(read(0x2FFC)), hex(word(bar + 0x3000).value))
word(bar + FILL).value = 7
print(hex(word(bar + 0x1000).value))
"""
    assert output(source) == "1 True\n8192 0x1010101 0xffffffff\n0x7070707\n"


@pytest.mark.parametrize(
    ("offset", "expected"), [(0x0, "0x0 0x9090909"), (0x1000, "0x9090909 0x9090909"), (0x2000, "0x9090909 0xffffffff")]
)
def test_a_mapping_may_begin_and_end_anywhere(offset: int, expected: str) -> None:
    source = f"""
write(FILL, 9)
one = device.map(2 * PAGE, {offset})
print(*[hex(word(one + at).value) for at in (TOTAL, TOTAL + PAGE)])
fixed = device.map(2 * PAGE, {offset}, address=one, flags=mmap.MAP_SHARED | MAP_FIXED)
print(*[hex(word(fixed + at).value) for at in (TOTAL, TOTAL + PAGE)])
"""
    assert output(source) == f"{expected}\n" * 2


def test_memory_raises_bus_errors_while_decoding_is_off_and_has_its_contents_afterwards() -> None:
    source = """
frame, bar = device.map(1 << 20, BAR2), device.map(0x4000)
word(frame).value, word(bar + 0x1000).value = 1, 2
decode(False)
def child(address):
    pid = os.fork()
    if pid == 0:
        word(address).value
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(child(frame), child(bar + 0x1000), child(bar))
decode(True)
print(child(frame), word(frame).value, word(bar + 0x1000).value, total())
word(frame).value = 256
print(read(BAR2))
"""
    assert output(source) == f"{-signal.SIGBUS} {-signal.SIGBUS} {-signal.SIGBUS}\n0 1 2 3\n256\n"


def test_memory_that_is_mapped_while_decoding_is_off_comes_with_it() -> None:
    source = """
write(BAR2, 77)
decode(False)
frame = device.map(PAGE, BAR2)
decode(True)
print(word(frame).value)
"""
    assert output(source) == "77\n"


def test_a_mapping_of_memory_keeps_the_device_open() -> None:
    source = """
frame = device.map(PAGE, BAR2)
word(frame).value = 5
os.close(device.fd)
print(word(frame).value)
unmap(frame, PAGE)
again = Device()
print(int.from_bytes(os.pread(again.fd, 4, BAR2), "little"))
"""
    assert output(source) == "5\n5\n"


def test_a_reset_leaves_a_mapping_of_memory_usable() -> None:
    source = """
frame = device.map(PAGE, BAR2)
word(frame).value = 5
try:
    fcntl.ioctl(device.fd, 0x3B6F)  # VFIO_DEVICE_RESET
except OSError as error:
    print(errno.errorcode[error.errno])
decode(True)
print(word(frame).value)
"""
    assert output(source).splitlines()[-1] == "5"


def test_memory_of_a_device_is_not_pinned_for_an_iommufd() -> None:
    """As any mapped BAR (IOMMU_IOAS_MAP answers EFAULT for it, 7.3)."""
    source = """
frame = device.map(PAGE, BAR2)
ioas = bytearray(struct.pack("=III", 12, 0, 0))
fcntl.ioctl(device.iommufd, 0x3B81, ioas)
ioas = struct.unpack("=III", ioas)[2]
fcntl.ioctl(device.fd, 0x3B77, bytearray(struct.pack("=III", 12, 0, ioas)))
try:
    fcntl.ioctl(device.iommufd, 0x3B85, bytearray(struct.pack("=IIIIQQQ", 40, 6, ioas, 0, frame, PAGE, 0)))
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    assert output(source) == "EFAULT\n"


def test_a_read_only_file_maps_memory_for_reading_alone() -> None:
    source = """
os.close(device.fd)
device = Device(flags=os.O_RDONLY)
frame = device.map(PAGE, BAR2, protection=mmap.PROT_READ)
print(word(frame).value)
try:
    device.map(PAGE, BAR2)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    assert output(source) == "0\nEACCES\n"
