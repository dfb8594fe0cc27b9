"""`Irq`: an interrupt of a device, signalled on an eventfd."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Self

from ioas.errors import InvalidArgument, UsageError
from ioas.uapi.vfio import (
    VFIO_DEVICE_SET_IRQS,
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_REQ_IRQ_INDEX,
    vfio_irq_set,
)

if TYPE_CHECKING:
    from ioas.api.device import Device

IrqKind = Literal["intx", "msi", "msix", "err", "req"]

IRQ_INDEXES: dict[IrqKind, int] = {
    "intx": VFIO_PCI_INTX_IRQ_INDEX,
    "msi": VFIO_PCI_MSI_IRQ_INDEX,
    "msix": VFIO_PCI_MSIX_IRQ_INDEX,
    "err": VFIO_PCI_ERR_IRQ_INDEX,
    "req": VFIO_PCI_REQ_IRQ_INDEX,
}


def irq_index(kind: IrqKind) -> int:
    """The index that VFIO has for a kind. Raises UsageError for an unknown one."""
    if kind not in IRQ_INDEXES:
        raise UsageError(f"{kind!r} is no kind of interrupt; kinds are {', '.join(IRQ_INDEXES)}")
    return IRQ_INDEXES[kind]


class Irq:
    """One interrupt. `fileno` is an eventfd that becomes readable, for select, poll and asyncio.

    An "intx" masks itself when it fires: quiet the device, then `unmask`.
    """

    def __init__(self, irqs: Irqs, vector: int, *, only: bool) -> None:
        self._irqs = irqs
        self._only = only
        self.vector = vector
        self._awaited = False
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __repr__(self) -> str:
        return f"<Irq {self._irqs.kind} {self.vector} of {self._irqs.device.bdf}>"

    def fileno(self) -> int:
        """The eventfd. Raises UsageError when closed."""
        if self._fd < 0:
            raise UsageError("the interrupt is closed")
        return self._fd

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it fires, `timeout` seconds at most; how often it has fired since. Raises TimeoutError."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            # Not below 0, which means without end.
            if not poll.poll(None if end is None else max(end - time.monotonic(), 0) * 1000):
                raise TimeoutError(f"no interrupt ({self._irqs.kind} {self.vector}) in {timeout} s")
            if count := self.pending():  # 0: another thread has taken it first
                return count

    async def wait_async(self) -> int:
        """The same for asyncio, for one task at a time; combine it with asyncio.timeout.

        Raises UsageError while another task waits: an event loop tells one listener for each descriptor.
        """
        if self._awaited:
            raise UsageError("another task waits for this interrupt")
        self._awaited = True
        try:
            while not (count := self.pending()):
                await self._readable()
        finally:
            self._awaited = False
        return count

    async def _readable(self) -> None:
        import asyncio  # takes longer to import than the rest of this package, for those who do not use it

        loop, fd = asyncio.get_running_loop(), self.fileno()
        fired = asyncio.Event()
        loop.add_reader(fd, fired.set)
        try:
            await fired.wait()
        finally:
            loop.remove_reader(fd)

    def pending(self) -> int:
        """How often it has fired since the last look; 0 when it has not."""
        try:
            return os.eventfd_read(self.fileno())
        except BlockingIOError:
            return 0

    def mask(self) -> None:
        """Hold it back. Raises UnknownRequest for kinds that cannot be masked."""
        self._act(VFIO_IRQ_SET_ACTION_MASK)

    def unmask(self) -> None:
        """Let it through (again); an "intx" that is still raised fires at once."""
        self._act(VFIO_IRQ_SET_ACTION_UNMASK)

    def trigger(self) -> None:
        """Fire it as the device would: a test of the way from VFIO to this program."""
        self._act(VFIO_IRQ_SET_ACTION_TRIGGER)

    def close(self) -> None:
        """Let go of it; the only one of its kind disables the kind. Idempotent."""
        if self._only:
            self._irqs.close()
        self.release()

    def release(self) -> None:
        """Close the eventfd alone."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _act(self, action: int) -> None:
        self.fileno()
        self._irqs.set(VFIO_IRQ_SET_DATA_NONE | action, self.vector, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.release()


class Irqs:
    """Enabled interrupts of one kind, by vector. Use it as a context manager: closing it disables the kind."""

    def __init__(self, device: Device, kind: IrqKind, count: int) -> None:
        """Raises UsageError for an unknown kind or no vectors; KernelError as VFIO_DEVICE_SET_IRQS."""
        self._index = irq_index(kind)
        if count < 1:
            raise UsageError(f"count is {count}; at least one interrupt can be enabled")
        self.device = device
        self.kind = kind
        self._irqs = [Irq(self, vector, only=count == 1) for vector in range(count)]
        self._enabled = False
        eventfds = struct.pack(f"{count}i", *(irq.fileno() for irq in self._irqs))
        try:
            self.set(VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 0, count, eventfds)
        except BaseException:
            self.close()
            raise
        self._enabled = True

    def only(self) -> Irq:
        """The interrupt, where there is just one."""
        (irq,) = self._irqs
        return irq

    def set(self, flags: int, start: int, count: int, data: bytes = b"") -> None:
        """VFIO_DEVICE_SET_IRQS."""
        size = ctypes.sizeof(vfio_irq_set) + len(data)
        header = vfio_irq_set(argsz=size, flags=flags, index=self._index, start=start, count=count)
        self.device.ioctl(VFIO_DEVICE_SET_IRQS, bytearray(bytes(header) + data))

    def close(self) -> None:
        """Disable the kind and close the eventfds. Idempotent."""
        enabled, self._enabled = self._enabled, False
        try:
            if enabled and not self.device.closed:
                self.set(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0)
        except InvalidArgument:  # somebody else has disabled the kind
            pass
        finally:
            for irq in self._irqs:
                irq.release()

    def __len__(self) -> int:
        return len(self._irqs)

    def __getitem__(self, vector: int) -> Irq:
        """The interrupt of a vector."""
        return self._irqs[vector]

    def __iter__(self) -> Iterator[Irq]:
        return iter(self._irqs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
