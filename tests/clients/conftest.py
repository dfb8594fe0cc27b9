"""Programs of other people, as Debian packages them, under ``ioas run`` (lane clients)."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from ioas.errors import EnvironmentRefusal
from tests.run.conftest import Runner
from tools.reference import kernels, toolbox
from tools.reference.guest import Guest
from tools.reference.session import GuestError, Limits, Session

EDU = "1234:11e8"
ADDRESS = "0000:01:00.0"
"""Where edu stands: on the software machine, and again in the machine that it is passed through to."""
LIMITS = Limits(command=60, boot=120)
MEBIBYTES = 192
"""The machine's memory: all of it can be reached with edu's 28 address bits."""


@pytest.fixture
def run() -> Runner:
    """Runs programs as whoever runs the tests."""
    return Runner()


@pytest.fixture(scope="session")
def qemu(require: Callable[[str, str], NoReturn]) -> tuple[str, ...]:
    """The words that start Debian's QEMU (lane clients)."""
    try:
        return toolbox.qemu(lambda _: None)
    except EnvironmentRefusal as refusal:
        return require("clients", str(refusal))


@pytest.fixture(scope="session")
def linux(require: Callable[[str, str], NoReturn]) -> Path:
    """A Linux kernel to be booted: the reference guest's (lane clients)."""
    return kernels.found("default") or require("clients", "there is no kernel to boot; `make reference` builds one")


@pytest.fixture(scope="session")
def pci_tools(require: Callable[[str, str], NoReturn]) -> Mapping[str, str]:
    """The environment in which lspci, setpci and dpdk-devbind.py are found (lane clients)."""
    try:
        return toolbox.pci_tools(lambda _: None)
    except EnvironmentRefusal as refusal:
        return require("clients", str(refusal))


@pytest.fixture(scope="session")
def compiled(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """``compiled(source)``: the program that a C file becomes, for any Linux (lane cc)."""

    def compile_static(source: Path) -> Path:
        program = tmp_path_factory.getbasetemp() / source.stem
        if not program.exists():
            words = [cc, "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, source]
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        return program

    return compile_static


class Passthrough:
    """``boot(variant, device, command)``: QEMU under ``ioas run`` boots Linux on a machine that edu is passed to."""

    def __init__(self, run: Runner, qemu: tuple[str, ...], linux: Path, environment: Mapping[str, str]) -> None:
        self._run, self._qemu, self._linux, self._environment = run, qemu, linux, environment

    def __call__(
        self,
        variant: str,
        device: str,
        command: Sequence[str],
        backends: tuple[str, ...] = (),
        before: Sequence[str] = (),
    ) -> str:
        """What `command` prints in the guest (`VARIANTS`); it must end with 0. `device`: QEMU's words for ours.

        `before`: a program, and its first arguments, that executes the rest: QEMU.
        """
        out, err = io.BytesIO(), io.BytesIO()
        # QEMU locks the whole memory of its machine, which is more than an ordinary user may.
        qemu = self._run.command(*before, *self._qemu, options=["--cap", "ipc_lock"])
        guest = Guest(
            variant, self._linux, tuple(qemu), memory=MEBIBYTES, environment=self._environment,
            devices={device: EDU}, backends=backends,
        )  # fmt: skip
        session = Session(guest, command, Path.cwd(), out, err)
        try:
            status = session.run(LIMITS)
        except GuestError as error:
            pytest.fail(f"{error}\n{session.console()}\n{err.getvalue().decode()}")
        assert (status, err.getvalue()) == (0, b""), session.console()
        return out.getvalue().decode()


@pytest.fixture
def boot(run: Runner, qemu: tuple[str, ...], linux: Path, pci_tools: Mapping[str, str]) -> Passthrough:
    """Boots guests in which lspci is found."""
    return Passthrough(run, qemu, linux, {**os.environ, **pci_tools})
