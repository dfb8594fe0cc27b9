"""Programs that map a BAR under ``ioas run --mmio trap``, and what they do to the mapping and to themselves."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ioas.run.mmio import compiled
from tests.run.conftest import Done, Runner

TRAP = ("--mmio", "trap")
HEAD = """
import ctypes, errno, mmap, os, signal, subprocess, sys, threading
from mmio import Device, MAP_FIXED, READ_WRITE, unmap, word
PAGE = 4096
"""


@pytest.fixture(autouse=True, params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled part, and without."""
    if request.param == "python":
        monkeypatch.setenv(compiled.SWITCH, "no")
    elif compiled.library() is None:
        pytest.skip("ioas was installed where there is no C compiler")


def trapped(run: Runner, source: str, *argv: str, **keywords: object) -> Done:
    return run.python(HEAD + source, *argv, options=TRAP, **keywords)


def output(run: Runner, source: str) -> str:
    done = trapped(run, source)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_registers_are_loaded_and_stored_through_a_mapping_by_anyone(run_as_anyone: Runner) -> None:
    source = """
bar = Device().map(1 << 20)
word(bar + 4).value = 0x12345678
word(bar + 8).value = 10
while word(bar + 0x20).value & 1:
    pass
print(hex(word(bar).value), hex(word(bar + 4).value), word(bar + 8).value)
"""
    assert output(run_as_anyone, source) == "0x10000ed 0xedcba987 3628800\n"


def test_mappings_are_allowed_and_refused_as_by_a_kernel(run: Runner) -> None:
    """The answers are those of Linux 7.3.4 to this very program, with the same device."""
    source = """
device = Device()
INDEX = 1 << 40
def attempt(name, *arguments, **keywords):
    try:
        device.map(*arguments, **keywords)
        print(name, "ok")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
PRIVATE = mmap.MAP_PRIVATE
attempt("whole", 1 << 20)
attempt("more than whole", (1 << 20) + 1)
attempt("last page", PAGE, (1 << 20) - PAGE)
attempt("beyond the last page", 2 * PAGE, (1 << 20) - PAGE)
attempt("one byte", 1)
attempt("no bytes", 0)
attempt("misaligned offset", PAGE, 1)
attempt("private", PAGE, flags=PRIVATE)
attempt("absent BAR", PAGE, INDEX)
attempt("ROM", PAGE, 6 * INDEX)
attempt("config", PAGE, 7 * INDEX)
attempt("beyond the regions", PAGE, 9 * INDEX)
attempt("read only", PAGE, protection=mmap.PROT_READ)
attempt("executable", PAGE, protection=READ_WRITE | mmap.PROT_EXEC)
attempt("fixed misaligned", PAGE, address=0x70000123, flags=mmap.MAP_SHARED | MAP_FIXED)
attempt("fixed", PAGE, address=0x70000000, flags=mmap.MAP_SHARED | MAP_FIXED)
attempt("fixed again", PAGE, address=0x70000000, flags=mmap.MAP_SHARED | MAP_FIXED)
device.fd = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
attempt("unbound", PAGE)
"""
    expected = """\
whole ok
more than whole EINVAL
last page ok
beyond the last page EINVAL
one byte ok
no bytes EINVAL
misaligned offset EINVAL
private EINVAL
absent BAR EINVAL
ROM EINVAL
config EINVAL
beyond the regions EINVAL
read only ok
executable ok
fixed misaligned EINVAL
fixed ok
fixed again ok
unbound EINVAL
"""
    assert output(run, source) == expected


@pytest.mark.parametrize(("flags", "expected"), [("O_RDONLY", "EACCES ok"), ("O_WRONLY", "EACCES EACCES")])
def test_a_file_that_is_not_open_for_it_cannot_be_mapped(run: Runner, flags: str, expected: str) -> None:
    source = f"""
device = Device(flags=os.{flags})
def attempt(protection):
    try:
        device.map(PAGE, protection=protection)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
print(attempt(READ_WRITE), attempt(mmap.PROT_READ))
"""
    assert output(run, source) == expected + "\n"


