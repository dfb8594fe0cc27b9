"""Parameters of modules that can be changed: switches below /sys/module (kernel/params.c, param_set_bool; 7.3)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ioas.soft.pci.nodes import Text, Tree

if TYPE_CHECKING:
    from ioas.soft.iommu import System

UNSAFE_NOIOMMU = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
_FIRST = {"y": True, "Y": True, "t": True, "T": True, "1": True, "n": False, "N": False, "f": False, "F": False}
_FIRST["0"] = False
_SECOND = {"n": True, "N": True, "f": False, "F": False}


def serve_switch(tree: Tree, path: str, get: Callable[[], bool], change: Callable[[bool], None]) -> None:
    """Let the parameter at `path`, which the tree has, show what `get` says and hand what is written to `change`."""
    node = tree.get(path)
    if not isinstance(node, Text):
        raise TypeError(f"{path} is no text")
    node.contents = lambda: b"Y\n" if get() else b"N\n"

    def write(data: bytes) -> None:
        if data:  # nothing is written by writing nothing
            change(_truth(data))

    node.write = write


def serve_unsafe_interrupts(tree: Tree, system: System) -> None:
    """The parameter allow_unsafe_interrupts of iommufd and of the type1 container."""
    for module in system.unsafe_interrupts:
        serve_switch(
            tree,
            f"/sys/module/{module}/parameters/allow_unsafe_interrupts",
            partial(system.unsafe_interrupts.__getitem__, module),
            partial(system.unsafe_interrupts.__setitem__, module),
        )


def serve_unsafe_noiommu(tree: Tree, system: System) -> None:
    """The parameter of VFIO's unsafe mode: whether vfio-pci takes devices without an IOMMU."""

    def change(value: bool) -> None:
        system.unsafe_noiommu = value

    serve_switch(tree, UNSAFE_NOIOMMU, lambda: system.unsafe_noiommu, change)


def _truth(data: bytes) -> bool:
    """As kstrtobool reads it: "y", "1", "on" and what begins like them. Raises OSError(EINVAL)."""
    text = data.decode(errors="replace")
    found = _FIRST.get(text[:1])
    if found is None and text[:1] in ("o", "O"):
        found = _SECOND.get(text[1:2])
    if found is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), text.strip())
    return found
