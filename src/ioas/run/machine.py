"""What a supervisor wants of a host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from ioas.host import Capability, File, Host

if TYPE_CHECKING:
    from ioas.soft.iommu import System
    from ioas.soft.pci import Function
    from ioas.soft.pci.nodes import Tree
    from ioas.soft.vfio import VfioDevice


class Machine(Host, Protocol):
    """What a supervisor wants of a host beyond `Host.open`; `ioas.soft.host.SoftHost` has it all."""

    @property
    def tree(self) -> Tree:
        """/dev and /sys as the program shall see them."""
        ...

    def fail_nth(self, process: int) -> File | None:
        """What /proc/PID/fail-nth of a process is on this machine; None when it is the real one."""
        ...

    @property
    def system(self) -> System:
        """Where DMA faults are told."""
        ...

    @property
    def functions(self) -> Mapping[str, Function]:
        """Devices by BDF."""
        ...

    @property
    def devices(self) -> Mapping[str, VfioDevice]:
        """The functions under vfio-pci, by BDF."""
        ...

    @property
    def arrivals(self) -> list[Callable[[Function], None]]:
        """Called with each virtual function that appears."""
        ...

    @property
    def grants(self) -> frozenset[Capability]:
        """Capabilities that every caller has on this machine."""
        ...

    @property
    def strict(self) -> bool:
        """Refuse to pin memory that would not stay pinned."""
        ...

    def close(self) -> None:
        """Close what is still open and stop every thread. Idempotent."""
        ...
