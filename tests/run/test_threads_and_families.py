"""Whatever shape a program has - threads, deep trees of processes, vfork, filters of its own - it is served."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.run.conftest import Runner
from tests.run.test_files import passes

VFORK = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK_EXTENSION 0x3b65
#define IOAS_ALLOC 0x3b81

/* The child of a vfork makes calls in its parent's memory, and then executes this program again. */
int main(int argc, char **argv)
{
	struct { unsigned size, flags, id; } alloc = { sizeof(alloc), 0, 0 };
	int fd, status;
	pid_t child;

	if (argc > 1)
		return ioctl(atoi(argv[1]), CHECK_EXTENSION, 1) == 1 ? 7 : 8;
	for (int round = 0; round < 50; round++) {
		fd = open("/dev/iommu", O_RDWR);
		child = vfork();
		if (child == 0) {
			char number[16];
			if (ioctl(fd, IOAS_ALLOC, &alloc))
				_exit(1);
			sprintf(number, "%d", fd);
			execl(argv[0], argv[0], number, (char *)NULL);
			_exit(2);
		}
		if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
			return 10 + WEXITSTATUS(status);
		if (!alloc.id || ioctl(fd, IOAS_ALLOC, &alloc)) /* the child has written here; we are the same memory */
			return 3;
		close(fd);
	}
	return 0;
}
"""


def compiled(source: str, directory: Path, require: Callable[[str, str], NoReturn]) -> str:
    """A program made from C."""
    if shutil.which("cc") is None:
        require("cc", "no C compiler")
    (directory / "program.c").write_text(source)
    subprocess.run(["cc", "-pthread", "-o", str(directory / "program"), str(directory / "program.c")], check=True)
    return str(directory / "program")


def test_the_child_of_a_vfork_is_served_in_its_parents_memory(
    run: Runner, tmp_path: Path, require: Callable[[str, str], NoReturn]
) -> None:
    done = run(compiled(VFORK, tmp_path, require))
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_hundred_threads_use_the_machine_at_once(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        import threading
        machine, failures = Machine(), []
        start = threading.Barrier(100)

        def work(number):
            try:
                start.wait()
                memory = shared(1 << 12)
                for _ in range(5):
                    machine.map(address_of(memory), 1 << 12, iova=IOVA + (number << 12))
                    assert os.pread(machine.device, 4, CONFIG) == bytes.fromhex("3412e811")
                    iommufd = os.open("/dev/iommu", os.O_RDWR)
                    ioas = call(iommufd, IOAS_ALLOC, "=3I", 0, 0)[2]
                    os.close(iommufd)
                    machine.unmap(1 << 12, iova=IOVA + (number << 12))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert not failures, failures[:3]
        """,
    )


def test_a_deep_tree_of_processes_hands_a_device_down(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        machine = Machine()
        def descend(depth):
            assert os.pread(machine.device, 4, CONFIG) == bytes.fromhex("3412e811")
            assert fcntl.ioctl(machine.iommufd, CHECK_EXTENSION, 1) == 1
            if depth == 0:
                return
            child = os.fork()
            if child == 0:
                try:
                    descend(depth - 1)
                except BaseException:
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        descend(60)
        """,
    )


def test_many_processes_one_after_the_other_leave_nothing_with_the_supervisor(run: Runner) -> None:
    passes(
        run,
        """
        from edu import *
        supervisor = os.getppid()
        def held():
            return len(os.listdir(f"/proc/{supervisor}/fd"))
        def resident():
            return int(next(l for l in open(f"/proc/{supervisor}/status") if l.startswith("VmRSS")).split()[1])
        def generation(count):
            for _ in range(count):
                child = os.fork()
                if child == 0:
                    fd = os.open("/dev/iommu", os.O_RDWR)
                    call(fd, IOAS_ALLOC, "=3I", 0, 0)
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        os.open("/dev/iommu", os.O_RDWR)
        generation(50)
        before = held(), resident()
        generation(400)
        deadline = time.monotonic() + 20
        while held() > before[0] + 5:
            assert time.monotonic() < deadline, (before, held())
            time.sleep(0.05)
        assert resident() < before[1] + 4096, (before, resident())  # KiB: ten for each process would be as much
        """,
    )


