"""How a function interrupts: INTx (a level), MSI and MSI-X (messages), and who is told.

The operating system's side (here: soft.vfio) enables one kind, connects a callback to each vector, and masks; the
device's side says `Function.interrupt(vector)`. Configuration space shows it all as hardware would: enable bits, mask
and pending bits, the interrupt status and the interrupt disable bit. Messages are writes on the bus, so they need bus
mastering, like any DMA.

Callbacks run in whatever thread made the device interrupt, with the function's lock held: they must not block and must
not call back into the function (signalling an eventfd is what they are for).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ioas.soft.pci import header
from ioas.soft.pci.capabilities import Msi, Msix
from ioas.soft.pci.messages import MessageKind, MsiMessages, MsixMessages

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

InterruptKind = Literal["intx", "msi", "msix"]
Callback = Callable[[], None]
_BY_PRECEDENCE: tuple[MessageKind, ...] = ("msix", "msi")


class Interrupts:
    """The interrupt controller of one function."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._intx: Callback | None = None
        self._wire = False
        """The INTx wire as the far end sees it: asserted, and neither disabled nor replaced by messages."""
        self._messages: dict[MessageKind, MsiMessages | MsixMessages] = {}
        if placed := function.find(Msi):
            self._messages["msi"] = MsiMessages(function, *placed)
        self.msix: MsixMessages | None = None
        """The MSI-X controller, which answers for a part of a BAR."""
        if placed_x := function.find(Msix):
            self._messages["msix"] = self.msix = MsixMessages(function, *placed_x)

    def count(self, kind: InterruptKind) -> int:
        """How many vectors of `kind` the function has; 0 when it lacks the capability (INTx: the pin)."""
        if kind == "intx":
            return 1 if self._function.interrupt_pin else 0
        return self._messages[kind].count if kind in self._messages else 0

    @property
    def enabled(self) -> InterruptKind | None:
        """The kind that `interrupt` uses now: MSI-X, else MSI, else INTx when the function has a pin, else None."""
        for kind in _BY_PRECEDENCE:
            if kind in self._messages and self._messages[kind].enabled:
                return kind
        return "intx" if self._function.interrupt_pin else None

    def enable(self, kind: InterruptKind, vectors: int = 1) -> None:
        """As an operating system does it: set the enable bit, program and unmask `vectors` vectors.

        MSI: the number is rounded up to a power of two in the Multiple Message Enable field. INTx: the
        interrupt disable bit is cleared. Raises ValueError when the function has fewer vectors.
        """
        if not 1 <= vectors <= self.count(kind):
            raise ValueError(f"{self._function} has {self.count(kind)} {kind} vectors, not {vectors}")
        with self._function.lock:
            if kind != "intx":
                self._messages[kind].enable(vectors)
            # Linux turns INTx off while messages are on (pci_intx_for_msi).
            self._set_intx_disable(kind != "intx")

    def disable(self, kind: InterruptKind) -> None:
        """Clear the enable bit (INTx: set the interrupt disable bit) and disconnect all vectors of `kind`."""
        with self._function.lock:
            if kind == "intx":
                self._intx = None
                self._set_intx_disable(True)
            elif kind in self._messages:
                self._messages[kind].disable()
                self._set_intx_disable(False)

    def connect(self, kind: InterruptKind, vector: int, callback: Callback | None) -> None:
        """Have `callback` called for each message on `vector`, or when the INTx wire becomes active; None disconnects.

        For INTx also called by `unmask` (or by clearing the interrupt disable bit) while the level is still asserted.
        Raises ValueError for a vector that does not exist.
        """
        if not 0 <= vector < self.count(kind):
            raise ValueError(f"{self._function} has no {kind} vector {vector}")
        with self._function.lock:
            if kind == "intx":
                self._intx = callback
            else:
                self._messages[kind].connect(vector, callback)

    def mask(self) -> None:
        """Mask INTx: set the interrupt disable bit of the command register."""
        with self._function.lock:
            self._set_intx_disable(True)

    def unmask(self) -> None:
        """Unmask INTx; a level still asserted calls the callback again."""
        with self._function.lock:
            self._set_intx_disable(False)

    def _set_intx_disable(self, on: bool) -> None:
        self._function.config.set_bits(header.COMMAND, 2, header.COMMAND_INTX_DISABLE, on)
        self.reconsider()

    @property
    def masked(self) -> bool:
        """Whether the interrupt disable bit is set."""
        return bool(self._function.config.get(header.COMMAND, 2) & header.COMMAND_INTX_DISABLE)

    @property
    def asserted(self) -> bool:
        """The INTx level as the device drives it (the status bit), masked or not."""
        return bool(self._function.config.get(header.STATUS, 2) & header.STATUS_INTERRUPT)

    def pending(self, kind: InterruptKind, vector: int) -> bool:
        """Whether a masked message waits on `vector` (the pending bit); INTx: whether a masked level is asserted."""
        if kind == "intx":
            return self.asserted and not self._wire
        return kind in self._messages and self._messages[kind].pending(vector)

    def raise_vector(self, vector: int) -> None:
        """The device interrupts: by message when messages are on, else by INTx."""
        with self._function.lock:
            kind = self.enabled
            if kind == "msi" or kind == "msix":
                self._messages[kind].send(vector)
            elif kind == "intx":
                self.drive(True)

    def drive(self, level: bool) -> None:
        """The device drives INTx; without a pin nothing happens."""
        with self._function.lock:
            if self._function.interrupt_pin:
                self._function.config.set_bits(header.STATUS, 2, header.STATUS_INTERRUPT, level)
                self.reconsider()

    def reconsider(self) -> None:
        """Look again after an enable, mask or disable bit may have changed: deliver what was held back."""
        with self._function.lock:
            if self.asserted and self.enabled != "intx":  # with messages on, a function may not use its pin
                self._function.config.set_bits(header.STATUS, 2, header.STATUS_INTERRUPT, False)
            was, self._wire = self._wire, self.asserted and not self.masked and self.enabled == "intx"
            if self._wire and not was and self._intx is not None:
                self._intx()
            for messages in self._messages.values():
                messages.deliver_pending()

    def undelivered(self) -> dict[InterruptKind, list[int]]:
        """What the device has raised and nobody has been told of: the level of INTx (vector 0), messages by vector."""
        waiting: dict[InterruptKind, list[int]] = {"intx": [0] if self.asserted else []}
        waiting.update((kind, messages.undelivered()) for kind, messages in self._messages.items())
        return waiting

    def take_undelivered(self, waiting: Mapping[str, Sequence[int]]) -> None:
        """Have raised what `undelivered` told of another function; nobody is told before `deliver`."""
        with self._function.lock:
            level = bool(waiting.get("intx")) and bool(self._function.interrupt_pin)
            self._function.config.set_bits(header.STATUS, 2, header.STATUS_INTERRUPT, level)
            for kind, messages in self._messages.items():
                messages.hold_back(waiting.get(kind, ()))

    def deliver(self) -> None:
        """Tell those who are connected of what has been taken over."""
        with self._function.lock:
            for messages in self._messages.values():
                messages.deliver_held_back()
            self.reconsider()

    def reset(self) -> None:
        """The function was reset (configuration space already is): levels drop and tables clear; callbacks stay."""
        with self._function.lock:
            self._wire = False
            for messages in self._messages.values():
                messages.reset()
