"""SR-IOV in sysfs: what the directories of a PF and of its VFs show (drivers/pci/iov.c, 7.3)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from ioas.soft.pci.capabilities import SrIov
from ioas.soft.pci.function import Function
from ioas.soft.pci.nodes import Text, Tree
from ioas.soft.pci.sysfs_function import add_function, path_of, remove_function
from ioas.soft.pci.sysfs_iommu import add_to_iommu, remove_from_iommu
from ioas.soft.pci.virtual import VirtualFunction

_U16_MAX = 0xFFFF
_TRUE, _FALSE = ("1", "y", "Y", "on", "true"), ("0", "n", "N", "off", "false")


@dataclass(slots=True)
class _Settings:
    """What can be set of a PF: `store` takes the number of VFs that there shall be, up to `total`."""

    total: int
    store: Callable[[int], None]
    autoprobe: bool = True
    """Whether a driver is looked for when a VF appears; one that is meant for a driver gets it all the same."""

    def write_number(self, data: bytes) -> None:
        """sriov_numvfs_store. Raises OSError: EINVAL, ERANGE, and what `store` does."""
        number = _u16(data)
        if number > self.total:
            raise _error(errno.ERANGE, str(number))
        self.store(number)

    def write_autoprobe(self, data: bytes) -> None:
        """sriov_drivers_autoprobe_store. Raises OSError(EINVAL)."""
        word = data.decode(errors="replace").strip()
        if word not in _TRUE + _FALSE:
            raise _error(errno.EINVAL, word)
        self.autoprobe = word in _TRUE


def add_physical(tree: Tree, function: Function, store: Callable[[int], None]) -> bool:
    """Show what a PF has besides; False for a function without SR-IOV. `store`: see `_Settings`."""
    placed = function.find(SrIov)
    if placed is None:
        return False
    capability = placed[0]
    node = _Settings(capability.total, store)
    path = path_of(function)
    for name, value in (
        ("totalvfs", str(capability.total)),
        ("offset", str(capability.offset)),
        ("stride", str(capability.stride)),
        ("vf_device", f"{capability.vf.device_id:x}"),
        ("vf_total_msix", "0"),
    ):
        tree.add(f"{path}/sriov_{name}", Text(f"{value}\n".encode()))

    def number() -> bytes:
        return f"{len(function.virtual_functions)}\n".encode()

    def autoprobe() -> bytes:
        return f"{int(node.autoprobe)}\n".encode()

    tree.add(f"{path}/sriov_numvfs", Text(number, 0o644, node.write_number))
    tree.add(f"{path}/sriov_drivers_autoprobe", Text(autoprobe, 0o644, node.write_autoprobe))
    return True


def add_virtual(tree: Tree, function: VirtualFunction) -> None:
    """Show a VF, which has no driver yet."""
    add_function(tree, function, None)
    add_to_iommu(tree, function)
    path, physical = path_of(function), path_of(function.physical)
    tree.add(f"{path}/sriov_vf_msix_count", Text(b"", 0o200))
    tree.link(f"{path}/physfn", physical)
    tree.link(f"{physical}/virtfn{function.index}", path)


def remove_virtual(tree: Tree, function: VirtualFunction) -> None:
    """Show a VF, which has no driver any more, no more."""
    tree.remove(f"{path_of(function.physical)}/virtfn{function.index}")
    remove_from_iommu(tree, function)
    remove_function(tree, function)


def _u16(data: bytes) -> int:
    """A number as kstrtou16 takes it, in base 8, 10 or 16. Raises OSError(EINVAL), for one of more than 16 bits too."""
    word = data.decode(errors="replace").removesuffix("\n").removeprefix("+")
    octal = len(word) > 1 and word[0] == "0" and word[1] not in "xX"
    try:
        if not word[:1].isdigit() or "_" in word:
            raise ValueError(word)
        number = int(word, 8 if octal else 0)
    except ValueError:
        number = -1
    if not 0 <= number <= _U16_MAX:
        raise _error(errno.EINVAL, word)
    return number


def _error(number: int, what: str) -> OSError:
    return OSError(number, os.strerror(number), what)
