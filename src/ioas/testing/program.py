"""`ioas run` in a test: an unmodified program on a software machine, and what was explained about it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ioas.errors import EnvironmentRefusal

_RUN = (sys.executable, "-m", "ioas", "run")
_OURS = "ioas: "
_FAILED = "the model of "


class Ran(NamedTuple):
    """How a program ended."""

    status: int
    """Its exit status; below 0 the signal that killed it."""
    output: str
    """Its standard output."""
    errors: str
    """Its standard error, without what `ioas run` says."""
    explained: tuple[str, ...]
    """What `ioas run --explain` says, a line each: refused calls, stopped DMA, memory held by its address."""

    @property
    def refused(self) -> tuple[str, ...]:
        """Of these the refused calls."""
        return tuple(line for line in self.explained if " = -1 E" in line)

    @property
    def faults(self) -> tuple[str, ...]:
        """Of these the DMA that the IOMMU stopped."""
        return tuple(line for line in self.explained if ": DMA " in line and line not in self.refused)

    @property
    def failures(self) -> tuple[str, ...]:
        """Of these the device models that raised in their own code (the traceback follows in `explained`)."""
        return tuple(line for line in self.explained if line.startswith(_FAILED))


class Run:
    """Runs programs on software machines (the fixture `ioas_run`)."""

    def __init__(self) -> None:
        """Raises EnvironmentRefusal when `ioas run` does not work in this environment."""
        done = subprocess.run(
            [*_RUN, "--", "true"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise EnvironmentRefusal(done.stderr.strip() or "`ioas run -- true` fails")

    def __call__(
        self,
        *program: str | os.PathLike[str],
        devices: Iterable[str] = (),
        machine: str | os.PathLike[str] | None = None,
        options: Iterable[str] = (),
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Ran:
        """Run `program` with its arguments on a machine of its own.

        `devices` are those of `--device`, `machine` is a machine file, `options` further ones ("--cap=sys_rawio").
        Raises AssertionError, with all that was said, when `check` is on and the program did not exit with 0, or a
        device model failed; subprocess.TimeoutExpired after `timeout` seconds.
        """
        command = [*_RUN, "--explain", *(f"--device={device}" for device in devices), *options]
        if machine is not None:
            command.append(f"--machine={os.fspath(machine)}")
        done = subprocess.run(
            [*command, "--", *program],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=cwd,
        )
        ran = _told(done)
        if check and (done.returncode or ran.failures):
            raise AssertionError(f"{program[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return ran


def _told(done: subprocess.CompletedProcess[str]) -> Ran:
    lines = done.stderr.splitlines(keepends=True)
    ours = tuple(line.removeprefix(_OURS).rstrip("\n") for line in lines if line.startswith(_OURS))
    return Ran(done.returncode, done.stdout, "".join(line for line in lines if not line.startswith(_OURS)), ours)
