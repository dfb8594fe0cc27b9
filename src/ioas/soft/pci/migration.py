"""The state of a function as bytes, to go on with elsewhere.

A model declares that it can: ``migrates = Migration()``. Its registers, its memory, its timers, its interrupt level
and messages that nobody has heard yet are taken along without its help; what else it holds it gives by `save` and takes
by `load`. Timers are taken along by the names of their callbacks: methods of the model, or functools.partial of such
with plain values. Configuration space is not part of the state: whoever has the device opens it elsewhere too, and sets
it up, as with any device under VFIO.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function
    from ioas.soft.pci.model_timers import ModelTimer

_MAGIC = b"ioas"
_VERSION = 1
_HEADER = Struct("<4sHHIQ")
"""Magic, version, zero, bytes of the description (JSON), bytes that follow it."""
_DMA = "dma."
_LONGEST = 1e9
"""Seconds."""
_NOT_MODELS = ("builtins", "ioas.soft.pci.function", "ioas.soft.pci.placed", "ioas.soft.pci.virtual")
LARGEST = 1 << 32
"""Bytes that a state may have."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Migration:
    """What a model can: `p2p`, be quiet without being stopped; `pre_copy`, show its state while it runs."""

    p2p: bool = True
    pre_copy: bool = True


class StateError(Exception):
    """A state that cannot be told, or bytes that are none of this model's."""


def save(function: Function) -> bytes:
    """The state now. Raises StateError for what is under way and has no name, and when the model's `save` fails."""
    with function.lock:
        own: list[bytes] = []
        function.guard.run("saving its state", lambda: own.append(bytes(function.save())))
        if function.failure is not None or not own:
            raise StateError(f"{function} has failed, so it has no state")
        memories = [bytes(ram.of(function).view) for ram in function.rams]
        text = json.dumps(_describe(function, [len(own[0]), *map(len, memories)])).encode()
        body = b"".join([own[0], *memories])
        return _HEADER.pack(_MAGIC, _VERSION, 0, len(text), len(body)) + text + body


def _describe(function: Function, lengths: list[int]) -> Mapping[str, object]:
    return {
        "model": function.model,
        "registers": dict(function.register_values),
        "timers": [_told(function, timer) for timer in function.running_timers],
        "interrupts": function.interrupts.undelivered(),
        "lengths": lengths,
    }


def _told(function: Function, timer: ModelTimer) -> list[object]:
    if timer.again is not None:
        return [0.0, timer.during, _named(function, timer.again)]
    return [float(timer.left), timer.during, _named(function, timer.action)]


def _named(function: Function, value: object) -> Json:
    """A plain value, or a callback as {"call": name, "with": arguments, "and": keywords}."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not callable(value):
        raise StateError(f"{function} has something under way with {value!r}, which cannot be taken along")
    whole = value if isinstance(value, partial) else partial(value)
    called = whole.func
    name = getattr(called, "__name__", "")
    for prefix, owner in _owners(function, name):
        if getattr(owner, name) == called:
            return {
                "call": prefix + name,
                "with": [_named(function, each) for each in whole.args],
                "and": {key: _named(function, each) for key, each in whole.keywords.items()},
            }
    raise StateError(f"{function} has {name or called!r} under way, which is no method of it: it cannot be taken along")


def _owners(function: Function, name: str) -> Iterator[tuple[str, object]]:
    """Who may have a callback of this name: the model, by a method of its own, and its DMA by `when_present`.

    Not Python's own, such as `__init__`, which would make the function anew.
    """
    of_models = [kind for kind in type(function).__mro__ if kind.__module__ not in _NOT_MODELS]
    if not name.startswith("__") and any(name in vars(kind) for kind in of_models):
        yield "", function
    if name == "when_present":
        yield _DMA, function.dma


class State:
    """A state that has been read from bytes and fits a function."""

    def __init__(self, function: Function, description: dict[str, object], body: bytes) -> None:
        """Raises StateError, or whatever the description's shape makes wrong (ValueError, TypeError, KeyError)."""
        self._function = function
        if description["model"] != function.model:
            raise StateError(f"the state is one of {description['model']!r}, and {function} is a {function.model}")
        self._registers = {name: _whole(value) for name, value in _dict(description["registers"]).items()}
        if self._registers.keys() != function.register_values.keys():
            raise StateError(f"the state has other registers than {function}: another version of the model")
        self._timers = [_timer(function, each) for each in _list(description["timers"])]
        interrupts = _dict(description["interrupts"]).items()
        self._interrupts = {kind: [_whole(each) for each in _list(vectors)] for kind, vectors in interrupts}
        lengths = [_whole(each) for each in _list(description["lengths"])]
        memories = [ram.size for ram in function.rams]
        if lengths[1:] != memories or sum(lengths) != len(body):
            raise StateError(f"the state has memory of {lengths[1:]} bytes, and {function} of {memories}")
        self._own, self._memory = body[: lengths[0]], body[lengths[0] :]

    def load(self) -> None:
        """Let the function be in this state. Raises StateError when the model's `load` fails."""
        function = self._function
        with function.lock:
            function.cancel_timers()
            for name, value in self._registers.items():
                setattr(function, name, value)
            start = 0
            for ram in function.rams:
                ram.of(function).view[:] = self._memory[start : start + ram.size]
                start += ram.size
            function.guard.run("loading a state", lambda: function.load(self._own))
            if function.failure is not None:
                raise StateError(str(function.failure))
            for left, during, action in self._timers:
                function.schedule(left, action, during)
            function.interrupts.take_undelivered(self._interrupts)


