"""MSI and MSI-X of one function: enable, mask, hold back, deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from ioas.soft.pci.capabilities import Msi, Msix, msi, msix

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

MessageKind = Literal["msi", "msix"]
Callback = Callable[[], None]

MESSAGE_ADDRESS = 0xFEE00000
"""Where messages go on x86; what `enable` writes as the address, with the vector as data."""


class Controller:
    """Delivery, shared by both: a masked message sets its pending bit; unmasking delivers it once."""

    def __init__(self, function: Function, count: int, *, maskable: bool) -> None:
        self.count = count
        self._maskable = maskable
        self._function = function
        self._callbacks: dict[int, Callback] = {}
        self._unheard: set[int] = set()
        """Vectors whose messages came while nobody was connected, and are not lost."""
        self._heard: set[int] = set()
        """Vectors that somebody has been connected to since messages were enabled."""

    def connect(self, vector: int, callback: Callback | None) -> None:
        """Set or clear (None) the callback of `vector`.

        Messages that came before make it be called once, now. Linux masks a vector that nobody listens to, where it
        can, so the device holds its message back; where it cannot, it replays what found no handler yet - but once
        there was one and is no more, the vector has no address, and messages are lost.
        """
        if callback is None:
            self._callbacks.pop(vector, None)
            return
        self._callbacks[vector] = callback
        self._heard.add(vector)
        if vector in self._unheard:
            self._unheard.remove(vector)
            callback()

    def _forget(self) -> None:
        """Messages are off: nobody is connected, nothing waits."""
        for record in (self._callbacks, self._unheard, self._heard):
            record.clear()

    def send(self, vector: int) -> None:
        """The device sends message `vector`."""
        if not 0 <= vector < self._usable():
            self._function.record(f"message {vector} was not sent: {self._usable()} vectors are enabled")
        elif self._masked(vector):
            self._set_pending(vector, True)
        else:
            self._deliver(vector)

    def deliver_pending(self) -> None:
        """Send what waited and is no longer masked."""
        for vector in self._waiting():
            if not self._masked(vector):
                self._set_pending(vector, False)
                self._deliver(vector)

    def undelivered(self) -> list[int]:
        """The vectors whose messages are masked or have found nobody."""
        return sorted({*self._waiting(), *self._unheard})

    def hold_back(self, vectors: Iterable[int]) -> None:
        """Have messages of these vectors, for whoever is or will be connected."""
        self._unheard.update(vector for vector in vectors if 0 <= vector < self.count)

    def deliver_held_back(self) -> None:
        """Call those who are connected by now."""
        for vector in sorted(self._unheard & self._callbacks.keys()):
            self._unheard.remove(vector)
            self._callbacks[vector]()

    def _deliver(self, vector: int) -> None:
        if not self._function.master_enabled:
            self._function.record(f"message {vector} was not sent: bus mastering is off")
        elif (callback := self._callbacks.get(vector)) is not None:
            callback()
        elif self._maskable or vector not in self._heard:
            self._unheard.add(vector)

    def _usable(self) -> int:
        raise NotImplementedError

    def _masked(self, vector: int) -> bool:
        raise NotImplementedError

    def _set_pending(self, vector: int, on: bool) -> None:
        raise NotImplementedError

    def _waiting(self) -> list[int]:
        raise NotImplementedError


class MsiMessages(Controller):
    """MSI: all state stands in configuration space."""

    def __init__(self, function: Function, capability: Msi, offset: int) -> None:
        super().__init__(function, capability.vectors, maskable=capability.masking)
        self._capability = capability
        self._offset = offset

    @property
    def enabled(self) -> bool:
        """The enable bit."""
        return bool(self._control & msi.ENABLE)

    @property
    def _control(self) -> int:
        return self._function.config.get(self._offset + msi.CONTROL, 2)

    def enable(self, vectors: int) -> None:
        """Set Multiple Message Enable to the next power of two, unmask all, set the enable bit."""
        config, offset, capability = self._function.config, self._offset, self._capability
        config.set(offset + msi.ADDRESS, 4, MESSAGE_ADDRESS)
        config.set(offset + capability.data, 2, 0)
        if capability.masking:
            config.set(offset + capability.mask, 4, 0)
        control = self._control & ~0x0070 | (vectors - 1).bit_length() << 4
        config.set(offset + msi.CONTROL, 2, control | msi.ENABLE)

    def disable(self) -> None:
        """Clear the enable bit; forget callbacks and pending messages."""
        self._forget()
        self._function.config.set_bits(self._offset + msi.CONTROL, 2, msi.ENABLE, False)
        self.reset()

    def reset(self) -> None:
        """Pending bits clear, and what was held back with them."""
        if self._maskable:
            self._unheard.clear()
        if self._capability.masking:
            self._function.config.set(self._offset + self._capability.pending, 4, 0)

    def pending(self, vector: int) -> bool:
        """The pending bit of `vector`."""
        return vector in self._waiting()

    def _usable(self) -> int:
        return min(self.count, 1 << (self._control >> 4 & 0x7))

    def _masked(self, vector: int) -> bool:
        if not self._capability.masking:
            return False
        return bool(self._function.config.get(self._offset + self._capability.mask, 4) >> vector & 1)

    def _set_pending(self, vector: int, on: bool) -> None:
        self._function.config.set_bits(self._offset + self._capability.pending, 4, 1 << vector, on)

    def _waiting(self) -> list[int]:
        if not self._capability.masking or not self.enabled:
            return []
        bits = self._function.config.get(self._offset + self._capability.pending, 4)
        return [vector for vector in range(self.count) if bits >> vector & 1]


class MsixMessages(Controller):
    """MSI-X: the table and the pending bits are bytes here, which BAR accesses reach through `read` and `write`."""

    def __init__(self, function: Function, capability: Msix, offset: int) -> None:
        super().__init__(function, capability.vectors, maskable=True)
        self._capability = capability
        self._offset = offset
        self._table = bytearray(capability.table_length)
        self._pending = bytearray(capability.pending_length)
        self.reset()

    @property
    def enabled(self) -> bool:
        """The enable bit."""
        return bool(self._control & msix.ENABLE)

    @property
    def _control(self) -> int:
        return self._function.config.get(self._offset + msix.CONTROL, 2)

    def enable(self, vectors: int) -> None:
        """Write and unmask the first `vectors` entries, mask the others, set the enable bit."""
        for vector in range(self.count):
            entry = MESSAGE_ADDRESS | vector << 64
            masked = 0 if vector < vectors else msix.VECTOR_MASKED
            start = vector * msix.ENTRY_SIZE
            self._table[start : start + msix.ENTRY_SIZE] = (entry | masked << 96).to_bytes(16, "little")
        self._function.config.set(self._offset + msix.CONTROL, 2, self.count - 1 | msix.ENABLE)

    def disable(self) -> None:
        """Clear the enable bit; forget callbacks; the table is as after a reset."""
        self._forget()
        self._function.config.set_bits(self._offset + msix.CONTROL, 2, msix.ENABLE | msix.FUNCTION_MASK, False)
        self.reset()

    def reset(self) -> None:
        """Every entry masked and zero, nothing pending."""
        self._unheard.clear()
        self._table[:] = (msix.VECTOR_MASKED << 96).to_bytes(16, "little") * self.count
        self._pending[:] = bytes(len(self._pending))

    def snapshot(self) -> bytes:
        """The table now, for `restore`."""
        return bytes(self._table)

    def restore(self, snapshot: bytes) -> None:
        """Put the table back, as a kernel does after a reset."""
        self._table[:] = snapshot

    def covers(self, bar: int, offset: int) -> bool:
        """Whether byte `offset` of a BAR belongs to the table or the pending bits."""
        return self._part(bar, offset) is not None

    def _part(self, bar: int, offset: int) -> tuple[bytearray, int] | None:
        """The bytes behind an offset of a BAR, and where in them it lies."""
        capability = self._capability
        if bar == capability.bar and 0 <= offset - capability.table < len(self._table):
            return self._table, offset - capability.table
        if bar == capability.pending_bar and 0 <= offset - capability.pending < len(self._pending):
            return self._pending, offset - capability.pending
        return None

    def read(self, bar: int, offset: int, length: int) -> bytes:
        """An aligned read of 4 or 8 bytes; others read as all ones."""
        part = self._part(bar, offset)
        if part is None or length not in (4, 8) or offset % length:
            return b"\xff" * length
        store, start = part
        return bytes(store[start : start + length]).ljust(length, b"\xff")

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """An aligned write of 4 or 8 bytes into the table; the pending bits are read-only. Unmasking delivers."""
        part = self._part(bar, offset)
        if part is None or part[0] is self._pending or len(data) not in (4, 8) or offset % len(data):
            return
        store, start = part
        store[start : start + len(data)] = data
        self.deliver_pending()

    def pending(self, vector: int) -> bool:
        """The pending bit of `vector`."""
        return bool(self._pending[vector >> 3] >> (vector & 7) & 1)

    def _usable(self) -> int:
        return self.count

    def _masked(self, vector: int) -> bool:
        control = vector * msix.ENTRY_SIZE + msix.VECTOR_CONTROL
        return bool(self._control & msix.FUNCTION_MASK or self._table[control] & msix.VECTOR_MASKED)

    def _set_pending(self, vector: int, on: bool) -> None:
        bit = 1 << (vector & 7)
        kept = self._pending[vector >> 3] & ~bit
        self._pending[vector >> 3] = kept | bit if on else kept

    def _waiting(self) -> list[int]:
        if not self.enabled or not any(self._pending):
            return []
        return [vector for vector in range(self.count) if self.pending(vector)]
