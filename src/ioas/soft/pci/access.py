"""Reads and writes of a function's BARs: whether it decodes them, and who answers - MSI-X, the ROM, or the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ioas.soft.pci.bars import ROM_INDEX, Bar, Rom
from ioas.soft.pci.failure import RAISED, ModelError, describe

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function


def read(function: Function, index: int, offset: int, length: int) -> bytes:
    """See `Function.bar_read`."""
    bar = function.bar(index)
    with function.lock:
        if not _decodes(function, bar, offset, length):
            return b"\xff" * length
        if (msix := function.interrupts.msix) is not None and msix.covers(index, offset):
            return msix.read(index, offset, length)
        if isinstance(bar, Rom):
            return bar.contents[offset : offset + length]
        if function.rams and (found := _memory_at(function, index, offset, length)) is not None:
            return found.tobytes()
        answer = _ask_model(function, index, offset, length)
    return _ones(function, index, offset, length) if answer is None else answer


def _ones(function: Function, index: int, offset: int, length: int) -> bytes:
    """What a read finds that nothing has answered."""
    if function.failure is None:
        function.record(f"a read of {length} bytes at {offset:#x} of BAR {index} found nothing that answers")
    return b"\xff" * length


def write(function: Function, index: int, offset: int, data: bytes) -> None:
    """See `Function.bar_write`."""
    bar = function.bar(index)
    with function.lock:
        if index == ROM_INDEX or not _decodes(function, bar, offset, len(data)):
            return
        if (msix := function.interrupts.msix) is not None and msix.covers(index, offset):
            msix.write(index, offset, data)
        elif function.rams and (found := _memory_at(function, index, offset, len(data))) is not None:
            found[:] = data
        elif not _tell_model(function, index, offset, data):
            _unanswered(function, index, offset, len(data))


def reader(function: Function, index: int, offset: int, length: int) -> Callable[[], bytes]:
    """`read` at one place, for who does it often: what does not change is asked here and not each time."""
    if not _is_models(function, index, offset, length):
        return partial(read, function, index, offset, length)
    lock = function.lock

    def read_here() -> bytes:
        with lock:
            if not function.memory_enabled:
                return read(function, index, offset, length)  # which says why it goes nowhere
            answer = _ask_model(function, index, offset, length)
        return _ones(function, index, offset, length) if answer is None else answer

    return read_here


def writer(function: Function, index: int, offset: int, length: int) -> Callable[[bytes], None]:
    """The same for `write`, of `length` bytes."""
    if not _is_models(function, index, offset, length):
        return partial(write, function, index, offset)
    lock = function.lock

    def write_here(data: bytes) -> None:
        with lock:
            if not function.memory_enabled:
                write(function, index, offset, data)  # which says why it goes nowhere
            elif not _tell_model(function, index, offset, data):
                _unanswered(function, index, offset, length)

    return write_here


def _is_models(function: Function, index: int, offset: int, length: int) -> bool:
    """Whether those bytes of BAR `index` are the model's alone."""
    bar = function.bar(index)
    if index == ROM_INDEX or bar.is_io or not 0 <= offset <= bar.size - length:
        return False
    msix = function.interrupts.msix
    return not (msix and msix.covers(index, offset)) and not any(
        each.touches(index, offset, offset + length) for each in function.rams
    )


def _unanswered(function: Function, index: int, offset: int, length: int) -> None:
    function.record(f"a write of {length} bytes at {offset:#x} of BAR {index} found nothing that answers")


def _memory_at(function: Function, index: int, offset: int, length: int) -> memoryview | None:
    """Those bytes, where a BAR is memory."""
    for ram in function.rams:
        if ram.covers(index, offset, length):
            return ram.of(function).view[offset - ram.offset : offset - ram.offset + length]
    return None


def _decodes(function: Function, bar: Bar, offset: int, length: int) -> bool:
    on = function.io_enabled if bar.is_io else function.memory_enabled
    if bar.index == ROM_INDEX and isinstance(bar, Rom):
        on = on and bar.enabled(function.config)
    if not on and function.failure is None:
        function.record(f"an access at {offset:#x} of BAR {bar.index} went nowhere: decoding is off")
    return on and 0 <= offset <= bar.size - length


def _ask_model(function: Function, index: int, offset: int, length: int) -> bytes | None:
    if function.standstill.pace == "stopped":
        return None
    try:
        answer = function.read_window(index, offset, length)
        if answer is not None and len(answer) != length:
            raise ModelError(f"it answered with {len(answer)} bytes")
    except RAISED as error:
        function.guard.fail(describe(function.declared, index, offset, length), error)
        return None
    return answer


def _tell_model(function: Function, index: int, offset: int, data: bytes) -> bool:
    """Whether the model took it, or died of it."""
    if function.standstill.pace == "stopped":
        return False
    try:
        return function.write_window(index, offset, data)
    except RAISED as error:
        function.guard.fail(describe(function.declared, index, offset, len(data), data), error)
        return True
