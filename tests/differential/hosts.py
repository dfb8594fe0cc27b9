"""Where scripts are carried out: the real kernel in the guest, a supervised program, this process's own software host.

Each is a process that serves batches in a directory (`executor.serve`), so that one guest, booted once, answers as
many as there are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.differential.arguments import Script

ROOT = Path(__file__).parents[2]
_SERVE = str(Path(__file__).parent / "executor" / "serve.py")
_GRANTS = ("sys_resource", "ipc_lock", "sys_rawio", "sys_admin")
_PATIENCE = 20
"""Seconds that a host has to end when it is asked to."""
Answers = list[list[str]]
_IN_PROCESS = ("space", "tables", "compat", "device", "group", "noiommu")
_WITH_IOMMU = "[iommu]\nsnoop_control = false\n"
_MACHINES = {
    "iommu": f'[machine]\ncontainer = "vfio"\n{_WITH_IOMMU}',
    "iommufd-container": f'[machine]\ncontainer = "iommufd"\n{_WITH_IOMMU}',
    "noiommu": '[machine]\nunsafe_noiommu = true\n[iommu]\nkind = "none"\n',
}
"""Machines that are like the variants of the guest; QEMU's unit has no snoop control."""
_EDU = '[[device]]\nmodel = "edu"\noptions = { dma_mask = 0xffffffffffffffff }\n'
_DEVICES = {
    variant: (_EDU if variant == "noiommu" else '[[device]]\nmodel = "edu"\n')
    + '[[device]]\nmodel = "edu"\naddr = "0000:03:00.0"\n'
    for variant in _MACHINES
}
"""In the guest the second is another one, of which scripts use the group alone."""


def runs_in_process(script: Script) -> bool:
    """Whether a script needs one process alone, no memory that is replaced, and no limits."""
    return script["kind"] in _IN_PROCESS and script["limit"] is None


def runs_supervised(script: Script) -> bool:
    """Whether an `ioas run` of ours can answer: who is not root needs to be given the capabilities that limits end at,
    and that scripts without an IOMMU give up.
    """
    return (script["limit"] is None and script["kind"] != "noiommu") or os.getuid() == 0


class HostError(Exception):
    """A host ended, or did not answer in time; the message says which, and what it printed."""


class Host:
    """A running executor. `ask` begins a batch and `answers` waits for it."""

    def __init__(self, name: str, command: Sequence[str], place: Path, seconds: float) -> None:
        """`seconds`: how long a batch may take."""
        self.name = name
        self._place = place
        self._seconds = seconds
        self._number = 0
        self._command = command
        self._log = (place / "log").open("w+")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        return subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=environment, cwd=ROOT
        )

    def restart(self) -> None:
        """Start it anew, with nothing asked."""
        self._end()
        for left in self._place.glob("*.*"):
            left.unlink()
        self._number = 0
        (self._place / "stop").unlink()
        self._process = self._start()

    def ask(self, scripts: Sequence[Script]) -> None:
        """Begin to carry out a batch."""
        unfinished = self._place / "unfinished"
        unfinished.write_text(json.dumps(scripts))
        unfinished.rename(self._place / f"{self._number}.ask")

    def answers(self) -> Answers:
        """What the batch asked last was answered. Raises HostError."""
        answer = self._place / f"{self._number}.answer"
        deadline = time.monotonic() + self._seconds
        while not answer.exists():
            if self._process.poll() is not None:
                raise HostError(f"{self.name} ended with status {self._process.returncode}:\n{self._printed()}")
            if time.monotonic() > deadline:
                raise HostError(f"{self.name} has not answered for {self._seconds} s:\n{self._printed()}")
            time.sleep(0.002)
        found: Answers = json.loads(answer.read_text())
        answer.unlink()
        (self._place / f"{self._number}.ask").unlink()
        self._number += 1
        return found

    def run(self, scripts: Sequence[Script]) -> Answers:
        """`ask`, then `answers`."""
        self.ask(scripts)
        return self.answers()

    def sites(self) -> dict[str, int]:
        """Where the software host in the process has refused so far, and how often: "file:line"."""
        found: dict[str, int] = json.loads((self._place / "sites").read_text())
        return found

    def _printed(self) -> str:
        self._log.flush()
        return (self._place / "log").read_text()[-4000:]

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
        self._log.close()
        shutil.rmtree(self._place)

    def _end(self) -> None:
        (self._place / "stop").touch()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()


def _place() -> Path:
    return Path(tempfile.mkdtemp(prefix="ioas-differential-"))


def real_kernel(variant: str = "iommu") -> Host:
    """Linux in a variant of the reference guest."""
    place = _place()
    run = [sys.executable, "-m", "tools.reference", "run", "--variant", variant, "--output", str(place), "--"]
    return Host("the guest", [*run, sys.executable, _SERVE, str(place)], place, 300)


def here() -> Host:
    """The kernel that runs this, in the guest."""
    place = _place()
    return Host("this kernel", [sys.executable, _SERVE, str(place)], place, 300)


def _machine(place: Path, variant: str) -> Path:
    """A machine that is like a variant of the guest."""
    machine = place / "machine.toml"
    machine.write_text(_MACHINES[variant] + _DEVICES[variant])
    return machine


def supervised(variant: str = "iommu") -> Host:
    """A program under `ioas run`, on a machine that is like a variant of the guest."""
    place = _place()
    given_up = ("ipc_lock", "sys_rawio") if variant == "noiommu" else ("ipc_lock",)
    granted = [f"--cap={name}" for name in _GRANTS if name not in given_up or os.getuid()]
    options = ["--iommufd-test", "--machine", str(_machine(place, variant)), *granted]
    command = [sys.executable, "-m", "ioas", "run", *options, "--", sys.executable, _SERVE, str(place)]
    return Host("ioas run", command, place, 300)


def in_process(variant: str = "iommu") -> Host:
    """A software host in the process that calls; for the scripts that `runs_in_process` names."""
    place = _place()
    command = [sys.executable, _SERVE, str(place), "local", str(_machine(place, variant))]
    return Host("SoftHost", command, place, 300)
