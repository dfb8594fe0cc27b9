"""What a script does to its memory, and to its files in memory."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from executor.system import FILE_SHARED, PAGES, SCRATCH
from questions.calls import MEMORY, PAGE, PRIVATE, READ_WRITE, SHARED, outcome

if TYPE_CHECKING:
    from executor.world import World

_READ = 1
_SORTS = {
    "shared": (READ_WRITE, SHARED),
    "private": (READ_WRITE, PRIVATE),
    "read-only": (_READ, SHARED),
    "none": (0, SHARED),
}


def _map(world: World, who: int, page: int, count: int, sort: str) -> str:
    """Other memory in the place of some pages, or none."""
    address, length = MEMORY + page * PAGE, count * PAGE
    if sort == "hole":
        return outcome(world.do(who, "unmap", address, length))
    if sort == "file":
        fd = world.fd(who, ["memfd", 0])
        return outcome(world.do(who, "map", address, length, READ_WRITE, FILE_SHARED, fd, page % 8 * PAGE))
    return outcome(world.do(who, "map", address, length, *_SORTS[sort], -1, 0))


def _move(world: World, who: int, page: int, count: int, target: int) -> str:
    return outcome(world.do(who, "move", MEMORY + page * PAGE, MEMORY + target * PAGE, count * PAGE))


def _protect(world: World, who: int, page: int, count: int, protection: int) -> str:
    return outcome(world.do(who, "protect", MEMORY + page * PAGE, count * PAGE, protection))


def _advise(world: World, who: int, page: int, count: int, advice: int) -> str:
    return outcome(world.do(who, "advise", MEMORY + page * PAGE, count * PAGE, advice))


def _store(world: World, who: int, page: int, offset: int, length: int, byte: int) -> str:
    return outcome(world.do(who, "store", MEMORY + page * PAGE + offset, bytes([byte]) * length))


def _lists(world: World, who: int, numbers: Sequence[int]) -> str:
    """Put 64-bit numbers where calls find their lists."""
    data = struct.pack(f"<{len(numbers)}Q", *numbers)
    return outcome(world.do(who, "store", SCRATCH, data.ljust(64, b"\0")))


def look(world: World, who: int) -> str:
    """Every byte of memory, as a checksum."""
    return f"memory {world.do(who, 'digest', MEMORY, PAGES)}"


def _truncate(world: World, who: int, index: int, length: int) -> str:
    return outcome(world.do(who, "truncate", world.fd(who, ["memfd", index]), length))


VERBS = {
    "map": _map,
    "move": _move,
    "protect": _protect,
    "advise": _advise,
    "store": _store,
    "lists": _lists,
    "look": look,
    "truncate": _truncate,
}
