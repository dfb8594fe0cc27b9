"""SIGKILL at any moment leaves nothing behind - pin, descriptor, shm file, process, thread - and the machine works."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.run.conftest import Runner, left_in_shm

KILLS = int(os.environ.get("IOAS_KILLS", "200"))
RUNS = max(KILLS // 20, 1)

SHEPHERD = """
from edu import *
import random, re, signal, threading
random.seed(int(sys.argv[1]))
supervisor = os.getppid()

def work():
    eventfd = os.eventfd(0)
    while True:
        try:
            machine = Machine()
        except OSError as error:
            if error.errno == 38:
                os._exit(1)  # the supervisor is gone
            continue
        fd = os.memfd_create("victim"); os.truncate(fd, 1 << 20)
        buffers = [shared(1 << 16), private(1 << 16)]
        call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
        for turn in range(20):
            for index, buffer in enumerate(buffers):
                machine.map(address_of(buffer), 1 << 16, iova=0x1000000 + index * 0x100000)
            machine.map_file(fd, 0, 1 << 20, iova=0x2000000)
            machine.register(SOURCE, 0x1000000); machine.register(DESTINATION, BUFFER); machine.register(COUNT, 4096)
            machine.register(COMMAND, 1)
            copy = os.dup(machine.iommufd); os.close(copy)
            os.close(os.open("/sys/bus/pci/devices/0000:01:00.0/config", os.O_RDONLY))
            for iova, length in ((0x1000000, 1 << 16), (0x1100000, 1 << 16), (0x2000000, 1 << 20)):
                machine.unmap(length, iova=iova)
        for each in (machine.device, machine.iommufd, fd):
            os.close(each)

def held():
    links = []
    for name in os.listdir(f"/proc/{supervisor}/fd"):
        try:
            links.append(os.readlink(f"/proc/{supervisor}/fd/{name}"))
        except OSError:
            pass
    return sorted(re.sub("[0-9]+", "", link) for link in links if f"/{os.getpid()}/" not in link and "zero" not in link)

def threads():
    return len(os.listdir(f"/proc/{supervisor}/task"))

machine = Machine()
call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, os.eventfd(0))
memory = shared(1 << 16)
machine.map(address_of(memory), 1 << 16)
other = private()
machine.map(address_of(other), 4096, iova=0x2000000)
machine.copy(IOVA, BUFFER, 16, to_memory=False)
os.close(machine.device); os.close(machine.iommufd)
os.listdir("/sys/bus/pci")
before = held(), threads()
for kill in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        for _ in range(random.choice((0, 0, 2))):
            threading.Thread(target=work).start()
        work()
    time.sleep(random.choice((0, 0.002, 0.02, 0.05)) * random.random())
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status == signal.SIGKILL, (kill, status)
    if kill % 20 == 0:
        machine = Machine()
        memory = shared(); memory[:4] = b"fine"
        machine.map(address_of(memory), 4096)
        assert machine.read(4) == b"fine"
        os.close(machine.device); os.close(machine.iommufd)
deadline = time.monotonic() + 10
while (held(), threads()) != before:
    assert time.monotonic() < deadline, (before, held(), threads())
    time.sleep(0.05)
"""


def descendants_marked(mark: str) -> list[str]:
    """Processes that carry `mark` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_a_program_that_is_killed_at_any_moment_leaves_the_machine_as_new(run: Runner) -> None:
    seed = random.randrange(1 << 32)
    before = left_in_shm()
    done = run.python(SHEPHERD, str(seed), str(KILLS), timeout=280)
    assert (done.stderr, done.returncode) == ("", 0), f"seed {seed}"
    assert left_in_shm() <= before


def test_whoever_is_killed_no_process_and_no_file_is_left(run: Runner) -> None:
    """The program, then the supervisor, at a random moment of a whole run."""
    seed = random.randrange(1 << 32)
    moment = random.Random(seed)
    before = left_in_shm()
    for number in range(2 * RUNS):
        mark = f"IOAS_TEST_MARK={os.getpid()}-{seed}-{number}"
        environment = dict(os.environ, **dict([mark.split("=")]))
        command = run.command(*run.script(SHEPHERD, str(seed), "1000000"))
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            time.sleep(moment.random())
            victims = [int(pid) for pid in descendants_marked(mark) if int(pid) != process.pid]
            victim = process.pid if number % 2 or not victims else moment.choice(victims)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while process.poll() is None:  # a program that was just dying may have got the first one
                process.terminate()
                assert time.monotonic() < deadline, f"seed {seed}, run {number}: the command does not end"
                time.sleep(0.02)
        while left := descendants_marked(mark):
            assert time.monotonic() < deadline, f"seed {seed}, run {number}: processes {left} are left"
            time.sleep(0.02)
    assert run("true").returncode == 0  # removes what killed supervisors have left
    assert left_in_shm() <= before
