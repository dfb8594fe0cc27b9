"""A model that raises in its own code: what is noted, and how the function falls off its bus.

Hardware with a bug does not stop the machine it stands in. Neither may a model: whatever it raises, in whatever thread,
ends here. It is told as a `Failure`, with the access that caused it, and from then on the function is *dead*, as one
whose link has gone down: it reads as all ones, configuration space included, writes go nowhere, it does no DMA, its
timers are gone, its memory is lost and its interrupt line drops. Only what resets the whole bus brings it back
(`Function.reinitialise`): the bits that start the other resets stand in the device, which does not hear them.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ioas.soft.pci.declaration import Declaration
    from ioas.soft.pci.function import Function

_log = logging.getLogger(__name__)
_OURS = os.path.dirname(__file__) + os.sep

RAISED = (Exception, SystemExit)
"""What a model's code may not end the caller with. Ctrl-C is the user's."""


class ModelError(Exception):
    """A model answered something that is no answer."""


class Failure(NamedTuple):
    """One model that failed: `function` is its name and address, `access` what reached it, as a sentence's part."""

    function: str
    access: str
    error: BaseException

    def __str__(self) -> str:
        """The whole sentence, ending with the line of the model's code that raised."""
        kind = type(self.error).__name__
        text = f": {self.error}" if str(self.error) else ""
        return f"the model of {self.function} failed in {self.access}: {kind}{text}{self._place()}"

    def _place(self) -> str:
        """The innermost line outside of this package: the model's own, or what it called."""
        frames = [frame for frame in traceback.extract_tb(self.error.__traceback__) if not _ours(frame.filename)]
        return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""

    def trace(self) -> list[str]:
        """The traceback, a line each."""
        return "".join(traceback.format_exception(self.error)).splitlines()


def _ours(filename: str) -> bool:
    return filename.startswith(_OURS)


FailureListener = Callable[[Failure], None]


def log(failure: Failure) -> None:
    """What is done with a failure where nobody else listens: logged, with the traceback."""
    _log.error("%s; it is dead until its bus is reset", failure, exc_info=failure.error)


class Guard:
    """Stands between a function and those who call its model's code."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self.failure: Failure | None = None
        """Why the function is dead; None as long as it lives."""
        self.listeners: list[FailureListener] = [log]
        """Told of each failure, on the thread that caused it, with the function's lock held."""

    def run(self, access: str, code: Callable[[], None]) -> None:
        """Run `code` of the model with the function's lock held, unless the function is dead."""
        if self.failure is not None:
            return
        try:
            code()
        except RAISED as error:
            self.fail(access, error)

    def fail(self, access: str, error: BaseException) -> None:
        """The model raised `error`: off the bus with it. Of a function that is dead already nothing more is told."""
        if self.failure is not None:
            return
        function = self._function
        self.failure = Failure(str(function), access, error)
        for timer in tuple(function.running_timers):
            timer.cancel()
        function.interrupts.drive(False)
        function.config.silent = True
        for pages in function.ram_pages.values():  # what programs have mapped is not asked for
            pages.view[:] = b"\xff" * pages.size
        for listener in tuple(self.listeners):
            listener(self.failure)

    def revive(self) -> None:
        """The bus is being reset: the function answers again."""
        self.failure = None
        self._function.config.silent = False


def describe(declared: Declaration, bar: int, offset: int, length: int, data: bytes | None = None) -> str:
    """An access to a BAR in words: "a write of 4 bytes (0x5) to factorial (BAR 0, offset 0x8)"."""
    size = f"{length} byte{'' if length == 1 else 's'}"
    what = f"a read of {size}" if data is None else f"a write of {size} ({int.from_bytes(data, 'little'):#x})"
    register = declared.map.get((bar, offset))
    place = f"BAR {bar}, offset {offset:#x}"
    preposition = "of" if data is None else "to"
    return f"{what} {preposition} {f'{register.name} ({place})' if register else place}"


def name_of(action: Callable[..., object]) -> str:
    """What a callback is called in the model's code."""
    while isinstance(action, partial):
        action = action.func
    return getattr(action, "__name__", type(action).__name__)
