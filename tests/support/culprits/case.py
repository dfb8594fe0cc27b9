"""One way to provoke a refusal, and a file that keeps what it refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ioas.errors import KernelError
from ioas.run.names import request_name, show_ioctl
from ioas.uapi import iommufd as uapi
from ioas.uapi.base import Struct
from tests.support.iommufd import Iommufd
from tests.support.refusals import Refused, refused

NODE = "/dev/iommu"


class Case(NamedTuple):
    """What is done, and what must be said: command, errno, and the culprit as it is printed."""

    command: str
    errno: str
    culprit: str
    provoke: Callable[[Iommufd], object]

    def __str__(self) -> str:
        return f"{self.command} {self.errno} ({self.culprit})"


class Watched(Iommufd):
    """An iommufd that keeps the refusals of its calls, as `ioas run --refusals` writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[Refused] = []
        answer = self.context.ioctl

        def ioctl(caller, request, argument):  # type: ignore[no-untyped-def]
            try:
                return answer(caller, request, argument)
            except KernelError as error:
                place = argument if isinstance(argument, int) else 0
                shown = show_ioctl(NODE, request, place, caller.memory.read)
                self.keep(request_name(NODE, request), shown, error)
                raise

        self.context.ioctl = ioctl  # type: ignore[method-assign]

    def watch(self, name: str, call: Callable[[], object]) -> None:
        """Make another call than ioctl, and keep its refusal."""
        try:
            call()
        except KernelError as error:
            self.keep(name, name, error)
            raise

    def keep(self, name: str, call: str, error: KernelError) -> None:
        """Keep a refusal of another call than ioctl, or that one."""
        refusal = error.refusal
        kind, culprit = (refusal.culprit.kind, refusal.culprit.name) if refusal.culprit else ("", "")
        self.refused.append(refused(name, call, refusal.name, refusal.reason, kind, culprit))


def do(iommufd: Iommufd, name: str, **fields: int) -> Struct:
    """Make the call IOMMU_`name` with these fields."""
    struct: type[Struct] = getattr(uapi, f"iommu_{name.lower().replace('fault_queue', 'fault').replace('get_', '')}")
    return iommufd.call(getattr(uapi, f"IOMMU_{name}"), struct(**fields))


def container(iommufd: Iommufd, request: int, struct: Struct) -> int:
    """Make a request of a container, whose structure stands in memory."""
    place = iommufd.caller.memory.map(1)
    iommufd.caller.memory.write(place, bytes(struct))
    return iommufd.context.ioctl(iommufd.caller, request, place)
