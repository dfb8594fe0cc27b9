"""The program that is run is itself: its input, output, arguments, environment, descriptors and exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.conftest import Runner, let_everybody_in


@pytest.mark.parametrize("status", [0, 1, 7, 126, 255])
def test_the_exit_status_is_the_programs(run: Runner, status: int) -> None:
    assert run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "INT", "USR1"])
def test_the_end_by_a_signal_is_the_programs(run: Runner, name: str) -> None:
    import signal

    assert run("sh", "-c", f"kill -{name} $$").returncode == -signal.Signals[f"SIG{name}"]


def test_input_and_output_are_the_programs(run: Runner) -> None:
    done = run("sh", "-c", "cat; echo problem >&2", input="hello\n")
    assert (done.stdout, done.stderr) == ("hello\n", "problem\n")


def test_arguments_and_environment_are_the_programs(run: Runner) -> None:
    done = run("sh", "-c", 'echo "$1|$2|$GREETING"', "sh", "--explain", "a b", env=dict(os.environ, GREETING="hi"))
    assert done.stdout == "--explain|a b|hi\n"


def test_the_working_directory_and_relative_program_names_are_kept(run: Runner, tmp_path: Path) -> None:
    script = tmp_path / "here"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(0o755)
    assert run("./here", cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_a_script_without_an_interpreter_line_is_run_by_the_shell(run: Runner, tmp_path: Path) -> None:
    script = tmp_path / "plain"
    script.write_text('echo "plain $1"\n')
    script.chmod(0o755)
    assert run(str(script), "x").stdout == "plain x\n"


def test_the_program_starts_with_the_signals_of_an_ordinary_child(run: Runner) -> None:
    show = "grep -E '^(SigBlk|SigIgn|SigCgt):' /proc/self/status"
    assert run("sh", "-c", show).stdout == subprocess.check_output(["sh", "-c", show], text=True)


def test_descriptors_that_were_passed_on_reach_the_program_and_nothing_else_does(run: Runner) -> None:
    read_end, write_end = os.pipe()
    source = "import os; os.write(int(sys.argv[1]), b'through'); print(sorted(map(int, os.listdir('/proc/self/fd'))))"
    done = run.python(source, str(write_end), pass_fds=[write_end])
    os.close(write_end)
    assert os.read(read_end, 100) == b"through"
    os.close(read_end)
    listed = [fd for fd in eval(done.stdout) if fd not in (0, 1, 2, write_end)]
    assert len(listed) == 1  # listdir's own


def test_a_pipe_ends_when_the_program_closes_it_though_the_program_lives_on(run: Runner) -> None:
    source = "import os, time; os.close(1); time.sleep(30)"
    with subprocess.Popen(run.command(*run.script(source)), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""  # would wait for half a minute
        process.terminate()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_descriptors_that_are_closed_stay_closed_and_harm_nobody(run: Runner, closed: str) -> None:
    import shlex

    client = "import os; fd = os.open('/dev/iommu', os.O_RDWR); os._exit(len(os.listdir('/proc/self/fd')) + 20)"
    under = subprocess.run(["sh", "-c", f"{shlex.join(run.command(*run.script(client)))} {closed}"], check=False)
    native = client.replace("/dev/iommu", "/dev/null")
    alone = subprocess.run(["sh", "-c", f"{shlex.join(run.script(native))} {closed}"], check=False)
    assert under.returncode == alone.returncode


def test_a_daemon_that_the_program_leaves_behind_is_served_to_its_end(run: Runner, tmp_path: Path) -> None:
    source = f"""
        import os, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(0.3)
            os.close(os.open("/dev/iommu", os.O_RDWR))
            open({str(tmp_path / "done")!r}, "w").close()
            os._exit(0)
        sys.exit(5)
    """
    assert run.python(source).returncode == 5
    assert (tmp_path / "done").exists()


def test_processes_that_the_program_does_not_wait_for_leave_no_zombies(run: Runner) -> None:
    source = """
        import contextlib, os, pathlib, subprocess
        for _ in range(5):
            subprocess.run(["sh", "-c", "true & true & exit 0"])
        zombie = f"Z {os.getppid()}"  # as /proc/PID/stat shows a zombie child of the supervisor
        count = 0
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                count += path.read_text().rpartition(") ")[2].startswith(zombie + " ")
        print(count)
    """
    done = run.python(source)
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("runs", ["run", "run_as_nobody"])
def test_a_static_program_is_served(request: pytest.FixtureRequest, runs: str, cc: str, tmp_path: Path) -> None:
    source = tmp_path / "client.c"
    source.write_text(
        """
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/ioctl.h>
        int main(void)
        {
            int fd = open("/dev/iommu", O_RDWR);
            printf("%d\\n", ioctl(fd, 0x3b65, 1));
            return fd < 0;
        }
        """
    )
    subprocess.run([cc, "-static", "-o", str(tmp_path / "client"), str(source)], check=True)
    let_everybody_in(tmp_path)
    run: Runner = request.getfixturevalue(runs)
    assert run(str(tmp_path / "client")).stdout == "1\n"


def test_a_supervisor_that_is_killed_takes_the_program_with_it(run: Runner) -> None:
    source = "import time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(run.command(*run.script(source)), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        assert process.stdout.read() == b""  # the pipe ends with the program, long before its minute is over


def test_io_uring_is_not_there_and_threads_forks_and_vforks_are(run: Runner) -> None:
    source = """
        import ctypes, os, subprocess, threading
        assert ctypes.CDLL(None, use_errno=True).syscall(425, 1, 0) == -1
        assert ctypes.get_errno() == 38
        from edu import *
        files = []
        def use(): files.append(os.open("/dev/iommu", os.O_RDWR)); fcntl.ioctl(files[-1], CHECK_EXTENSION, 1)
        threads = [threading.Thread(target=use) for _ in range(8)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        child = os.fork()
        if child == 0:
            os._exit(fcntl.ioctl(files[0], CHECK_EXTENSION, 1))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        code = "import fcntl, sys; sys.exit(fcntl.ioctl(int(sys.argv[1]), 0x3B65, 1))"
        os.set_inheritable(files[1], True)
        vforked = os.posix_spawn(sys.executable, [sys.executable, "-c", code, str(files[1])], os.environ)
        assert os.waitstatus_to_exitcode(os.waitpid(vforked, 0)[1]) == 1
        assert subprocess.run([sys.executable, "-c", code, str(files[2])], pass_fds=[files[2]]).returncode == 1
        print(len(set(files)))
    """
    done = run.python(source)
    assert (done.stdout, done.stderr, done.returncode) == ("8\n", "", 0)


def test_a_program_whose_first_thread_has_ended_is_served(run_as_anyone: Runner) -> None:
    source = """
        import ctypes, os, select, threading
        from edu import *
        def rest():
            while open(f"/proc/{os.getpid()}/stat").read().split()[2] != "Z":
                time.sleep(0.01)
            machine = Machine()
            memory = private()
            machine.map(address_of(memory), 4096)
            memory[:4] = b"mine"
            eventfd = os.eventfd(0)
            call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
            assert machine.read(4) == b"mine"
            machine.register(0x60, 1)
            assert select.select([eventfd], [], [], 5)[0]
            os.write(1, b"served\\n")
            os._exit(0)
        threading.Thread(target=rest).start()
        ctypes.CDLL(None).syscall(60, 0)
    """
    assert run_as_anyone.python(source).stdout == "served\n"


def test_a_program_that_is_not_dumpable_is_told_not_to_be_served(run_as_nobody: Runner) -> None:
    source = """
        import ctypes, os
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        try:
            os.open("/dev/iommu", os.O_RDWR)
        except OSError as error:
            print(error.errno in (2, 13))
    """
    done = run_as_nobody.python(source)
    assert done.stdout == "True\n"
    assert "not dumpable" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nested_supervisors_are_refused_in_one_line(run: Runner) -> None:
    done = run(sys.executable, "-m", "ioas", "run", "true")
    assert done.returncode == 125
    assert "do not nest" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_too_few_descriptors_are_refused_in_one_line(run: Runner) -> None:
    import shlex

    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 40; {shlex.join(run.command('true'))}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    assert "RLIMIT_NOFILE" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_limit_lowered_by_the_program_is_explained(run: Runner) -> None:
    source = """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            os.open("/dev/iommu", os.O_RDWR)
        except OSError as error:
            print(error.errno)
    """
    done = run.python(source)
    assert done.stdout == "24\n"
    assert "ulimit -n" in done.stderr
