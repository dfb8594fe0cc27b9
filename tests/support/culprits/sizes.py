"""Structures that are too short or say too much: the same for every command."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import sizeof

from ioas.run.names import request_name
from ioas.soft.iommufd.commands import COMMANDS
from tests.support.culprits.case import NODE, Case
from tests.support.iommufd import Iommufd


def _call(request: int, size: int, tail: bytes = b"") -> Callable[[Iommufd], object]:
    struct = COMMANDS[request].struct

    def provoke(iommufd: Iommufd) -> object:
        place = iommufd.caller.memory.map(1)
        iommufd.caller.memory.write(place, size.to_bytes(4, "little") + bytes(sizeof(struct) - 4) + tail)
        return iommufd.context.ioctl(iommufd.caller, request, place)

    return provoke


CASES = [
    case
    for request, row in COMMANDS.items()
    for case in (
        Case(request_name(NODE, request), "EINVAL", "field size", _call(request, row.minimum - 1)),
        Case(request_name(NODE, request), "E2BIG", "field size", _call(request, row.length + 1, b"\1")),
    )
]
