"""MSI and MSI-X: messages that signal one eventfd each (follows vfio_pci_intrs.c, 7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL, ERANGE
from typing import TYPE_CHECKING, Literal

from ioas.errors import KernelError, refuse
from ioas.host import Caller, EventFd
from ioas.soft.vfio.power import D0

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice

MessageKind = Literal["msi", "msix"]


class Messages:
    """The messages of one device: those of MSI or those of MSI-X, whichever is enabled."""

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self._interrupts = device.function.interrupts
        self.kind: MessageKind | None = None
        self._allocated = 0
        self._triggers: dict[int, EventFd] = {}
        self.msi_log2 = 0
        """Log 2 of the vectors that MSI was last enabled with; outlives closing, as in 7.3."""

    def enable(self, kind: MessageKind, vectors: int) -> None:
        """Turn `kind` on with `vectors` vectors. Raises KernelError: ERANGE for none, EINVAL when not in D0."""
        if not vectors:
            raise refuse(ERANGE, f"{kind} cannot be enabled without a vector", "field", "count")
        if self._device.power.state != D0:
            raise refuse(EINVAL, "the function is not in D0", "device", self._device.name)
        self._interrupts.enable(kind, vectors)
        self.kind, self._allocated = kind, vectors
        if kind == "msi":
            self.msi_log2 = (vectors - 1).bit_length()
        self._device.on_messages(kind, vectors)

    def disable(self) -> None:
        """Turn the kind that is enabled off, dropping the eventfds."""
        if self.kind is None:
            return
        for vector in list(self._triggers):
            self._drop(vector)
        self._interrupts.disable(self.kind)
        self.kind, self._allocated = None, 0
        self._device.on_messages(None, 0)

    def restore(self) -> None:
        """Put the messages back as they were set up here, whatever a program wrote by hand (pci_restore_msi_state)."""
        if self.kind is not None:
            self._interrupts.enable(self.kind, self._allocated)

    def set_block(self, caller: Caller, start: int, fds: Sequence[int]) -> None:
        """Let vectors from `start` signal the caller's eventfds; negative ones unset. One failure unsets the block.

        MSI-X takes vectors beyond those that it was enabled with.

        Raises KernelError: EBADF or EINVAL for a descriptor that is no eventfd, EINVAL for an MSI vector
        beyond those that MSI was enabled with.
        """
        for index, fd in enumerate(fds):
            try:
                self._set(caller, start + index, fd)
            except KernelError:
                for vector in range(start, start + index + 1):
                    self._drop(vector)
                raise

    def _set(self, caller: Caller, vector: int, fd: int) -> None:
        kind = self.kind
        replaced = self._drop(vector)
        if fd < 0 or kind is None:
            return
        if kind == "msi" and not replaced and vector >= self._allocated:
            raise refuse(EINVAL, f"MSI was enabled with {self._allocated} vectors; disable it first", "limit", vector)
        if vector >= self._allocated:
            self._interrupts.enable(kind, vector + 1)
            self._allocated = vector + 1
        trigger = caller.eventfd(fd)
        self._triggers[vector] = trigger
        self._interrupts.connect(kind, vector, trigger.signal)

    def _drop(self, vector: int) -> bool:
        trigger = self._triggers.pop(vector, None)
        if trigger is None or self.kind is None:
            return False
        self._interrupts.connect(self.kind, vector, None)
        trigger.close()
        return True

    @property
    def held_eventfds(self) -> int:
        """How many vectors signal an eventfd."""
        return len(self._triggers)

    def fire(self, vector: int) -> None:
        """Signal the vector's eventfd, if it has one (loopback)."""
        if trigger := self._triggers.get(vector):
            trigger.signal()
