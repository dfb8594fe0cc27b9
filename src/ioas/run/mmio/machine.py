"""What emulation works on: the stopped thread, and the bus behind the mapped windows."""

from __future__ import annotations

from typing import Protocol

from ioas.run.mmio.registers import Words

SCRATCH_CODE = 0x1000
SCRATCH_DATA = 0x2000
"""Where instructions for `Cpu.step` are assembled: the data stand 4096 bytes behind the code, wherever both are."""
SCRATCH_ROOM = 128
"""Bytes of scratch data that a step may use; aligned to as many."""


class NotEmulated(Exception):  # noqa: N818 - a refusal, told to the user
    """An instruction (or the place that it accesses) is not served; the text says which and why."""


class MemoryFault(Exception):  # noqa: N818 - what a processor calls it
    """Ordinary memory of the program that an instruction uses beside the window is not there."""

    def __init__(self, address: int) -> None:
        super().__init__(f"no memory at {address:#x}")
        self.address = address


class StepFault(Exception):  # noqa: N818
    """The instruction itself raised signal `number` (a division by zero, say) when it was carried out."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Silent(Exception):  # noqa: N818
    """The device does not answer (memory decoding is off): a kernel gives the program SIGBUS."""


class Cpu(Protocol):
    """A thread that stands still before an instruction."""

    @property
    def words(self) -> Words:
        """Its registers; what is changed here it has when it goes on."""
        ...

    def read(self, address: int, length: int) -> bytes:
        """Read its ordinary memory. Raises MemoryFault."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write its ordinary memory. Raises MemoryFault."""
        ...

    def step(self, code: bytes, data: bytes) -> bytes:
        """Have the thread carry out one instruction, assembled at SCRATCH_CODE, with `data` at SCRATCH_DATA.

        Returns the SCRATCH_ROOM bytes that stand there afterwards. `words` are those after the instruction, except
        that the instruction pointer is as before unless the instruction jumped. Raises StepFault.
        """
        ...


class Bus(Protocol):
    """The windows of devices that are mapped into the thread's address space."""

    def covers(self, address: int, length: int) -> bool:
        """Whether any of these bytes are in a window; False when all are the program's own. Raises Silent."""
        ...

    def read(self, address: int, length: int) -> bytes:
        """One load of `length` bytes, which `covers` is true of. Raises Silent, NotEmulated, MemoryFault.

        What crosses from a window into another, or into the program's memory, is a load in each.
        """
        ...

    def write(self, address: int, data: bytes) -> None:
        """One store. Raises as `read`."""
        ...
