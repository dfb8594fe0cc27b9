"""``ioas run --mmio poll``: BARs are pages that a thread of ours looks at; doorbells that a model declares work."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ioas.run.mmio import compiled
from tests.run.conftest import Runner

ROOT = Path(__file__).parents[2]
HOST = Path(__file__).parent / "clients" / "screen_host.py"
POLL = ("--mmio", "poll")
HEAD = """
import errno, mmap, os, signal, time
from mmio import Device, word
from edu import Machine, address_of
IDENTIFICATION, LIVENESS, FACTORIAL, STATUS, INTERRUPT, RAISE, ACKNOWLEDGE = 0, 4, 8, 0x20, 0x24, 0x60, 0x64
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
CONFIG = 7 << 40
def until(condition):
    limit = time.monotonic() + 20
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError
"""


@pytest.fixture(autouse=True, params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled part, and without."""
    if request.param == "python":
        monkeypatch.setenv(compiled.SWITCH, "no")
    elif compiled.library() is None:
        pytest.skip("ioas was installed where there is no C compiler")


def output(run: Runner, source: str) -> str:
    done = run.python(HEAD + source, options=POLL)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_doorbells_reach_the_model_and_registers_are_published_and_nobody_is_traced(run: Runner) -> None:
    source = """
bar = Device().map(1 << 20)
print(hex(word(bar).value))
word(bar + LIVENESS).value = 0x12345678
until(lambda: word(bar + LIVENESS).value == 0xedcba987)
word(bar + FACTORIAL).value = 10
until(lambda: word(bar + FACTORIAL).value == 3628800)
with open("/proc/self/status") as file:
    print([line.split()[1] for line in file if line.startswith("TracerPid")])
"""
    assert output(run, source) == "0x10000ed\n['0']\n"


def test_a_doorbell_that_is_write_only_can_be_rung_with_the_same_value_again(run: Runner) -> None:
    source = """
bar = Device().map(1 << 20)
for _ in range(20):
    word(bar + RAISE).value = 1
    until(lambda: word(bar + INTERRUPT).value == 1)
    word(bar + ACKNOWLEDGE).value = 1
    until(lambda: word(bar + INTERRUPT).value == 0)
print("done")
"""
    assert output(run, source) == "done\n"


def test_what_has_been_stored_into_other_registers_goes_before_the_doorbell(run: Runner) -> None:
    source = """
import ctypes
machine = Machine()
machine.bound = True
memory = mmap.mmap(-1, 4096)
memory[:5] = b"hello"
machine.map(address_of(memory), 4096)
class Opened(Device):
    def __init__(self):
        self.fd = machine.device
bar = Opened().map(1 << 20)
def move(source, destination, command):
    for offset, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, 5), (COMMAND, command)):
        ctypes.c_uint64.from_address(bar + offset).value = value
    until(lambda: not word(bar + COMMAND).value & 1)
move(0x100000, 0x40000, 1)
move(0x40000, 0x100100, 3)
print(memory[0x100:0x105])
"""
    assert output(run, source) == "b'hello'\n"


def test_reads_and_writes_see_the_same_registers_as_the_mapping(run: Runner) -> None:
    source = """
device = Device()
bar = device.map(1 << 20)
os.pwrite(device.fd, (5).to_bytes(4, "little"), LIVENESS)
until(lambda: word(bar + LIVENESS).value == 0xfffffffa)
word(bar + LIVENESS).value = 6
until(lambda: os.pread(device.fd, 4, LIVENESS) == (0xfffffff9).to_bytes(4, "little"))
print("same")
"""
    assert output(run, source) == "same\n"


def test_accesses_raise_bus_errors_while_decoding_is_off(run: Runner) -> None:
    source = """
device = Device()
bar = device.map(1 << 20)
def child():
    pid = os.fork()
    if pid == 0:
        word(bar).value
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
os.pwrite(device.fd, b"\\0\\0", CONFIG + 4)
print(child())
os.pwrite(device.fd, b"\\2\\0", CONFIG + 4)
print(child(), hex(word(bar).value))
"""
    assert output(run, source) == f"{-signal.SIGBUS}\n0 0x10000ed\n"


def test_a_device_is_polled_again_when_it_is_opened_again(run: Runner) -> None:
    source = """
from mmio import unmap
for turn in range(3):
    device = Device()
    bar = device.map(1 << 20)
    word(bar + LIVENESS).value = turn + 100
    until(lambda: word(bar + LIVENESS).value == ~(turn + 100) & 0xffffffff)
    unmap(bar, 1 << 20)
    os.close(device.fd)
    os.close(device.iommufd)
print("thrice")
"""
    assert output(run, source) == "thrice\n"


def test_explain_says_what_is_polled_and_what_is_lost(run: Runner) -> None:
    done = run.python(HEAD + "Device().map(4096)", options=(*POLL, "--explain"))
    assert "BAR 0 of edu 0000:01:00.0 is polled (doorbells: liveness, factorial, " in done.stderr
    assert "repeated equal stores" in done.stderr


def test_a_bar_without_doorbells_is_trapped_and_memory_is_memory() -> None:
    source = """
device = Device()
bar, frame = device.map(0x4000), device.map(1 << 20, 2 << 40)
word(frame).value = 0x01010101
word(bar + 0x1000).value = 0x02020202
word(bar + 8).value = 1
print(word(bar + 4).value)
with open("/proc/self/status") as file:
    print([line.split()[1] != "0" for line in file if line.startswith("TracerPid")])
"""
    command = [sys.executable, "-B", str(HOST), "poll", *Runner.script(HEAD + source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("12\n[True]\n", "")


def test_the_example_driver_works(run: Runner) -> None:
    done = run(sys.executable, str(ROOT / "examples" / "edu.py"), "0000:01:00.0", options=POLL)
    assert (done.returncode, done.stderr) == (0, "")
