"""ioas gives every program an IOMMU: Linux's iommufd and VFIO, the running kernel's own and a software one.

Names are loaded on first use, so that ``import ioas`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ioas.api import KernelHost as KernelHost, SoftHost as SoftHost

_HOMES = {"KernelHost": "ioas.api", "SoftHost": "ioas.api"}

__all__ = ["KernelHost", "SoftHost", "__version__"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