def test_aliases_moved_and_cut_mappings_lead_to_the_same_registers(run: Runner) -> None:
    source = """
device = Device()
one, other = device.map(1 << 20), device.map(PAGE)
word(one + 4).value = 5
print(hex(word(other + 4).value))
unmap(one, PAGE)
libc = ctypes.CDLL(None)
libc.mremap.restype = ctypes.c_void_p
moved = libc.mremap(ctypes.c_void_p(other), PAGE, PAGE, 3, ctypes.c_void_p(0x70000000))
print(hex(word(moved + 4).value), hex(word(one + 0x1000).value))
again = device.map(PAGE, address=one, flags=mmap.MAP_SHARED | MAP_FIXED)
print(hex(word(again + 4).value))
"""
    assert output(run, source) == "0xfffffffa\n0xfffffffa 0xffffffff\n0xfffffffa\n"


def test_a_mapping_keeps_the_device_open_after_its_descriptor_is_closed(run: Runner) -> None:
    source = """
device = Device()
bar = device.map(PAGE)
os.close(device.fd)
print(hex(word(bar).value))
unmap(bar, PAGE)
Device()
print("bound again")
"""
    assert output(run, source) == "0x10000ed\nbound again\n"


def test_an_access_that_the_device_does_not_answer_is_a_bus_error(run: Runner) -> None:
    """With memory decoding off (vfio_pci_mmap_huge_fault, 7.3)."""
    source = """
device = Device()
bar = device.map(PAGE)
print(hex(word(bar).value), flush=True)
os.pwrite(device.fd, b"\\0\\0", (7 << 40) + 4)
word(bar).value
"""
    done = trapped(run, source)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "0x10000ed\n")


def test_signals_of_the_programs_own_reach_its_handlers_untouched(run: Runner) -> None:
    source = r"""
bar = Device().map(PAGE)
libc = ctypes.CDLL(None)
seen = []
JUMP = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def handler(number, info, context):
    code, address = ctypes.c_int.from_address(info + 8).value, ctypes.c_uint64.from_address(info + 16).value
    seen.append((signal.Signals(number).name, code, address))
    ctypes.c_uint64.from_address(context + 40 + 16 * 8).value += LENGTH  # REG_RIP
keep = JUMP(handler)
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_uint8 * 128), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p)]
for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL):
    action = Action(ctypes.cast(keep, ctypes.c_void_p).value, flags=4)
    ctypes.CDLL(None).sigaction(int(number), ctypes.byref(action), None)
code = mmap.mmap(-1, PAGE, prot=READ_WRITE | mmap.PROT_EXEC)
at = ctypes.addressof(ctypes.c_char.from_buffer(code))
def execute(body, argument):
    code[: len(body) + 1] = body + b"\xc3"
    ctypes.CFUNCTYPE(None, ctypes.c_uint64)(at)(argument)
empty = os.memfd_create("empty")
libc.mmap.restype = ctypes.c_void_p
beyond = libc.mmap(None, ctypes.c_size_t(PAGE), READ_WRITE, mmap.MAP_SHARED, empty, ctypes.c_long(0))
LENGTH = 2
execute(b"\x8b\x07", 0x10)          # mov eax, [rdi]
execute(b"\x89\x07", beyond + 8)    # mov [rdi], eax
execute(b"\x8b\x07", bar)           # of the BAR: no signal
execute(b"\x0f\x0b", 0)             # ud2
os.kill(os.getpid(), signal.SIGWINCH)
print([(name, code, address - beyond if name == "SIGBUS" else address - at if name == "SIGILL" else address)
       for name, code, address in seen])
print(hex(word(bar).value))
"""
    assert output(run, source) == "[('SIGSEGV', 1, 16), ('SIGBUS', 2, 8), ('SIGILL', 2, 0)]\n0x10000ed\n"


