"""Threads that access a BAR are kept where we are: nobody sees that, and nothing else stops being told."""

from __future__ import annotations

import os
import signal

import pytest

from ioas.run.mmio import compiled
from tests.run.conftest import Runner
from tests.run.test_signals import running

HEAD = """
import ctypes, os, signal, threading, time
from mmio import Device, word
device = Device()
bar = device.map(4096)
def access(count=3000):
    for _ in range(count):
        word(bar + 4).value
def allowed(path="/proc/thread-self/status"):
    with open(path) as file:
        return next(line.split()[1] for line in file if line.startswith("Cpus_allowed_list"))
"""


@pytest.fixture(autouse=True, params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled part, and without."""
    if request.param == "python":
        monkeypatch.setenv(compiled.SWITCH, "no")
    elif compiled.library() is None:
        pytest.skip("ioas was installed where there is no C compiler")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor")


def output(run: Runner, source: str) -> str:
    done = run.python(HEAD + source)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_affinity_that_a_program_sees_is_its_own(run: Runner) -> None:
    source = """
seen = set()
for _ in range(20):
    access(300)
    seen.add(frozenset(os.sched_getaffinity(0)))
print([sorted(each) for each in seen])
"""
    assert output(run, source) == f"{[sorted(os.sched_getaffinity(0))]}\n"


def test_the_affinity_that_a_program_sets_holds(run: Runner) -> None:
    source = """
last = max(os.sched_getaffinity(0))
access()
os.sched_setaffinity(0, {last})
access()
print(os.sched_getaffinity(0) == {last}, allowed() == str(last))
"""
    assert output(run, source) == "True True\n"


def test_a_child_and_a_thread_do_not_inherit_where_their_maker_is_kept(run: Runner) -> None:
    source = """
whole = allowed()
def child():
    os._exit(allowed() != whole)
for _ in range(10):
    access(300)
    pid = os.fork()
    if pid == 0:
        child()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), end=" ")
seen = []
for _ in range(10):
    access(300)
    thread = threading.Thread(target=lambda: seen.append(allowed()))
    thread.start()
    thread.join()
print(set(seen) == {whole})
"""
    assert output(run, source) == "0 " * 10 + "True\n"


def test_nor_do_children_on_a_busy_machine(run: Runner) -> None:
    source = """
whole = allowed()
read, write = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        os.close(write)
        os.set_blocking(read, False)
        while True:
            try:
                os.read(read, 1)
                os._exit(0)
            except BlockingIOError:
                pass
os.close(read)
confined = 0
for _ in range(150):
    access(100)
    pid = os.fork()
    if pid == 0:
        os._exit(allowed() != whole)
    confined += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(confined)
"""
    assert output(run, source) == "0\n"


def test_a_bar_can_be_mapped_while_threads_are_made(run: Runner) -> None:
    source = """
from mmio import unmap
done = threading.Event()
def make():
    while not done.is_set():
        threads = [threading.Thread(target=lambda: None) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
makers = [threading.Thread(target=make) for _ in range(3)]
[maker.start() for maker in makers]
try:
    for _ in range(100):
        at = device.map(4096)
        unmap(at, 4096)
finally:
    done.set()
[maker.join() for maker in makers]
print("mapped")
"""
    assert output(run, source) == "mapped\n"


def test_who_has_stopped_accessing_may_run_anywhere(run: Runner) -> None:
    source = """
whole = allowed()
access()
until = time.monotonic() + 10
while allowed() != whole and time.monotonic() < until:
    pass
print(allowed() == whole)
"""
    assert output(run, source) == "True\n"


def test_a_program_executed_by_a_kept_thread_may_run_anywhere(run: Runner) -> None:
    source = """
import sys
print(allowed(), flush=True)
access()
os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdout.write(next(line.split()[1] for line in "
    "open('/proc/self/status') if line.startswith('Cpus_allowed_list')))"])
"""
    whole, executed = output(run, source).split()
    assert executed == whole


def test_a_stop_of_an_untraced_program_beside_a_traced_one_stops_the_job(run: Runner) -> None:
    source = """
    import os, signal, sys
    read, write = os.pipe()
    if os.fork() == 0:
        from mmio import Device, word
        bar = Device().map(4096)
        word(bar).value
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    os.write(1, b"up\\n")
    os.kill(os.getpid(), signal.SIGSTOP)
    os.write(1, b"on\\n")
    signal.pause()
    """
    with running(run, source) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        os.killpg(process.pid, signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"on"


def test_a_traced_program_that_is_stopped_and_continued_alone_goes_on(run: Runner) -> None:
    source = """
access(10)
program = os.getpid()
supervisor = os.open(f"/proc/{os.getppid()}/stat", os.O_RDONLY)
def state():
    return os.pread(supervisor, 1024, 0).rpartition(b")")[2].split()[0]
if os.fork() == 0:
    for _ in range(3):
        os.kill(program, signal.SIGSTOP)
        while state() != b"T":
            pass
        os.kill(program, signal.SIGCONT)
    os._exit(0)
os.wait()
access(10)
print("on")
"""
    assert output(run, source) == "on\n"


def test_memory_that_takes_the_place_of_a_bar_in_the_midst_of_an_access_is_found(run: Runner) -> None:
    source = """
from mmio import MAP_FIXED
private = ctypes.CDLL(None).mmap
private.restype = ctypes.c_void_p
private.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
done, seen = threading.Event(), set()
def read():
    while not done.is_set():
        seen.add(word(bar).value)
readers = [threading.Thread(target=read) for _ in range(3)]
[reader.start() for reader in readers]
for _ in range(50):
    private(bar, 4096, 3, MAP_FIXED | 0x22, -1, 0)
    device.map(4096, address=bar, flags=1 | MAP_FIXED)
done.set()
[reader.join() for reader in readers]
print(seen <= {0, 0x10000ed})
"""
    assert output(run, source) == "True\n"


def test_a_thread_that_pauses_or_ends_in_its_turn_holds_nobody_up(run: Runner) -> None:
    source = """
wrong = []
def work(number):
    for burst in range(8):
        for _ in range(200 + 37 * number):
            if word(bar).value != 0x10000ed:
                wrong.append(number)
        if number % 2:
            time.sleep(0.01)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(wrong)
"""
    assert output(run, source) == "[]\n"


def test_what_else_is_asked_of_threads_goes_on_while_others_take_turns(run: Runner) -> None:
    source = """
from mmio import unmap
stop, counts = threading.Event(), [0, 0]
def work(number):
    while not stop.is_set():
        counts[number] += word(bar).value == 0x10000ed
threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
[thread.start() for thread in threads]
for _ in range(30):
    at = device.map(4096)
    if word(at).value != 0x10000ed:
        raise ValueError
    unmap(at, 4096)
stop.set()
[thread.join() for thread in threads]
print(all(counts))
"""
    assert output(run, source) == "True\n"
