"""Running programs under ``ioas run``, as whoever runs the tests and as somebody without privileges."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

CLIENTS = Path(__file__).parent / "clients"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")
Done = subprocess.CompletedProcess[str]


def let_everybody_in(directory: Path) -> None:
    """Let other users reach what is in `directory`; pytest's are for the user who runs it."""
    shared = Path(tempfile.gettempdir())
    for each in (directory, *directory.parents):
        if each != shared and each.is_relative_to(shared):
            each.chmod(stat.S_IMODE(each.stat().st_mode) | 0o5)


def left_in_shm() -> set[str]:
    """What supervisors have left in /dev/shm, without what running ones hold (others may run beside the tests)."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("ioas-") and not _held(Path("/dev/shm", name))}


def _held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


NO_NAMESPACE = re.compile(r"^ioas: a mount namespace is not allowed here.*\n", re.MULTILINE)
_namespaces: dict[tuple[str, ...], bool] = {}


class Runner:
    """``run(program, argument..., options=[...])`` and ``run.python(source)``; output as text."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self.prefix = tuple(prefix)

    def command(self, *argv: str, options: Sequence[str] = ()) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "ioas", "run", *options, "--", *argv]

    def __call__(self, *argv: str, options: Sequence[str] = (), **keywords: object) -> Done:
        given: dict[str, object] = {"capture_output": True, "text": True, "timeout": 60, "env": self.environment()}
        given |= keywords
        done: Done = subprocess.run(self.command(*argv, options=options), check=False, **given)  # type: ignore[call-overload]
        if isinstance(done.stderr, str) and not self.has_namespace():
            done.stderr = NO_NAMESPACE.sub("", done.stderr)
        return done

    def has_namespace(self) -> bool:
        """Whether programs get a mount namespace here; a chroot and many containers allow none, and ioas says so."""
        if self.prefix not in _namespaces:
            command = self.command("true", options=["--explain"])
            said = subprocess.run(command, check=False, capture_output=True, text=True, env=self.environment()).stderr
            _namespaces[self.prefix] = NO_NAMESPACE.search(said) is None
        return _namespaces[self.prefix]

    def python(self, source: str, *argv: str, options: Sequence[str] = (), **keywords: object) -> Done:
        return self(*self.script(source, *argv), options=options, **keywords)

    @staticmethod
    def script(source: str, *argv: str) -> list[str]:
        """The command for a Python program that may import the modules in clients/."""
        head = f"import sys; sys.path.insert(0, {str(CLIENTS)!r})\n"
        return [sys.executable, "-B", "-c", head + textwrap.dedent(source), *argv]

    def environment(self) -> dict[str, str]:
        return dict(os.environ, HOME="/tmp") if self.prefix else dict(os.environ)


@pytest.fixture(scope="session", autouse=True)
def _possible(require: Callable[[str, str], NoReturn]) -> None:
    """Lane run: seccomp user notification has to be there."""
    from ioas.run import check_environment

    missing = [finding for finding in check_environment() if finding.verdict == "missing"]
    if missing:
        require("run", f"{missing[0].name}: {missing[0].text}")


@pytest.fixture
def run() -> Runner:
    """Runs programs as whoever runs the tests."""
    return Runner()


@pytest.fixture
def run_as_nobody(require: Callable[[str, str], NoReturn]) -> Runner:
    """Runs programs without any privilege: as nobody when the tests are run by root."""
    return unprivileged(require)


def unprivileged(require: Callable[[str, str], NoReturn]) -> Runner:
    """A runner without any privilege (lane user)."""
    if os.getuid() != 0:
        return Runner()
    if shutil.which("setpriv") is None:
        require("user", "no setpriv (util-linux)")
    # By env, for setpriv itself may start what its user may not.
    words = [*NOBODY, "env", sys.executable, "-c", "import ioas"]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        require("user", "an unprivileged user cannot read this checkout or its interpreter")
    return Runner(NOBODY)


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A directory that anybody may enter; pytest's own are for the user who runs it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(params=["as is", "nobody"])
def run_as_anyone(request: pytest.FixtureRequest) -> Runner:
    """Both of the above, one after the other; one when they are the same."""
    if request.param == "nobody" and os.getuid() != 0:
        pytest.skip("the tests are run without privileges anyhow")
    fixture: Runner = request.getfixturevalue("run" if request.param == "as is" else "run_as_nobody")
    return fixture
