"""Testing with ioas: fixtures for those who write drivers, and the suite that every host has to pass.

`ioas.testing.plugin` is a pytest plugin that comes with the package; docs/testing.md shows what it offers. The suite
is `ioas.testing.suite`: ``pytest --pyargs ioas.testing.suite``. Names are loaded on first use, because every run of
pytest imports the plugin, whether its tests need ioas or not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.testing.failures import expect_failure as expect_failure
    from ioas.testing.faults import expect_faults as expect_faults
    from ioas.testing.program import Ran as Ran, Run as Run

_HOMES = {
    "Ran": "ioas.testing.program",
    "Run": "ioas.testing.program",
    "expect_failure": "ioas.testing.failures",
    "expect_faults": "ioas.testing.faults",
}

__all__ = ["Ran", "Run", "expect_failure", "expect_faults"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
