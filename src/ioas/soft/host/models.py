"""The device models that `--device` knows, by entry point group "ioas.devices"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.soft.pci import Function


def models() -> Mapping[str, type[Function]]:
    """Every model by its name, loaded; built-in ones are there even without installed metadata."""
    raise NotImplementedError