def test_a_signal_sent_by_kill_is_not_taken_for_an_access(run: Runner) -> None:
    source = """
bar = Device().map(PAGE)
caught = []
signal.signal(signal.SIGBUS, lambda number, frame: caught.append(number))
sender = threading.Thread(target=lambda: [os.kill(os.getpid(), signal.SIGBUS) for _ in range(20)])
sender.start()
values = {word(bar).value for _ in range(2000)}
sender.join()
os.kill(os.getpid(), signal.SIGBUS)
print(bool(caught), values == {0x10000ed})
"""
    assert output(run, source) == "True True\n"


@pytest.mark.parametrize("blocked", [True, False])
def test_threads_count_each_access_whatever_signals_they_have_blocked(run: Runner, blocked: bool) -> None:
    source = f"""
bar = Device().map(PAGE)
if {blocked}:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
wrong = []
def work(number):
    for turn in range(300):
        if word(bar).value != 0x10000ed:
            wrong.append(turn)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(wrong)
"""
    assert output(run, source) == "[]\n"


def test_children_of_fork_and_vfork_share_the_mapping_and_exec_leaves_it(run: Runner) -> None:
    source = """
device = Device()
bar = device.map(PAGE)
word(bar + 4).value = 1
def child():
    value = word(bar + 4).value
    word(bar + 4).value = 2
    return value == 0xfffffffe
pids = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        word(bar + 4).value = 1
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(word(bar).value != 0x10000ed)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    pids.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
print(subprocess.run(["true"]).returncode, subprocess.run(["sh", "-c", "kill -SEGV $$"]).returncode)
print(hex(word(bar + 4).value))
sys.stdout.flush()
os.execv("/bin/echo", ["echo", "executed"])
"""
    done = trapped(run, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["[0, 0, 0, 0, 0]", "0 -11", "0xfffffffe", "executed"]


def test_a_child_that_was_forked_before_maps_for_itself(run: Runner) -> None:
    source = """
device = Device()
pid = os.fork()
bar = device.map(PAGE)
value = word(bar).value
if pid == 0:
    os._exit(value != 0x10000ed)
print(hex(value), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert output(run, source) == "0x10000ed 0\n"


def test_the_exit_status_and_the_killing_signal_are_the_programs(run: Runner) -> None:
    head = "bar = Device().map(PAGE)\nword(bar).value\n"
    assert trapped(run, head + "sys.exit(7)").returncode == 7
    assert trapped(run, head + "os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL
    assert trapped(run, head + "os.kill(os.getpid(), signal.SIGTERM)").returncode == -signal.SIGTERM
    assert trapped(run, head + "signal.raise_signal(signal.SIGBUS)").returncode == -signal.SIGBUS


def test_a_program_under_a_debugger_is_told_of_the_mode_without_traps(run: Runner) -> None:
    source = """
if os.fork() == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME: the parent is its debugger
    try:
        Device().map(PAGE)
    except OSError as error:
        os.write(1, errno.errorcode[error.errno].encode())
    os._exit(0)
print("", os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = trapped(run, source)
    assert done.stdout == "EPERM 0\n"
    assert "is traced by process" in done.stderr
    assert "--mmio rw" in done.stderr


BROKEN = """
import sys
from ioas.run import Options, Supervisor, take_signals
from ioas.soft.vfio.device_file import DeviceFile
def load(self, offset, length):
    raise RuntimeError("a bug")
DeviceFile.load = load
mask = take_signals()
from ioas.soft.host import SoftHost
sys.exit(128 - Supervisor(SoftHost(["edu"]), sys.argv[1:], Options(), mask).run())
"""


def test_a_bug_of_ours_in_an_access_is_reported_and_the_program_gets_the_signal(run: Runner) -> None:
    program = run.script(HEAD + "word(Device().map(PAGE)).value")
    command = [sys.executable, "-B", "-c", BROKEN, *program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.SIGBUS
    assert "RuntimeError: a bug" in done.stderr


def test_with_rw_bars_have_no_mmap_flag(run: Runner) -> None:
    done = run.python(HEAD + "Device().map(PAGE)", options=("--mmio", "rw"))
    assert "OSError: [Errno 22]" in done.stderr
