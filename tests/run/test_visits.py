"""A thread that is made to register its memory notices nothing; and where it cannot be made to, that is said."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ioas.run import uring
from ioas.run.buffers import Buffers, Memory
from ioas.run.filter import build, rules
from ioas.run.kernel import Nr, Transfer
from ioas.run.launch import fork_filtered
from ioas.run.listener import Call, Listener
from ioas.run.numbers import FdRange
from ioas.run.ptrace import QuietStops
from ioas.run.visit import Visit
from tests.run.conftest import CLIENTS, Runner
from tests.run.test_pins import HEAD, passes

_CLOSE, _GETPID = 3, 39
PTRACE = """
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
"""
WITHOUT_IO_URING = """
    import errno, os
    from ioas.run import kernel
    from ioas.run.filter import build
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.install_filter(build([], [kernel.Nr.IO_URING_SETUP]), 0)
    os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("mmio", ["trap", "rw"])
def test_registers_stack_red_zone_and_signals_are_what_they_were(
    run_as_anyone: Runner, mmio: str, cc: str, open_directory: Path
) -> None:
    program = open_directory / "visited"
    subprocess.run([cc, "-O1", "-o", program, CLIENTS / "visited.c"], check=True)
    passes(
        run_as_anyone,
        f"""
import subprocess
os.set_inheritable(machine.iommufd, True)
command = [{str(program)!r}, str(machine.iommufd), str(machine.ioas)]
done = subprocess.run(command, close_fds=False)
assert done.returncode == 0, done
""",
        "--strict",
        "--mmio",
        mmio,
    )


def test_a_process_that_is_traced_for_its_mapped_bars_pins_memory_all_the_same(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
import threading
bar = mmap.mmap(machine.device, 4096)
register = memoryview(bar).cast("I")
assert register[0] == 0x010000ED
assert not any(line.endswith("\\t0\\n") for line in open("/proc/self/status") if line.startswith("TracerPid"))
def work():
    for turn in range(10):
        memory = private()
        machine.map(address_of(memory), 4096, iova=iovas.pop())
        assert register[0] == 0x010000ED
iovas = [0x2000000 + page * 4096 for page in range(40)]
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not iovas
child = os.fork()
memory = private()
memory[:4] = b"kid!" if child == 0 else b"held"
machine.map(address_of(memory), 4096, iova=0x1000000 if child else 0x1100000)
if child == 0:
    os._exit(machine.read(4, iova=0x1100000) != b"kid!")
assert os.waitpid(child, 0)[1] == 0
assert machine.read(4, iova=0x1000000) == b"held"
""",
        "--strict",
        "--mmio",
        "trap",
    )


def test_a_thread_is_known_anew_after_it_has_executed_a_program(run_as_anyone: Runner) -> None:
    """What it has registered before is gone: so has, in the kernel, all that io_uring knows of it."""
    passes(
        run_as_anyone,
        """
for fd in (0, machine.iommufd, machine.device):
    os.set_inheritable(fd, True)
memory = private()
machine.map(address_of(memory), 4096)
memory[:4] = b"held"
again = f'''
import sys
sys.path.insert(0, {sys.path[0]!r})
from edu import *
machine = object.__new__(Machine)
machine.iommufd, machine.device, machine.ioas = {machine.iommufd}, {machine.device}, {machine.ioas}
memory = private(); memory[:4] = b"anew"
machine.map(address_of(memory), 4096, iova=0x1000000)
assert machine.read(4, iova=0x1000000) == b"anew"
assert machine.read(4) == b"held"
'''
os.execv(sys.executable, [sys.executable, "-c", again])
""",
        "--strict",
    )


def test_descriptors_and_areas_and_tracer_are_what_they_were(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
def seen():
    shown = ("Tracer", "SigP", "SigB", "SigI", "SigC", "Shd", "Threads", "FDSize")
    lines = [line for line in open("/proc/self/status") if line.startswith(shown)]
    return sorted(os.listdir("/proc/self/fd")), lines, sorted(os.sched_getaffinity(0)), open("/proc/self/maps").read()
memory = private(); memory[:] = b"x" * 4096
seen()
before = seen()
for turn in range(3):
    machine.map(address_of(memory), 4096, iova=0x1000000 + turn * 4096)
after = seen()
assert after[:3] == before[:3], (before, after)
assert len(after[3].splitlines()) <= len(before[3].splitlines()) + 1
""",
        "--strict",
    )