def parse(function: Function, data: bytes | bytearray) -> tuple[State | None, int]:
    """The first state in `data`, which may go on behind it, and its length; (None, 0) when it is not whole yet.

    Raises StateError as soon as the bytes cannot become a state of `function`.
    """
    if not _MAGIC.startswith(bytes(data[: len(_MAGIC)])) and not data.startswith(_MAGIC):
        raise StateError("these bytes are no state of a device model")
    if len(data) < _HEADER.size:
        return None, 0
    _, version, zero, text, body = _HEADER.unpack_from(data)
    if version != _VERSION or zero or text + body > LARGEST:
        raise StateError(f"a state of version {version} cannot be read")
    end = _HEADER.size + text + body
    if len(data) < end:
        return None, 0
    try:
        description = _dict(json.loads(data[_HEADER.size : _HEADER.size + text]))
        return State(function, description, bytes(data[_HEADER.size + text : end])), end
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateError(f"the description of the state is wrong: {type(error).__name__}: {error}") from error


def signature(state: bytes) -> bytes:
    """What of a state says whether anything has changed: all but the time that passes."""
    _, _, _, text, _ = _HEADER.unpack_from(state)
    description = json.loads(state[_HEADER.size : _HEADER.size + text])
    description["timers"] = [each[1:] for each in description["timers"]]
    return json.dumps(description).encode() + state[_HEADER.size + text :]


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} has no names")
    return value


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _timer(function: Function, value: object) -> tuple[float, str, Callable[[], None]]:
    """Seconds that are left, what it is called in messages, and what it does."""
    left, during, named = _list(value)
    if type(left) is not float or not 0 <= left < _LONGEST:
        raise TypeError(f"{left!r} is no time")
    return left, str(during), _callback(function, named)


def _callback(function: Function, named: object) -> Callable[[], None]:
    """What `_named` has described. Raises StateError for a method that the model does not have."""
    action = _value(function, named)
    if not callable(action):
        raise TypeError(f"{named!r} is no callback")
    return action


def _value(function: Function, named: object) -> object:
    if not isinstance(named, dict):
        return named
    call = str(named["call"])
    name = call.removeprefix(_DMA)
    owner = dict(_owners(function, name)).get(call[: len(call) - len(name)])
    called = None if owner is None else getattr(owner, name, None)
    if not callable(called):
        raise StateError(f"{function} has no {call!r}: another version of the model")
    arguments = [_value(function, each) for each in _list(named["with"])]
    keywords = {key: _value(function, each) for key, each in _dict(named["and"]).items()}
    return partial(called, *arguments, **keywords) if arguments or keywords else called
