"""Power management (PCI Power Management 1.2, capability 0x01): D0 and D3hot."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

CONTROL = 4
STATE_MASK = 0x3
D0 = 0
D3HOT = 3
NO_SOFT_RESET = 0x0008


class PowerManagement(Capability):
    """D0 and D3hot. Without `no_soft_reset` the way back from D3hot resets the function (the kernel's "pm" reset)."""

    id: ClassVar[int] = 0x01

    def __init__(self, *, no_soft_reset: bool = True) -> None:
        self.no_soft_reset = no_soft_reset

    @property
    def length(self) -> int:
        """Header, capabilities, control and status."""
        return 8

    def install(self, function: Function, offset: int) -> None:
        """Version 3 of the structure; only the state is writable (PME is not offered)."""
        config = function.config
        config.declare(offset + 2, 2, 0x0003)
        control = NO_SOFT_RESET if self.no_soft_reset else 0
        config.declare(offset + CONTROL, 2, control, writable=STATE_MASK)
        state = [D0]

        def changed() -> None:
            was, state[0] = state[0], config.get(offset + CONTROL, 2) & STATE_MASK
            if was == D3HOT and state[0] == D0 and not self.no_soft_reset:
                function.reinitialise()

        config.watch(offset + CONTROL, 2, changed)
        config.watch_reset(lambda: state.__setitem__(0, D0))
