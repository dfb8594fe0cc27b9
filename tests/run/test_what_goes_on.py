"""What fails beside a call, in `ioas run` itself, is reported and ends nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from ioas.run import uring
from ioas.run.jobs import Job
from ioas.run.listener import Listener
from ioas.run.watcher import Watcher
from tests.run.conftest import Runner

SMALL = 'mount -t tmpfs -o size=16M small /dev/shm && exec "$@"'


@pytest.fixture
def run_with_small_shm(require: Callable[[str, str], NoReturn]) -> Runner:
    """Runs programs where /dev/shm has 16 MiB, for this program and its supervisor alone (lane namespace)."""
    prefix = ("unshare", "-m" if os.getuid() == 0 else "-Urm", "sh", "-c", SMALL, "sh")
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        require("namespace", "nothing can be mounted here")
    return Runner(prefix)


@pytest.mark.parametrize("options", [[], ["--no-namespace"]], ids=["namespace", "paths"])
def test_a_tree_that_there_is_no_space_for_is_completed_later(run_with_small_shm: Runner, options: list[str]) -> None:
    source = """
import os
bdf, driver = "0000:01:00.0", "/sys/bus/pci/drivers/vfio-pci"
def echo(name, text):
    with open(name, "w") as file:
        file.write(text)
names = sorted(os.listdir("/sys/class/vfio-dev"))
shown = os.open(f"/sys/bus/pci/devices/{bdf}/", os.O_RDONLY | os.O_DIRECTORY)  # from here on the tree is written
echo(f"{driver}/unbind", bdf)
with open("/dev/shm/filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)):
            pass
    except OSError:
        pass
echo(f"{driver}/bind", bdf)
os.close(os.open("/dev/vfio/devices/vfio0", os.O_RDWR))
os.unlink("/dev/shm/filler")
os.close(os.open("/dev/vfio/devices/vfio0", os.O_RDWR))
assert sorted(os.listdir("/sys/class/vfio-dev")) == names != []
again = os.open("vfio-dev/vfio0/dev", os.O_RDONLY, dir_fd=shown)
assert b":" in os.read(again, 64)
"""
    done = run_with_small_shm.python(source, options=options)
    assert done.returncode == 0, done.stderr
    assert "internal error" in done.stderr
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_watcher_goes_on_after_a_reminder_that_fails() -> None:
    failed: list[Exception] = []
    done: list[int] = []
    reader, writer = os.pipe()
    job = SimpleNamespace(status=0, reap=lambda: None)
    watcher = Watcher(
        cast("Job", job), cast("Listener", SimpleNamespace(fileno=lambda: reader)), lambda error: failed.append(error)
    )

    def last() -> None:
        done.append(1)
        watcher.notice()
        os.close(writer)  # as when nobody uses the filter any more

    watcher.later(lambda: os.kill(-(1 << 31) + 1, 0))
    watcher.later(last)
    watcher.start()
    watcher.join(20)
    ended = not watcher.is_alive()
    watcher.close()
    os.close(reader)
    assert (ended, done, [type(error) for error in failed]) == (True, [1], [ProcessLookupError])


def test_a_ring_that_cannot_be_had_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def left() -> tuple[int, int]:
        with open("/proc/self/maps") as maps:
            return sum("io_uring" in line for line in maps), len(os.listdir("/proc/self/fd"))

    try:
        uring.Ring().close()
    except OSError as error:
        pytest.skip(f"io_uring is not available: {error.strerror}")
    before = left()
    ring = uring.Ring()
    assert left() > before  # so that what would be left behind is seen
    ring.close()
    monkeypatch.setattr(os, "pipe2", lambda flags: os.open("/nowhere", flags))
    with pytest.raises(FileNotFoundError):
        uring.Ring()
    assert left() == before
