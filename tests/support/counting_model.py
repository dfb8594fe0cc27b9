"""A model that migrates, for tests: it counts, with something in every part of its state."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from ioas.soft.pci import Bar, Capability, Function, Migration, Msi, Pcie
from tests.support.vfio_client import Client

RARE = 1000.0


class Counting(Function):
    """It counts to a number, a step each `RARE` seconds, and interrupts; with memory, and a secret of its own."""

    model: ClassVar[str] = "counting"
    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0x0043
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (Msi(1), Pcie(flr=True))
    migrates = Migration()
    window = Bar(0, 4096)
    count = window.register(0x00)
    target = window.register(0x04)
    wide = window.register(0x08, width=8, sizes=(8,))
    raise_now = window.register(0x10)
    odd = window.register(0x14)
    store = Bar(2, 8192)
    memory = store.memory()

    def __init__(self) -> None:
        super().__init__()
        self.secret = b"none"
        self.deaf = False

    @target.on_write
    def _target_written(self, value: int) -> None:
        self.target = value
        self.after(RARE, partial(self._step, 1))

    def _step(self, by: int) -> None:
        self.count += by
        if self.count < self.target:
            self.after(RARE, partial(self._step, by))

    @raise_now.on_write
    def _raise_now_written(self, value: int) -> None:
        self.interrupt(0)

    @odd.on_write
    def _odd_written(self, value: int) -> None:
        self.after(RARE, lambda: None)

    def save(self) -> bytes:
        return self.secret

    def load(self, state: bytes) -> None:
        if self.deaf:
            raise ValueError("not that")
        self.secret = state


def set_up(client: Client) -> None:
    """Something in every part of the state."""
    client.set_bar(0x04, 5)
    client.write(0x08, (1 << 40).to_bytes(8, "little"))
    client.write(2 << 40, b"in memory")
    client.set_bar(0x10, 1)
