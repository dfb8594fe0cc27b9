"""The tool with the real QEMU and the real kernel (lane kernel): commands come back, and nothing else does."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from ioas.errors import EnvironmentRefusal
from tools.reference import kernels, toolbox
from tools.reference.guest import Guest
from tools.reference.session import GuestError, Limits, Session

ROOT = Path(__file__).parents[2]
ODD = "a 'b' \udcff"


@pytest.fixture(scope="module")
def parts(require: Callable[[str, str], NoReturn]) -> tuple[Path, tuple[str, ...]]:
    """The kernel and QEMU (lane kernel)."""
    try:
        qemu = toolbox.qemu(lambda _: None)
        kernel = kernels.found("default")
    except EnvironmentRefusal as refusal:
        require("kernel", str(refusal))
    return (kernel, qemu) if kernel else require("kernel", "the guest's kernels are not built; see `make reference`")


def tool(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.reference", "run", *words]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "LANG": "C", "ODD": ODD}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.usefixtures("parts")
def test_a_command_runs_here_with_this_python_and_environment_and_its_outputs_stay(tmp_path: Path) -> None:
    script = """
import os, sys
print(os.getcwd(), os.getuid(), ascii(os.environ["ODD"]), sys.argv[1])
print("to stderr", file=sys.stderr)
open("lost", "w").write("x")
open("kept/result", "w").write(sys.prefix)
sys.exit(42)
"""
    done = tool("--output", "kept", "--", "python", "-c", script, "an argument", cwd=tmp_path)

    assert done.returncode == 42, done.stderr
    assert done.stdout == f"{tmp_path} 0 {ODD!a} an argument\n"
    assert done.stderr.splitlines()[-1] == "to stderr"
    assert (tmp_path / "kept/result").read_text() == sys.prefix
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--", "no-such-command"], 127, "no-such-command: No such file or directory"),
        (["--", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["--", "sh", "-c", "kill -9 $$"], 137, ""),
        (["--", "sh", "-c", "sleep 1000 & echo started >&2"], 0, "started"),
        (["--timeout", "3", "--", "sleep", "1000"], 124, "still running after 3 s"),
        (["--", "sh", "-c", "echo c > /proc/sysrq-trigger"], 123, "the guest's kernel panicked"),
        (["--", "sh", "-c", "echo b > /proc/sysrq-trigger; sleep 99"], 123, "powered off before the command had ended"),
    ],
)
def test_every_end_has_its_status(words: list[str], status: int, said: str) -> None:
    done = tool(*words)

    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("parts")
def test_a_command_that_is_nowhere_is_not_found_though_a_directory_of_the_path_may_not_be_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    monkeypatch.setenv("PATH", f"{tmp_path / 'closed'}:{os.environ['PATH']}")

    done = tool("--", "no-such-command")

    assert (done.returncode, done.stdout) == (127, "")
    assert "no-such-command: No such file or directory" in done.stderr


class Pipe(io.RawIOBase):
    """A stream that calls `then` with the first that is written to it."""

    def __init__(self, then: Callable[[bytes], object]) -> None:
        self._then = then

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._then(bytes(data))
        return len(data)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSTOP, "the guest hangs: it has given no sign of life for 6 s"),
        (signal.SIGKILL, r"QEMU was killed by signal 9 \(Killed\)"),
    ],
)
def test_a_guest_that_stops_is_noticed(
    parts: tuple[Path, tuple[str, ...]], number: signal.Signals, reason: str
) -> None:
    kernel, qemu = parts
    hit = Pipe(lambda _: os.kill(the_child(), number))
    session = Session(
        Guest("iommu", kernel, qemu),
        ["sh", "-c", "echo here; sleep 1000"],
        ROOT,
        hit,
        io.BytesIO(),  # type: ignore[arg-type]
    )

    with pytest.raises(GuestError, match=reason):
        session.run(Limits(silence=6))


def the_child() -> int:
    """The process id of QEMU: the only child that this thread has started and that still runs."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    names = {int(child): Path(f"/proc/{child}/comm").read_text() for child in children}
    (qemu,) = (child for child, name in names.items() if name.startswith("qemu"))
    return qemu


def test_a_tool_that_is_killed_takes_its_guest_along(parts: tuple[Path, tuple[str, ...]]) -> None:
    command = [sys.executable, "-m", "tools.reference", "run", "--", "sh", "-c", "echo here; sleep 1000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        (qemu,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        watch = os.pidfd_open(int(qemu))
        process.kill()
    with open(watch, "rb", closefd=True):
        wait_for(watch)


def wait_for(pidfd: int) -> None:
    """Return when the process has ended: its descriptor becomes readable then."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000), "QEMU runs on"
