"""`--mmio poll`: BARs as shared pages, which a thread of ours watches. Fast, and lossy.

A program's loads and stores are those of memory: nobody is stopped, nobody is told. What registers hold is *published*
into the pages; what software stores is found by looking. So a model declares which registers set something off
(`doorbell`), and these are looked at all the time. When one has changed, first what has been stored into the
others is given to the model, then the doorbells are, and then what all of them hold is published.

What cannot be as on hardware: a read has no side effects, and sees what a register held a moment ago; of two stores
before a look only the last is found; a store of what stands there already is none; the order of stores to different
registers is lost, except that doorbells come last. A doorbell that is write-only reads as ones between two stores, so
that it can be rung with the same value again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ioas.host import PAGE_SIZE, File
from ioas.run.mmio.cells import MOST, Cells, CompiledCells, Place, PlainCells
from ioas.run.mmio.compiled import library
from ioas.soft.pci import Bar, Function, RamPages, Register, access
from ioas.soft.pci.ram import REGION_SHIFT
from ioas.soft.vfio.device_file import DeviceFile

_EAGER = 0.01
"""Seconds for which it looks all the time after a doorbell or a new mapping."""
_NAP = 0.00005
"""Seconds between two looks at other times."""


class _Image(NamedTuple):
    """A polled BAR: the pages that programs map."""

    function: Function
    pages: RamPages
    registers: tuple[Register, ...]


class _Cell(NamedTuple):
    """A register, as it is looked after."""

    function: Function
    name: str
    """Where its value is held; empty for one that is write-only."""
    place: Place
    bar: int
    width: int
    """Bytes of an access."""


class Poller:
    """Serves all polled BARs of a machine, by one thread, which runs while there are any."""

    def __init__(self, say: Callable[[str], None], failed: Callable[[Exception], None]) -> None:
        """`say` is told what is polled; `failed`, what the thread raises."""
        compiled = library()
        self._cells: Cells = CompiledCells(compiled) if compiled else PlainCells()
        self._say = say
        self._failed = failed
        self._lock = threading.Lock()
        """Held while cells are looked after, and to change what they are."""
        self._images: dict[tuple[File, int], _Image] = {}
        self._watched: list[tuple[Function, list[_Cell]]] = []
        self._stores: list[Callable[[int], None]] = []
        self._known: list[int] = []
        """What stands in the page, for each."""
        self._wanted = 0
        self._until = 0.0
        self._thread: threading.Thread | None = None
        self._closing = False

    def image(self, file: File, offset: int) -> RamPages | None:
        """The pages that stand for the BAR at `offset` of a device file; None for one that has to be trapped.

        That is one without a doorbell, or with more registers than are looked after. Raises OSError for want of memory.
        """
        index = offset >> REGION_SHIFT
        bar = file.device.function.bars[index] if isinstance(file, DeviceFile) else None
        if bar is None or not isinstance(file, DeviceFile):
            return None
        found = self._images.get((file, index))
        if found is None:
            found = _make(file.device.function, bar)
            if not any(register.doorbell for register in found.registers):
                return None
            if sum(len(each.registers) for each in (*self._images.values(), found)) > MOST:
                why = f"it has more registers than the {MOST} that can be polled"
                self._say(f"BAR {index} of {found.function} is trapped: {why}")
                return None
            file.device.mapped_memory.add(found.pages)
            with self._changing():
                self._images[file, index] = found
            bells = ", ".join(register.name for register in found.registers if register.doorbell)
            self._say(
                f"BAR {index} of {found.function} is polled (doorbells: {bells}): repeated equal stores, what is "
                "overwritten before it is seen, and what reading would set off are lost"
            )
        return found.pages

    def forget(self, file: File) -> None:
        """`file` is closed."""
        gone = [key for key in self._images if key[0] is file]
        if gone and isinstance(file, DeviceFile):
            with self._changing():
                for key in gone:
                    file.device.mapped_memory.remove(self._images.pop(key).pages)

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._cells.interrupt()
        if self._thread:
            self._thread.join()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """While the images are changed: nobody looks."""
        self._wanted += 1
        self._cells.interrupt()
        with self._lock:
            self._wanted -= 1
            yield
            self.rebuild()

    def run(self) -> None:
        """Look after the cells until `close`; what the thread does."""
        while not self._closing:
            while self._wanted:
                time.sleep(_NAP)
            with self._lock:
                try:
                    self._look()
                except Exception as error:  # the others must go on being served
                    self._failed(error)
            if time.monotonic() > self._until:
                time.sleep(_NAP)

    def _look(self) -> None:
        cells, known = self._cells, self._known
        if changed := cells.wait():
            for index, value in changed:
                known[index] = value
                self._stores[index](value)
            self._until = time.monotonic() + _EAGER
        index = 0
        for function, watched in self._watched:
            with function.lock:
                values, alive = function.register_values, function.failure is None
                held = [values[cell.name] if cell.name and alive else _ones(cell.place.width) for cell in watched]
            for value in held:
                if value != known[index] and cells.publish(index, value):
                    known[index] = value
                index += 1

    def rebuild(self) -> None:
        """The images are others; the lock is held."""
        self._watched = [(image.function, _cells(image)) for image in self._images.values()]
        cells = [cell for _, watched in self._watched for cell in watched]
        self._stores = list(map(_store, cells))
        self._cells.set([cell.place for cell in cells])
        self._known = [self._cells.value(index) for index in range(len(cells))]
        self._until = time.monotonic() + _EAGER
        if self._images and not self._thread:
            self._thread = threading.Thread(target=self.run, name="ioas-poller", daemon=True)
            self._thread.start()


def _make(function: Function, bar: Bar) -> _Image:
    """The image of a BAR, with what its registers hold."""
    registers = tuple(each for each in function.declared.registers if each.bar == bar.index)
    pages = RamPages(max(bar.size, PAGE_SIZE), bar.index << REGION_SHIFT)
    for each in registers:
        held = _ones(each.width) if each.access == "WO" else function.register_values[each.name]
        pages.view[each.offset : each.offset + each.width] = held.to_bytes(each.width, "little")
    return _Image(function, pages, registers)


def _cells(image: _Image) -> list[_Cell]:
    return [
        _Cell(
            image.function,
            "" if each.access == "WO" else each.name,
            Place(image.pages.view, each.offset, each.width, each.doorbell),
            each.bar,
            max(each.sizes),
        )
        for each in image.registers
    ]


def _ones(width: int) -> int:
    return (1 << 8 * width) - 1


def _store(cell: _Cell) -> Callable[[int], None]:
    """Gives the model what software has stored, in the widest accesses that the register takes."""
    offset, whole, width = cell.place.offset, cell.place.width, cell.width
    writers = [access.writer(cell.function, cell.bar, offset + at, width) for at in range(0, whole, width)]
    write = writers[0]

    def at_once(value: int) -> None:
        write(value.to_bytes(whole, "little"))

    def in_parts(value: int) -> None:
        data = value.to_bytes(whole, "little")
        for number, write_part in enumerate(writers):
            write_part(data[number * width : (number + 1) * width])

    return at_once if width == whole else in_parts
