"""What a script does with VFIO's groups and containers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from executor import device, requests
from executor.objects import OpenFile
from executor.system import ARGUMENT
from questions.calls import outcome

if TYPE_CHECKING:
    from executor.world import World

_SET_CONTAINER, _GET_DEVICE_FD, _GET_INFO = 0x3B68, 0x3B6A, 0x3B70
_ROOM = 256
_START, _STOP = 1, 2


def _container(world: World, who: int, group: Sequence[Any], container: Any) -> str:
    """VFIO_GROUP_SET_CONTAINER."""
    world.do(who, "store", ARGUMENT, struct.pack("<i", world.fd(who, container)))
    return outcome(world.do(who, "ioctl", world.fd(who, group), _SET_CONTAINER, ARGUMENT))


def _give(world: World, who: int, group: Sequence[Any], name: str) -> str:
    """VFIO_GROUP_GET_DEVICE_FD; the device's BAR stands where all machines have it afterwards."""
    world.do(who, "store", ARGUMENT, name.encode() + b"\0")
    fd = world.do(who, "ioctl", world.fd(who, group), _GET_DEVICE_FD, ARGUMENT)
    if fd < 0:
        return outcome(fd)
    world.files.add(OpenFile("vfio", fd, {who}))
    device.place(world, who, fd)
    return "given"


def _info(world: World, who: int, container: Sequence[Any], argsz: int) -> str:
    """VFIO_IOMMU_GET_INFO, with all that it wrote."""
    world.do(who, "store", ARGUMENT, struct.pack("<I", argsz) + b"\xaa" * (_ROOM - 4))
    result = world.do(who, "ioctl", world.fd(who, container), _GET_INFO, ARGUMENT)
    after = world.do(who, "load", ARGUMENT, _ROOM)
    return f"{outcome(result)} {after.hex() if isinstance(after, bytes) else after}"


def _dirty(world: World, who: int, container: Sequence[Any], fields: Mapping[str, Any], tracked: bool) -> str:
    """Dirty pages of a range, with bitmaps that are new before and after: 7.3.4 forgets to clear used ones.

    Not `tracked`: while nothing is.
    """
    ask = requests.VERBS["call"]
    stop, start = ([container, "CONTAINER_DIRTY", {"flags": flags}] for flags in (_STOP, _START))
    answers = [ask(world, who, *stop), *([ask(world, who, *start)] if tracked else [])]
    answers.append(ask(world, who, container, "CONTAINER_DIRTY_GET", fields))
    return ", ".join([*answers, ask(world, who, *stop), *([ask(world, who, *start)] if tracked else [])])


def _locked(world: World, who: int) -> str:
    """What the kernel counts as locked and pinned for the process."""
    return str(world.do(who, "locked"))


VERBS = {"container": _container, "give": _give, "info": _info, "dirty": _dirty, "locked": _locked}
