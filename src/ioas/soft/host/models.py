"""The device models that `--device` knows, by entry point group "ioas.devices".

A package outside this repository adds models by declaring entry points of that group in its own metadata.
The built-in ones are listed here too, because a checkout on PYTHONPATH has no metadata to find them by.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.pci import Function

GROUP = "ioas.devices"

_BUILT_IN = {"edu": "ioas.devices.edu:Edu", "testdev": "ioas.devices.testdev:TestDevice"}


def model_names() -> list[str]:
    """The names that `load_model` and `--device` take, sorted."""
    return sorted({*_BUILT_IN, *_registered()})


def load_model(name: str) -> type[Function]:
    """The class of a model. Raises UsageError: there is no such model, or its package does not load."""
    from ioas.soft.pci import Function

    place = _BUILT_IN.get(name) or _registered().get(name)
    if place is None:
        raise UsageError(f"unknown device model {name!r}; known: {', '.join(model_names())}")
    try:
        model = resolve_name(place.partition("[")[0].rstrip())  # "module:class [extras]"
    except Exception as error:  # a package that is not ours runs its own code when it is imported
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"device model {name!r} ({place}) cannot be loaded: {reason}") from error
    if not (isinstance(model, type) and issubclass(model, Function)):
        raise UsageError(f"device model {name!r} ({place}) is not a PCI function")
    return model


def _registered() -> dict[str, str]:
    """Where the models of other packages are, as "module:class"; they cannot take built-in names over."""
    from importlib.metadata import entry_points  # reads every package's metadata: not for a machine of built-in models

    return {entry.name: entry.value for entry in entry_points(group=GROUP)}
