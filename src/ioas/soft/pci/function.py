"""A PCI function: what a device model is written against, and what soft.vfio drives.

A model is a class: identity, capabilities and BARs declared at its top, registers as typed fields, `reset`. The machine
(`Topology.plug`) gives it an address, a requester behind an IOMMU and a timer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from ioas.soft.pci.address import Bdf
from ioas.soft.pci.bars import Bar, Rom
from ioas.soft.pci.config import Config
from ioas.soft.pci.interrupts import Interrupts

if TYPE_CHECKING:
    from ioas.soft.iommu import Requester
    from ioas.soft.pci.timers import Timer

ResetMethod = Literal["flr", "pm", "bus"]


class Dma:
    """A function's way to memory: through its requester's translation, as long as bus mastering is on."""

    def read(self, iova: int, length: int, pasid: int | None = None) -> bytes | None:
        """`length` bytes from `iova`, or None when the transfer was stopped (and recorded as a fault)."""
        raise NotImplementedError

    def write(self, iova: int, data: bytes, pasid: int | None = None) -> bool:
        """Write all of `data` at `iova`; False when the transfer was stopped (and recorded as a fault)."""
        raise NotImplementedError


class Function:
    """One PCI function. Subclasses are device models."""

    model: ClassVar[str] = ""
    """The name that --device knows."""
    vendor_id: ClassVar[int] = 0
    device_id: ClassVar[int] = 0
    revision_id: ClassVar[int] = 0
    class_code: ClassVar[int] = 0
    """24 bits: base class, subclass, programming interface."""

    bdf: Bdf
    """The address; set by Topology.plug. str(function.bdf) is "0000:01:00.0"."""
    requester: Requester
    """Who this function is to its IOMMU; set by Topology.plug."""
    config: Config
    bars: Sequence[Bar | None]
    """Six entries; None where there is no BAR (and for the upper half of a mem64 one)."""
    rom: Rom | None
    interrupts: Interrupts
    dma: Dma
    lock: threading.RLock
    """Held whenever code of the model runs (register access, timer callbacks, reset). Nothing may take a host's object
    lock while holding it."""

    def bar_read(self, index: int, offset: int, length: int) -> bytes:
        """A memory or I/O read of 1, 2, 4 or 8 bytes at `offset` of BAR `index` (6: the ROM).

        All ones when decoding is off (Command register, D3hot) or nothing answers.
        """
        raise NotImplementedError

    def bar_write(self, index: int, offset: int, data: bytes) -> None:
        """A memory or I/O write of 1, 2, 4 or 8 bytes; goes nowhere when decoding is off."""
        raise NotImplementedError

    @property
    def memory_enabled(self) -> bool:
        """Command register bit 1 is set and the function is in D0: memory BARs answer."""
        raise NotImplementedError

    @property
    def io_enabled(self) -> bool:
        """Command register bit 0 is set and the function is in D0: I/O BARs answer."""
        raise NotImplementedError

    @property
    def reset_methods(self) -> Sequence[ResetMethod]:
        """What the kernel would find, in its order: "flr", "pm", "bus"; empty when nothing resets this function alone."""
        raise NotImplementedError

    def reset_by(self, method: ResetMethod) -> None:
        """Reset the function by one of `reset_methods`: configuration space (BARs kept as the kernel restores them are
        *not* restored here) and the model's own `reset`. Raises ValueError for a method it does not have."""
        raise NotImplementedError

    def interrupt(self, vector: int = 0) -> None:
        """For models: send message `vector` when MSI-X or MSI is on, else assert INTx."""
        raise NotImplementedError

    def deassert(self) -> None:
        """For models: take the INTx level back."""
        raise NotImplementedError

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """For models: run `action` once after `seconds`, with the function's lock held; cancellable."""
        raise NotImplementedError

    def reset(self) -> None:
        """For models: put the device's own state back; the base class resets declared registers and cancels timers."""
        raise NotImplementedError

    @classmethod
    def create(cls, options: Mapping[str, str]) -> Function:
        """Build the model from --device's option texts; raises UsageError naming model, option and those allowed."""
        raise NotImplementedError
