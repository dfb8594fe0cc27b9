"""What a script does where there is no IOMMU. Physical addresses differ from host to host; what they reach does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from executor import device, memory
from executor.objects import NO_FILE
from executor.requests import context_of, value_of
from executor.system import ARGUMENT
from questions.calls import PAGE, outcome
from questions.shapes import GET_PA

if TYPE_CHECKING:
    from executor.world import World

_SYS_RAWIO = 17
_SOURCE, _DESTINATION, _COUNT, _COMMAND = 0x80, 0x88, 0x90, 0x98
_BUFFER = 0x40000


def _ask(world: World, who: int, target: Sequence[Any], space: Any, iova: int, length: int) -> tuple[int, int, int]:
    """IOMMU_IOAS_NOIOMMU_GET_PA: the result, the physical address, the length."""
    file = world.files.find(who, *target)
    number = value_of(world, who, context_of(world, who, file, {}), space)
    world.do(who, "store", ARGUMENT, GET_PA.pack(ioas_id=number, iova=iova, length=length))
    result = world.do(who, "ioctl", file.fd if file else NO_FILE, GET_PA.request, ARGUMENT)
    after = world.do(who, "load", ARGUMENT, GET_PA.size)
    answer = GET_PA.unpack(after) if isinstance(after, bytes) else {"out_phys": 0, "length": 0}
    return result, answer["out_phys"], answer["length"]


def _where(world: World, who: int, target: Sequence[Any], space: Any, iova: int, length: int) -> str:
    """A lookup: where in a page, and how much of what was asked for, as far as that page goes."""
    result, address, found = _ask(world, who, target, space, iova, length)
    if result < 0:
        return outcome(result)
    in_page = PAGE - address % PAGE
    return f"offset {address % PAGE} has {min(found, in_page)}, {'some' if 0 < found <= length else found} of all"


def _reach(
    world: World, who: int, target: Sequence[Any], iommufd: Sequence[Any], space: Any, iova: int, length: int
) -> str:
    """Let the device write its buffer, which is all zeros, to the physical address under an IOVA; memory afterwards."""
    fd = world.fd(who, target)
    result, address, found = _ask(world, who, iommufd, space, iova, length)
    if result < 0 or found < length:
        return f"not there: {outcome(result)} {found}"
    for register, value in ((_SOURCE, _BUFFER), (_DESTINATION, address), (_COUNT, length), (_COMMAND, 3)):
        if (written := device.register(world, who, fd, register, value, "Q")) < 0:
            return outcome(written)
    return f"done {memory.look(world, who)}" if device.wait(world, who, fd, _COMMAND) else "still busy"


def _privilege(world: World, who: int, has: int) -> str:
    """Have CAP_SYS_RAWIO from now on, or not."""
    return outcome(world.do(who, "set_capability", _SYS_RAWIO, bool(has)))


VERBS = {"where": _where, "reach": _reach, "privilege": _privilege}