def test_no_call_is_interrupted_by_signals_and_none_is_lost(run_as_anyone: Runner) -> None:
    """A timer's signal comes every 200 microseconds; the program asks for calls to be restarted."""
    passes(
        run_as_anyone,
        """
import signal
ticks = []
signal.signal(signal.SIGALRM, lambda number, frame: ticks.append(number))
signal.siginterrupt(signal.SIGALRM, False)
memory = private()
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for turn in range(300):
    machine.map(address_of(memory), 4096, iova=0x8000000 + turn * 4096)
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(ticks) > 10
""",
        "--strict",
    )


def test_signals_that_are_queued_stay_so_in_their_order(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [34])
libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
libc.sigwaitinfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
sender = os.fork()
if sender == 0:
    for number in range(300):
        assert libc.sigqueue(os.getppid(), 34, number) == 0
        time.sleep(0.0002)
    os._exit(0)
memory = private()
turn = 0
while os.waitpid(sender, os.WNOHANG) == (0, 0):
    machine.map(address_of(memory), 4096, iova=0x8000000 + turn * 4096)
    turn += 1
numbers = []
wanted, info = struct.pack("=Q120x", 1 << 33), ctypes.create_string_buffer(128)
for _ in range(300):
    assert libc.sigwaitinfo(wanted, info) == 34
    numbers.append(int.from_bytes(info.raw[24:28], "little"))
assert numbers == list(range(300))
assert turn > 10
""",
        "--strict",
    )


def test_who_is_stopped_and_continued_all_the_time_goes_on(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
import signal
memory = private()
child = os.fork()
if child == 0:
    for turn in range(400):
        machine.map(address_of(memory), 4096, iova=0x1000000 + turn * 4096)
    os._exit(7)
stops = 0
while True:
    os.kill(child, signal.SIGSTOP)
    found, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFEXITED(status):
        break
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, status
    stops += 1
    os.kill(child, signal.SIGCONT)
    time.sleep(0.001)
assert os.WEXITSTATUS(status) == 7 and stops > 5
""",
        "--strict",
    )


def test_threads_pin_memory_at_the_same_time(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
import threading
failures = []
def work(number):
    try:
        for turn in range(4):
            memory = private()
            memory[:4] = number.to_bytes(4, "little")
            iova = 0x1000000 + number * 0x100000
            machine.map(address_of(memory), 4096, iova=iova)
            with lock:
                assert machine.read(4, iova=iova) == number.to_bytes(4, "little")
            machine.unmap(4096, iova=iova)
    except BaseException as error:
        failures.append(error)
lock = threading.Lock()
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
""",
        "--strict",
    )


@contextmanager
def stopped_at(path: bytes, child: Callable[[], None]) -> Iterator[tuple[Listener, Call]]:
    """A child under the filter, waiting in its open of `path`. At the end it has to exit with 7."""
    launched = fork_filtered(build(rules([FdRange(900, 1023)], eventfds=False)), child)
    listener = Listener(launched.listener)
    yield listener, next(call for call in iter(listener.receive, None) if _opens(listener, call, path))
    listener.close()
    launched.channel.close()
    assert os.waitstatus_to_exitcode(os.waitpid(launched.pid, 0)[1]) == 7


def _opens(listener: Listener, call: Call, path: bytes) -> bool:
    """Whether the call opens `path`; others go on."""
    if call.number == Nr.OPENAT and Transfer().read(call.thread, call.arguments[1], len(path)) == path:
        return True
    listener.proceed(call.ident)
    return False


def test_more_pins_can_be_had_than_one_ring_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "SLOTS", 4)
    memory = mmap.mmap(-1, 9 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def child() -> None:
        for page in range(9):
            memory[page * 4096] = page
        os._exit(os.open("/dev/iommu", os.O_RDONLY))

    with stopped_at(b"/dev/iommu", child) as (listener, call):
        buffers = Buffers(listener, lambda: call)
        of = Memory("memory", certain=False)
        pins = [buffers.register(call.thread, address + page * 4096, 4096, of, page) for page in range(9)]
        assert len(buffers) == 9
        assert [pin.read(page * 4096, 1) for page, pin in enumerate(pins)] == [bytes([page]) for page in range(9)]
        for pin in pins:
            pin.drop()
        assert len(buffers) == 0
        listener.answer(call.ident, 7)
        buffers.close()


def test_who_is_visited_can_be_given_descriptors_and_its_call_returns_what_we_say() -> None:
    """As VFIO_GROUP_GET_DEVICE_FD wants it, which attaches a device, and so pins memory, and gives a descriptor."""
    ours, theirs = os.pipe()

    def child() -> None:
        number = os.open("/dev/iommu", os.O_RDONLY)
        os.write(number, b"given")
        os._exit(7)

    with stopped_at(b"/dev/iommu", child) as (listener, call):
        visit = listener.visit = Visit(listener, call, Transfer(), QuietStops(), None)
        assert visit.call(_GETPID) == call.thread
        assert visit.call(_CLOSE, 777) == -errno.EBADF
        assert listener.give(call.ident, theirs, 777, True, answer=False) == 777
        assert visit.call(_GETPID) == call.thread
        assert listener.waits(call.ident)
        assert visit.call(_CLOSE, 777) == 0
        assert listener.give(call.ident, theirs, None, True, answer=True) > 2
        assert listener.visit is None
        assert os.read(ours, 10) == b"given"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("kind", ["private()", "shared()"])
def test_who_is_traced_by_a_debugger_has_its_memory_held_by_address_and_this_is_said(
    run_as_nobody: Runner, kind: str
) -> None:
    said = passes(
        run_as_nobody,
        f"""{PTRACE}
memory = {kind}
wait, go = os.pipe()
child = os.fork()
if child == 0:
    os.read(wait, 1)
    memory[:4] = b"okay"
    machine.map(address_of(memory), 4096)
    assert machine.read(4) == b"okay"
    os._exit(0)
assert libc.ptrace(0x4206, child, None, None) == 0
os.write(go, b"x")
assert os.waitpid(child, 0)[1] == 0
""",
        "--explain",
    )
    assert "perhaps a debugger is attached: held by its address" in said


def test_who_has_a_filter_of_its_own_is_not_killed_by_our_call(run_as_nobody: Runner) -> None:
    said = passes(
        run_as_nobody,
        """
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 427), (6, 0, 0, 0x80000000), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("HBBI", *step) for step in steps)
program = Program(len(code) // 8, code)
child = os.fork()
if child == 0:
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
    memory = private(); memory[:4] = b"okay"
    machine.map(address_of(memory), 4096)
    assert machine.read(4) == b"okay"
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
        "--explain",
    )
    assert "it has a seccomp filter of its own" in said


