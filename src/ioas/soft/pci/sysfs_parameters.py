"""Parameters of modules that can be changed, below /sys/module (kernel/params.c, param_set_bool and uint; 7.3)."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ioas.soft.pci.nodes import Text, Tree

if TYPE_CHECKING:
    from ioas.soft.iommu import System
    from ioas.soft.iommu.system import Type1Parameters

UNSAFE_NOIOMMU = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
_UNSIGNED = re.compile(r"\+?(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(0|[1-9][0-9]*))")
_FIRST = {"y": True, "Y": True, "t": True, "T": True, "1": True, "n": False, "N": False, "f": False, "F": False}
_FIRST["0"] = False
_SECOND = {"n": True, "N": True, "f": False, "F": False}


def serve_switch(tree: Tree, path: str, get: Callable[[], bool], change: Callable[[bool], None]) -> None:
    """Let the parameter at `path`, which the tree has, show what `get` says and hand what is written to `change`."""
    _serve(tree, path, lambda: "Y" if get() else "N", lambda data: change(_truth(data)))


def _serve(tree: Tree, path: str, show: Callable[[], str], change: Callable[[bytes], None]) -> None:
    node = tree.get(path)
    if not isinstance(node, Text):
        raise TypeError(f"{path} is no text")
    node.contents = lambda: f"{show()}\n".encode()

    def write(data: bytes) -> None:
        if data:  # nothing is written by writing nothing
            change(data)

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


def serve_type1(tree: Tree, parameters: Type1Parameters) -> None:
    """The parameters of the type 1 container: how many mappings it has, and whether it uses large pages."""
    module = "/sys/module/vfio_iommu_type1/parameters"

    def change_limit(data: bytes) -> None:
        parameters.dma_entry_limit = _unsigned(data)

    def change_pages(value: bool) -> None:
        parameters.disable_hugepages = value

    _serve(tree, f"{module}/dma_entry_limit", lambda: str(parameters.dma_entry_limit), change_limit)
    serve_switch(tree, f"{module}/disable_hugepages", lambda: parameters.disable_hugepages, change_pages)


def serve_unsafe_noiommu(tree: Tree, system: System) -> None:
    """The parameter of VFIO's unsafe mode: whether vfio-pci takes devices without an IOMMU."""

    def change(value: bool) -> None:
        system.unsafe_noiommu = value

    serve_switch(tree, UNSAFE_NOIOMMU, lambda: system.unsafe_noiommu, change)


def _unsigned(data: bytes) -> int:
    """As kstrtouint reads it, in any base by its prefix. Raises OSError: EINVAL, ERANGE."""
    found = _UNSIGNED.fullmatch(data.decode(errors="replace").removesuffix("\n"))
    if found is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), data.decode(errors="replace").strip())
    hexadecimal, octal, decimal = found.groups()
    number = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    if number >> 32:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE), str(number))
    return number


def _truth(data: bytes) -> bool:
    """As kstrtobool reads it: "y", "1", "on" and what begins like them. Raises OSError(EINVAL)."""
    text = data.decode(errors="replace")
    found = _FIRST.get(text[:1])
    if found is None and text[:1] in ("o", "O"):
        found = _SECOND.get(text[1:2])
    if found is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), text.strip())
    return found
