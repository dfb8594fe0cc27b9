"""The program that a script is carried out in: its memory, files and processes, and who does what for which verb.

A step is `[who, verb, argument...]`; `who` is 0 for the program itself, else the number of a child. Integers in the
place of an object are taken as they are; lists are references (see `objects`). A step's answer is one line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from executor import device, files, groups, memory, noiommu, requests
from executor.children import Child
from executor.objects import NO_FILE, Files, OpenFile
from executor.system import (
    ARGUMENT,
    FILE_AT,
    FILE_SHARED,
    PAGES,
    PRIVATE_AT,
    SCRATCH,
    SCRATCH_PAGES,
    System,
)
from questions.calls import MEMORY, PAGE, PRIVATE, READ_WRITE, SHARED

_CHILDREN_MAX = 2


class World:
    """Everything that the steps of one script act on."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.files = Files()
        self.children: dict[int, Child] = {}
        self._born = 0
        for _ in range(2):
            memfd = self.files.add(OpenFile("memfd", os.memfd_create("script"), {0})).fd
            os.ftruncate(memfd, PAGES * PAGE)
            os.pwrite(memfd, bytes(range(256)) * (PAGES * PAGE // 256), 0)
        self.eventfds = [
            self.files.add(OpenFile("eventfd", os.eventfd(0, os.EFD_NONBLOCK), {0})).fd for _ in range(device.EVENTFDS)
        ]
        self.watched: set[int] = set()
        """Eventfds that a device waits for: whether we or the kernel read them first is nobody's promise."""
        self._lay_out(memfd)

    def _lay_out(self, memfd: int) -> None:
        do = self.system
        do.map(SCRATCH, SCRATCH_PAGES * PAGE, READ_WRITE, PRIVATE, -1, 0)
        do.map(ARGUMENT, PAGE, READ_WRITE, PRIVATE, -1, 0)
        do.map(MEMORY, FILE_AT * PAGE, READ_WRITE, SHARED, -1, 0)
        do.map(MEMORY + FILE_AT * PAGE, (PRIVATE_AT - FILE_AT) * PAGE, READ_WRITE, FILE_SHARED, memfd, 0)
        do.map(MEMORY + PRIVATE_AT * PAGE, (PAGES - PRIVATE_AT) * PAGE, READ_WRITE, PRIVATE, -1, 0)
        for page in range(PAGES):
            do.store(MEMORY + page * PAGE, bytes([page]) * PAGE)

    def run(self, steps: Iterable[Sequence[Any]]) -> list[str]:
        """Carry out every step; an answer for each, and one for the memory at the end."""
        return [*(self._step(*step) for step in steps), memory.look(self, 0)]

    def _step(self, who: int, verb: str, *arguments: Any) -> str:
        return VERBS[verb](self, who if who in self.children else 0, *arguments)

    def end(self) -> None:
        """Let all processes and files go."""
        for child in list(self.children):
            self.end_child(child)
        for file in reversed(list(self.files.all)):
            self.system.close(file.fd)

    def do(self, who: int, name: str, *arguments: Any) -> Any:
        """A system call (a method of `System`) by one of the processes."""
        return self.children[who].do(name, *arguments) if who else getattr(self.system, name)(*arguments)

    def fd(self, who: int, reference: Any) -> int:
        """The descriptor that a reference names."""
        if isinstance(reference, int):
            return reference
        file = self.files.find(who, *reference)
        return file.fd if file else NO_FILE

    def end_child(self, number: int) -> None:
        """Have a child exit."""
        self.children.pop(number).end()
        self.files.gone(number)

    def fork(self) -> int:
        """Another child of the program: its number, 0 when there are enough."""
        if len(self.children) >= _CHILDREN_MAX:
            return 0
        self._born += 1
        self.children[self._born] = Child(self.system, list(self.children.values()))
        self.files.forked(0, self._born)
        return self._born


def _fork(world: World, who: int) -> str:
    return f"child {world.fork() or 'of none'}"


def _exit(world: World, who: int) -> str:
    if not who:
        return "not the program"
    world.end_child(who)
    return "ended"


VERBS: dict[str, Callable[..., str]] = {
    **requests.VERBS,
    **files.VERBS,
    **memory.VERBS,
    **device.VERBS,
    **groups.VERBS,
    **noiommu.VERBS,
    "fork": _fork,
    "exit": _exit,
}