FILTERED = """
from edu import *
import ctypes
libc = ctypes.CDLL(None, use_errno=True)

class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

def put_filter(flags, *rules):
    \"\"\"A filter of the program's own: each rule is a call and what becomes of it; the rest is allowed.\"\"\"
    step = lambda *fields: struct.pack("HBBI", *fields)
    code = step(0x20, 0, 0, 0)
    for number, action in rules:
        code += step(0x15, 0, 1, number) + step(6, 0, 0, action)
    code += step(6, 0, 0, 0x7FFF0000)
    program = Program(len(code) // 8, code)
    result = libc.syscall(317, 1, flags, ctypes.byref(program))
    return result if result >= 0 else -ctypes.get_errno()

ERRNO, NOTIFY, KILL = 0x50000, 0x7FC00000, 0x80000000
"""


@pytest.mark.parametrize("user", ["run", "run_as_nobody"])
def test_a_program_may_put_filters_of_its_own_on_itself(request: pytest.FixtureRequest, user: str) -> None:
    passes(
        request.getfixturevalue(user),
        f"""{FILTERED}
machine = Machine()
assert put_filter(0, (39, ERRNO | 42), (0x1000, KILL)) == 0
assert libc.syscall(39) == -1 and ctypes.get_errno() == 42
assert put_filter(1, (110, ERRNO | 43)) == 0  # SECCOMP_FILTER_FLAG_TSYNC
machine.register(4, 1)
memory = shared()
machine.map(address_of(memory), 4096)
os.close(os.open("/dev/iommu", os.O_RDWR))
assert os.listdir("/sys/bus/pci/devices")
child = os.fork()
if child == 0:
    machine.register(4, 1)
    os._exit(fcntl.ioctl(machine.iommufd, CHECK_EXTENSION, 1))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
""",
    )


def test_a_filter_that_refuses_a_call_wins_over_ours(run: Runner) -> None:
    passes(
        run,
        f"""{FILTERED}
machine = Machine()
assert put_filter(0, (16, ERRNO | 1)) == 0
try:
    fcntl.ioctl(machine.iommufd, CHECK_EXTENSION, 1)
except PermissionError:
    pass
else:
    raise AssertionError
assert os.pread(machine.device, 4, CONFIG) == bytes.fromhex("3412e811")
""",
    )


def test_a_listener_of_the_programs_own_is_refused_as_a_second_one_is_by_the_kernel(run: Runner) -> None:
    passes(
        run,
        f"""{FILTERED}
assert put_filter(8, (39, NOTIFY)) == -16  # SECCOMP_FILTER_FLAG_NEW_LISTENER: EBUSY
Machine().register(4, 1)
""",
    )


def test_a_program_that_its_own_filter_kills_ends_by_sigsys_and_the_device_is_free(run: Runner) -> None:
    passes(
        run,
        f"""{FILTERED}
child = os.fork()
if child == 0:
    machine = Machine()
    put_filter(0, (39, KILL))
    libc.syscall(39)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -31
Machine().register(4, 1)
""",
    )


@pytest.mark.parametrize("end", ["os.abort()", "ctypes.string_at(8)", "os.kill(os.getpid(), 9)", "os._exit(3)"])
def test_however_a_program_ends_its_device_is_free_for_the_next(run: Runner, end: str) -> None:
    passes(
        run,
        f"""{FILTERED}
import resource, signal, threading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for _ in range(5):
    child = os.fork()
    if child == 0:
        machine = Machine()
        memory = shared(1 << 16)
        machine.map(address_of(memory), 1 << 16)
        def work():
            while True:
                machine.register(4, 1)
        threading.Thread(target=work, daemon=True).start()
        machine.register(4, 1)
        {end}
    os.waitpid(child, 0)
    Machine().close()
""",
    )
