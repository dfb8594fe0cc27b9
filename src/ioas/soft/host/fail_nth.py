"""The files by which the kernel's selftests let allocations fail (Documentation/fault-injection, 7.3).

A machine with the selftests' operations has /sys/kernel/debug/failslab and fail_page_alloc, whose switches are taken
and change nothing: every allocation of ours may fail. /proc/self/task/TID/fail-nth arms a whole process here.
"""

from __future__ import annotations

import select
from errno import EINVAL, ENODEV, ENOTTY
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import Caller
from ioas.soft.pci.nodes import Text, Tree

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import System

_DEBUG = "/sys/kernel/debug"
_SWITCHES = {
    "failslab": ("ignore-gfp-wait", "verbose"),
    "fail_page_alloc": ("ignore-gfp-wait", "ignore-gfp-highmem", "verbose"),
}


class FailNth:
    """A process's fail-nth (implements `ioas.host.File`)."""

    device_number = (0, 0)

    def __init__(self, system: System, process: int) -> None:
        self._system = system
        self._process = process

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """How many allocations are to come before one fails; 0: it has failed (proc_fail_nth_read)."""
        with self._system.lock:
            text = b"%d\n" % self._system.failures.left(self._process)
        return text[offset or 0 :][:length]

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """Let the Nth allocation fail; 0: none. Raises KernelError(EINVAL) for what is no number."""
        text = bytes(data).strip(b" \n\0")
        if not text.isdigit() or int(text) >> 31:
            raise refuse(EINVAL, f"{text!r} is not a number of allocations", "field", "fail-nth")
        with self._system.lock:
            self._system.failures.arm(self._process, int(text))
        return len(data)

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """ENOTTY."""
        raise refuse(ENOTTY, "fail-nth has no requests", "request", f"{request:#x}")

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV."""
        raise refuse(ENODEV, "fail-nth cannot be mapped", "file", "fail-nth")

    def poll(self, caller: Caller) -> int:
        """Always ready."""
        return select.POLLIN | select.POLLOUT

    def close(self) -> None:
        """What was armed stays so."""


def add_switches(tree: Tree) -> None:
    """Put the files of fault injection into a machine's debugfs."""
    for injection, switches in _SWITCHES.items():
        for name in switches:
            _add_switch(tree, f"{_DEBUG}/{injection}/{name}")


def _add_switch(tree: Tree, path: str) -> None:
    value = [b"N\n"]

    def write(data: bytes) -> None:
        value[0] = data.strip(b"\0\n") + b"\n"

    tree.add(path, Text(lambda: value[0], 0o600, write))
