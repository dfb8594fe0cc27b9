"""The same calls on a software host in this process, a new machine for each script."""

from __future__ import annotations

import json
import os
import select
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from executor.system import System
from executor.world import World

from ioas.errors import KernelError, Refusal
from ioas.host import Capability
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost

_sites: Counter[str] = Counter()
"""How often the machine has refused at a line of its source."""


def _note_refusals() -> None:
    plain = KernelError.__init__

    def noting(self: KernelError, refusal: Refusal) -> None:
        frame = sys._getframe(2)  # who called `refuse`, which makes every one of them
        _sites[f"{frame.f_code.co_filename}:{frame.f_lineno}"] += 1
        plain(self, refusal)

    KernelError.__init__ = noting  # type: ignore[method-assign]


def write_sites(directory: Path) -> None:
    """Tell where the machines have refused so far."""
    (directory / "sites").write_text(json.dumps(_sites))


class Caller(LocalCaller):
    """The process with every capability but those that it has given up."""

    def __init__(self) -> None:
        super().__init__(Capability)
        self.lost: set[Capability] = set()

    def capable(self, capability: Capability) -> bool:
        return capability not in self.lost


class LocalSystem(System):
    """System calls whose files are a software host's."""

    def __init__(self, host: SoftHost, caller: Caller) -> None:
        super().__init__()
        self._host = host
        self._caller = caller

    def open(self, path: str) -> int:
        return _attempt(lambda: self._caller.install(self._host.open(self._caller, path, os.O_RDWR)))

    def readlink(self, path: str) -> str:
        return self._host.tree.readlink(path)

    def has(self, path: str) -> bool:
        return path in self._host.nodes

    def set_capability(self, number: int, has: bool) -> int:
        lost = self._caller.lost
        (lost.discard if has else lost.add)(Capability(number))
        return 0

    def locked(self) -> str:
        memory = self._caller.memory
        return f"VmLck: {memory.locked_pages} VmPin: {memory.pinned_pages}"

    def close(self, fd: int) -> int:
        return _attempt(lambda: self._caller.close_fd(fd) or 0)

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        return _attempt(lambda: self._caller.file(fd).ioctl(self._caller, request, argument))

    def pread(self, fd: int, length: int, offset: int) -> bytes | int:
        return _attempt(lambda: self._caller.file(fd).read(self._caller, length, offset))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return _attempt(lambda: self._caller.file(fd).write(self._caller, data, offset))

    def read_events(self, fd: int, length: int) -> bytes | int:
        return _attempt(lambda: self._events(fd, length))

    def write_events(self, fd: int, data: bytes) -> int:
        return _attempt(lambda: self._caller.file(fd).write(self._caller, data, None))

    def look_through(self, fd: int, offset: int, length: int, protection: int, flags: int) -> bytes | int:
        return _attempt(lambda: self._see(fd, offset, length, protection, flags))

    def _see(self, fd: int, offset: int, length: int, protection: int, flags: int) -> bytes:
        memory = self._caller.file(fd).mmap(self._caller, length, protection, flags, offset)
        return os.pread(memory, 16, offset)

    def _events(self, fd: int, length: int) -> bytes:
        file = self._caller.file(fd)
        return file.read(self._caller, length, None) if file.poll(self._caller) & select.POLLIN else b""


def _attempt(call: Callable[[], int]) -> int:
    try:
        return call()
    except KernelError as error:
        return -(error.errno or 0)


def run_locally(script: dict, machine: str) -> list[str]:
    """The answers to one script, on a machine of this file; a line more when something is left."""
    caller = Caller()
    with SoftHost(machine=machine, iommufd_test=True) as host:
        system = LocalSystem(host, caller)
        world = World(system)
        try:
            lines = world.run(script["steps"])
        finally:
            world.end()
        system.end()
        left = host.leaks() | caller.held()
    caller.close()
    return [*lines, f"left behind: {left}"] if left else lines


_note_refusals()
