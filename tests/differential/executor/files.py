"""Opening and closing device files, and the queues of events that calls have opened."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from executor.objects import Context, OpenFile
from questions.calls import outcome, shown

if TYPE_CHECKING:
    from executor.world import World

_NODES = {"iommufd": "/dev/iommu", "container": "/dev/vfio/vfio"}
_GROUPS = {"group": "0000:01:00.0", "other": "0000:03:00.0"}
"""Groups by a device of theirs."""
_CONTEXTS = ("iommufd", "container")
"""Files with objects: a container has them where iommufd serves it."""
_EVENTS_LENGTH = 4096


def _open(world: World, who: int, kind: str) -> str:
    bdf = _GROUPS.get(kind)
    if bdf is not None:
        fd: int = world.do(who, "open_group", bdf)
    else:
        fd = world.do(who, "open_cdev") if kind == "vfio" else world.do(who, "open", _NODES[kind])
    if fd >= 0:
        world.files.add(OpenFile(kind, fd, {who}, Context() if kind in _CONTEXTS else None))
    return outcome(min(fd, 0))


def _close(world: World, who: int, kind: str, index: int) -> str:
    file = world.files.find(who, kind, index)
    if file is None:
        return "no such file"
    result = world.do(who, "close", file.fd)
    world.files.closed(file, who)
    return outcome(result)


def _events(world: World, who: int, index: int, length: int = _EVENTS_LENGTH) -> str:
    """What a queue of events has to say."""
    return shown(world.do(who, "read_events", world.fd(who, ["events", index]), length))


def _respond(world: World, who: int, index: int, cookie: int, code: int, length: int = 8) -> str:
    """Answer a page request, or so many bytes of an answer that is given twice."""
    answer = struct.pack("<II", cookie, code) * 2
    return outcome(world.do(who, "write_events", world.fd(who, ["events", index]), answer[:length]))


def _window(world: World, who: int, kind: str, offset: int, length: int, protection: int, flags: int) -> str:
    """Map a part of a file, and look at what is there."""
    return shown(world.do(who, "look_through", world.fd(who, [kind, 0]), offset, length, protection, flags))


VERBS = {"open": _open, "close": _close, "events": _events, "respond": _respond, "window": _window}
