"""The software host's VFIO against what Linux 7.3.4 answered to the same calls (tests/reference/vfio_edu.txt)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ioas.host.local import LocalCaller
from ioas.run import check_environment
from ioas.soft.host import SoftHost
from tests.differential.vfio_probe import Kernel, Probe, attempt

REFERENCE = Path(__file__).parents[1] / "reference" / "vfio_edu.txt"
PROBE = Path(__file__).parent / "vfio_probe.py"


def expected() -> list[str]:
    return [line for line in REFERENCE.read_text().splitlines() if not line.startswith("##")]


class SoftKernel(Kernel):
    """The same calls on a software host in this process."""

    def __init__(self, host: SoftHost, caller: LocalCaller) -> None:
        self.host = host
        self.caller = caller

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return self.caller.install(self.host.open(self.caller, path, flags))

    def close(self, fd: int) -> None:
        self.caller.close_fd(fd)

    def ioctl(self, fd: int, request: int, data: bytearray) -> int:
        return attempt(lambda: self.caller.file(fd).ioctl(self.caller, request, data))

    def read(self, fd: int, length: int, offset: int | None) -> bytes | int:
        return attempt(lambda: self.caller.file(fd).read(self.caller, length, offset))

    def write(self, fd: int, data: bytes, offset: int) -> int:
        return attempt(lambda: self.caller.file(fd).write(self.caller, data, offset))

    def mmap(self, fd: int, length: int, flags: int, offset: int) -> int:
        return attempt(lambda: self.caller.file(fd).mmap(self.caller, length, 3, flags, offset))


def test_every_call_answers_what_the_kernel_answered() -> None:
    caller = LocalCaller()
    with SoftHost() as host:
        lines = Probe(SoftKernel(host, caller), "/dev/vfio/devices/vfio0").run()
        assert host.leaks() == {}
    caller.close()
    assert lines == expected()


def test_an_unmodified_program_gets_what_the_kernel_answered(require: Callable[[str, str], NoReturn]) -> None:
    for finding in check_environment():
        if finding.verdict == "missing":
            require("run", f"{finding.name}: {finding.text}")
    command = [sys.executable, "-m", "ioas", "run", "--", sys.executable, str(PROBE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.stderr == ""
    assert result.stdout.splitlines() == expected()
