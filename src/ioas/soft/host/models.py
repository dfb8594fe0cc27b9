"""The device models that `--device` knows, by entry point group "ioas.devices".

A package outside this repository adds models by declaring entry points of that group in its own metadata.
The built-in ones are listed here too, because a checkout on PYTHONPATH has no metadata to find them by.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.pci import Function

GROUP = "ioas.devices"

_BUILT_IN = {"edu": "ioas.devices.edu:Edu"}


def model_names() -> list[str]:
    """The names that `load_model` and `--device` take, sorted."""
    return sorted(_places())


def load_model(name: str) -> type[Function]:
    """The class of a model. Raises UsageError: there is no such model, or its package does not load."""
    from ioas.soft.pci import Function

    place = _places().get(name)
    if place is None:
        raise UsageError(f"unknown device model {name!r}; known: {', '.join(model_names())}")
    module, _, attribute = place.partition(":")
    try:
        model = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"device model {name!r} ({place}) cannot be loaded: {error}") from error
    if not (isinstance(model, type) and issubclass(model, Function)):
        raise UsageError(f"device model {name!r} ({place}) is not a PCI function")
    return model


def _places() -> dict[str, str]:
    """Where each model is, as "module:class". Built-in names cannot be taken over by other packages."""
    found = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    return found | _BUILT_IN