def test_pages_beyond_the_limit_of_locked_memory_are_held_by_address_where_the_machine_allows_more(
    run_as_nobody: Runner,
) -> None:
    source = """
import resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
memory = private(4 << 20)
try:
    machine.map(address_of(memory), 4 << 20)
except OSError as error:
    assert error.errno == errno.ENOMEM
    print("refused")
"""
    done = run_as_nobody.python(HEAD + source, options=["--explain"])
    assert (done.returncode, done.stdout) == (0, "refused\n")
    assert "RLIMIT_MEMLOCK" in done.stderr
    done = run_as_nobody.python(HEAD + source, options=["--explain", "--cap", "ipc_lock"])
    assert (done.returncode, done.stdout) == (0, "")
    assert "RLIMIT_MEMLOCK does not allow more pinned pages: held by its address" in done.stderr


@pytest.fixture
def without_io_uring(run_as_anyone: Runner) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `ioas run` where io_uring is forbidden, as container profiles do."""

    def start(*command: str) -> subprocess.CompletedProcess[str]:
        prefix, rest = run_as_anyone.prefix, command[len(run_as_anyone.prefix) :]
        wrapped = [*prefix, *run_as_anyone.script(WITHOUT_IO_URING), *rest]
        return subprocess.run(wrapped, capture_output=True, text=True, check=False, timeout=60)

    return start


def test_without_io_uring_private_memory_is_held_by_address_and_both_the_check_and_explain_say_so(
    run_as_anyone: Runner, without_io_uring: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    source = (
        HEAD
        + """
memory = private(); memory[:4] = b"okay"
machine.map(address_of(memory), 4096)
assert machine.read(4) == b"okay"
"""
    )
    done = without_io_uring(*run_as_anyone.command(*run_as_anyone.script(source), options=["--explain"]))
    assert done.returncode == 0, done.stderr
    assert "io_uring cannot be used here" in done.stderr
    assert "held by its address" in done.stderr
    checked = without_io_uring(*run_as_anyone.command(options=["--check"])[:-1])
    line = next(line for line in checked.stdout.splitlines() if "private memory" in line)
    assert line.startswith("degraded")
    assert "io_uring cannot be used here" in line
    strict = without_io_uring(*run_as_anyone.command(*run_as_anyone.script(source), options=["--strict"]))
    assert "Operation not supported" in strict.stderr


def test_the_check_says_that_private_memory_is_pinned(run_as_anyone: Runner) -> None:
    done = subprocess.run(run_as_anyone.command(options=["--check"])[:-1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line.startswith("ok") and "private memory" in line for line in done.stdout.splitlines())
