"""Where a function stands in a machine, and what it notes there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.iommu import Requester
    from ioas.soft.pci.address import Bdf
    from ioas.soft.pci.timers import Timers
    from ioas.soft.pci.topology import Bus

_INCIDENTS_KEPT = 256


class Incident(NamedTuple):
    """Something a function did, or was asked, that went nowhere: `what` is a sentence; `time` is time.monotonic()."""

    function: str
    what: str
    time: float


class Place(NamedTuple):
    """What the machine gives a function when it is plugged in."""

    bdf: Bdf
    bus: Bus
    timers: Timers


class Placed:
    """Something that is plugged into a machine, once, and is a requester to its IOMMU."""

    model: ClassVar[str] = ""
    """The name that --device knows."""

    incidents: deque[Incident]
    """The last 256 things that went nowhere."""
    on_incident: list[Callable[[Incident], None]]
    """Called with each incident, on the thread that caused it."""

    def __init__(self) -> None:
        self.incidents = deque(maxlen=_INCIDENTS_KEPT)
        self.on_incident = []
        self._place: Place | None = None
        self._requester: Requester | None = None

    def plug_in(self, place: Place) -> None:
        """Give it its place in a machine (for Topology). Raises UsageError when it has one."""
        if self._place is not None:
            raise UsageError(f"{self} is plugged in already")
        self._place = place

    @property
    def place(self) -> Place:
        """Where it stands; raises UsageError before it is plugged in."""
        if self._place is None:
            raise UsageError(f"{self.model or type(self).__name__} is not plugged into a machine")
        return self._place

    @property
    def bdf(self) -> Bdf:
        """The address; str(function.bdf) is "0000:01:00.0"."""
        return self.place.bdf

    @property
    def requester(self) -> Requester:
        """Who it is to its IOMMU; raises UsageError before the machine is settled."""
        if self._requester is None:
            raise UsageError(f"{self} stands in a machine that is not settled")
        return self._requester

    @requester.setter
    def requester(self, requester: Requester) -> None:
        self._requester = requester

    def __str__(self) -> str:
        name = self.model or type(self).__name__
        return f"{name} {self._place.bdf}" if self._place is not None else name

    def record(self, what: str) -> None:
        """Note an incident: a sentence about something that went nowhere; kept, and told to `on_incident`."""
        incident = Incident(str(self), what, time.monotonic())
        self.incidents.append(incident)
        for listener in self.on_incident:
            listener(incident)
