"""How a function interrupts: INTx (a level), MSI and MSI-X (messages), and who is told.

The operating system's side (here: soft.vfio) enables one kind, connects a callback to each vector, and masks; the
device's side says `Function.interrupt(vector)`. Configuration space shows it all as hardware would: enable bits, mask
and pending bits, the interrupt status and the interrupt disable bit.

Callbacks run in whatever thread made the device interrupt, with the function's lock held: they must not block and must
not call back into the function (signalling an eventfd is what they are for).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

InterruptKind = Literal["intx", "msi", "msix"]


class Interrupts:
    """The interrupt controller of one function."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def count(self, kind: InterruptKind) -> int:
        """How many vectors of `kind` the function has; 0 when it lacks the capability (INTx: the pin)."""
        raise NotImplementedError

    @property
    def enabled(self) -> InterruptKind | None:
        """The kind that `interrupt` uses now: MSI-X, else MSI, else INTx when the function has a pin, else None."""
        raise NotImplementedError

    def enable(self, kind: InterruptKind, vectors: int = 1) -> None:
        """As an operating system does it: set the enable bit, program and unmask `vectors` vectors.

        MSI: the number is rounded up to a power of two in the Multiple Message Enable field. INTx: the
        interrupt disable bit is cleared. Raises ValueError when the function has fewer vectors.
        """
        raise NotImplementedError

    def disable(self, kind: InterruptKind) -> None:
        """Clear the enable bit (INTx: set the interrupt disable bit) and disconnect all vectors of `kind`."""
        raise NotImplementedError

    def connect(self, kind: InterruptKind, vector: int, callback: Callable[[], None] | None) -> None:
        """Have `callback` called for each message on `vector`, or when the INTx wire becomes active; None disconnects.

        For INTx also called by `unmask` (or by clearing the interrupt disable bit) while the level is still asserted.
        """
        raise NotImplementedError

    def mask(self) -> None:
        """Mask INTx: set the interrupt disable bit of the command register."""
        raise NotImplementedError

    def unmask(self) -> None:
        """Unmask INTx; a level still asserted calls the callback again."""
        raise NotImplementedError

    @property
    def asserted(self) -> bool:
        """The INTx level as the device drives it (the status bit), masked or not."""
        raise NotImplementedError

    def pending(self, kind: InterruptKind, vector: int) -> bool:
        """Whether a masked message waits on `vector` (the pending bit)."""
        raise NotImplementedError
