"""Configuration space: 4096 real bytes with a writable mask and a write-one-to-clear mask for each.

What software reads is what stands in the bytes; what a write changes is decided by the masks alone, bit by bit, as the
PCI specifications describe registers (RO, RW, RW1C). Whoever owns a register (a BAR, a capability) learns of writes by
`watch`. The device's own side uses `set`, which no mask stops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ioas.errors import UsageError
from ioas.soft.pci import header

CONFIG_SIZE = 4096
"""Bytes of a PCI Express function's configuration space."""
CONVENTIONAL_SIZE = 256
"""Bytes of a conventional PCI function's."""
EXTENDED_START = 0x100
"""Where the list of extended capabilities begins."""


class _Watcher(NamedTuple):
    start: int
    end: int
    action: Callable[[], None]


class Config:
    """The configuration space of one function. Offsets are bytes from 0; values are little endian."""

    def __init__(
        self,
        size: int = CONVENTIONAL_SIZE,
        lock: threading.RLock | None = None,
        guard: Callable[[str, Callable[[], None]], None] = lambda access, action: action(),
    ) -> None:
        """`size` is what the function decodes: 256, or 4096 with a PCI Express capability.

        `guard` runs what watches a write, which may be a model's code; it is told what the write was.
        """
        self.size = size
        self.silent = False
        self.version = 0
        """Another one after each change, for who remembers what he has read."""
        """Nothing answers: reads are all ones, writes go nowhere. The device's own side goes on."""
        self._guard = guard
        self._lock = lock if lock is not None else threading.RLock()
        self._bytes = bytearray(CONFIG_SIZE)
        self._initial = bytearray(CONFIG_SIZE)
        self._writable = bytearray(CONFIG_SIZE)
        self._clearable = bytearray(CONFIG_SIZE)
        self._watchers: list[_Watcher] = []
        self._reset_watchers: list[Callable[[], None]] = []

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, as a configuration read returns them; bytes that are not decoded are 0xff."""
        with self._lock:
            if self.silent:
                return b"\xff" * length
            found = bytes(self._bytes[offset : min(offset + length, self.size)])
        return found.ljust(length, b"\xff")

    def write(self, offset: int, data: bytes) -> None:
        """A configuration write: masks decide, watchers are told. Bytes that are not decoded go nowhere."""
        with self._lock:
            if self.silent:
                return
            end = min(offset + len(data), self.size)
            for position, new in zip(range(offset, end), data, strict=False):
                self._write_byte(position, new)
            self.version += 1
            self._tell(offset, end)

    def _write_byte(self, position: int, new: int) -> None:
        writable = self._writable[position]
        kept = self._bytes[position] & ~writable | new & writable
        self._bytes[position] = kept & ~(new & self._clearable[position])

    def _tell(self, start: int, end: int) -> None:
        for watcher in self._watchers:
            if watcher.start < end and start < watcher.end:
                self._guard(f"a write to {start:#x} of configuration space", watcher.action)

    def get(self, offset: int, width: int) -> int:
        """The little-endian value of `width` bytes."""
        return int.from_bytes(self._bytes[offset : offset + width], "little")

    def set(self, offset: int, width: int, value: int) -> None:
        """The device's own write: masks and watchers are passed by."""
        with self._lock:
            self._bytes[offset : offset + width] = value.to_bytes(width, "little")
            self.version += 1

    def set_bits(self, offset: int, width: int, bits: int, on: bool) -> None:
        """The device's own change of `bits` in a register."""
        with self._lock:
            value = self.get(offset, width)
            self.set(offset, width, value | bits if on else value & ~bits)

    def declare(self, offset: int, width: int, value: int, *, writable: int = 0, clearable: int = 0) -> None:
        """Define a register: its reset value, and the bits software may write or clear by writing ones.

        Raises UsageError for a bit that is both, for a value that does not fit, and for a register outside of the
        space.
        """
        if not 0 <= value < 1 << 8 * width:
            raise UsageError(f"configuration register {offset:#x}: {value:#x} does not fit into {width} bytes")
        if writable & clearable:
            raise UsageError(f"configuration register {offset:#x}: bits {writable & clearable:#x} are both RW and RW1C")
        if offset < 0 or offset + width > self.size:
            raise UsageError(f"configuration register {offset:#x} lies outside of {self.size} bytes")
        with self._lock:
            for store, content in (
                (self._initial, value),
                (self._bytes, value),
                (self._writable, writable),
                (self._clearable, clearable),
            ):
                store[offset : offset + width] = content.to_bytes(width, "little")
            self.version += 1

    def watch(self, offset: int, width: int, action: Callable[[], None]) -> None:
        """Call `action` after each `write` (and `restore`) that touches any of the bytes."""
        self._watchers.append(_Watcher(offset, offset + width, action))

    def watch_reset(self, action: Callable[[], None]) -> None:
        """Call `action` after each `reset`: for owners that remember what a register held before."""
        self._reset_watchers.append(action)

    def reset(self) -> None:
        """Put every register back to its reset value. Watchers of writes are not told: nothing was written."""
        with self._lock:
            self._bytes[:] = self._initial
            self.version += 1
            for action in self._reset_watchers:
                action()

    def snapshot(self) -> bytes:
        """All bytes now, for `restore`."""
        with self._lock:
            return bytes(self._bytes)

    def restore(self, snapshot: bytes) -> None:
        """Put the writable bits back as they were in `snapshot`, as a kernel does after a reset (pci_restore_state)."""
        with self._lock:
            for position, writable in enumerate(self._writable):
                if writable:
                    self._bytes[position] = self._bytes[position] & ~writable | snapshot[position] & writable
            self.version += 1
            self._tell(0, self.size)

    def capabilities(self) -> Iterator[tuple[int, int]]:
        """(ID, offset) of the conventional capabilities, by walking the list as software does."""
        offset = self.get(header.CAPABILITIES, 1) & 0xFC
        if not self.get(header.STATUS, 2) & header.STATUS_CAPABILITIES:
            return
        for _ in range(48):  # the longest list that fits; a loop in it must not hang us
            if offset < 0x40:
                return
            yield self.get(offset, 1), offset
            offset = self.get(offset + 1, 1) & 0xFC

    def extended_capabilities(self) -> Iterator[tuple[int, int]]:
        """(ID, offset) of the extended capabilities, by walking the list from 0x100."""
        offset = EXTENDED_START
        for _ in range(480):
            if offset < EXTENDED_START or offset >= self.size or not (word := self.get(offset, 4)):
                return
            yield word & 0xFFFF, offset
            offset = word >> 20

    def find(self, capability: int) -> int | None:
        """The offset of the conventional capability with this ID; None when there is none."""
        return next((offset for found, offset in self.capabilities() if found == capability), None)

    def find_extended(self, capability: int) -> int | None:
        """The offset of the extended capability with this ID; None when there is none."""
        return next((offset for found, offset in self.extended_capabilities() if found == capability), None)
