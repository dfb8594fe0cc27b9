"""Which paths are the machine's, and what stands there.

The machine has a tree of nodes (`ioas.soft.pci.Tree`) that begins like the real file system: /sys/bus, /dev and so on
stand in both (`_COMMON`). What the tree has below them hides what the real system has there; `_HIDDEN` places are the
machine's even when it has nothing there, so that a program never meets the real machine's devices among ours.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from ioas.soft.pci.nodes import Directory, Node, Tree

_COMMON = (
    "/ /dev /dev/char /sys /sys/bus /sys/class /sys/dev /sys/dev/block /sys/dev/char /sys/devices /sys/devices/system "
    "/sys/devices/virtual /sys/firmware /sys/kernel /sys/kernel/debug /sys/module"
)
_HIDDEN = (
    "/dev/iommu",
    "/dev/vfio",
    "/sys/bus/pci",
    "/sys/class/iommu",
    "/sys/class/vfio",
    "/sys/class/vfio-dev",
    "/sys/kernel/iommu_groups",
)
_MERGED = (
    "/dev/vfio /dev/vfio/devices /sys/bus/pci /sys/bus/pci/devices /sys/bus/pci/drivers /sys/bus/pci/drivers/pcieport "
    "/sys/bus/pci/drivers/vfio-pci /sys/bus/pci/slots /sys/class/iommu /sys/class/misc /sys/class/pci_bus "
    "/sys/class/vfio /sys/class/vfio-dev /sys/devices/pci0000:00 /sys/devices/virtual/iommu /sys/devices/virtual/misc "
    "/sys/devices/virtual/vfio /sys/kernel/iommu_groups"
)
"""Directories in which the machine's devices and the real ones can stand beside each other."""
_ROOT_COMPLEX = re.compile(r"/sys/devices/pci[0-9a-f]{4,8}:[0-9a-f]{2}")


class Located(NamedTuple):
    """A node of the machine and its path without links."""

    path: str
    node: Node | Elsewhere


class Elsewhere:
    """Stands for a node of the real file system that a path leads to through the machine's part."""


class View:
    """The machine's part of the file system."""

    def __init__(self, tree: Tree, with_real: bool = False) -> None:
        """`with_real`: the real machine's devices are seen as well."""
        self._tree = tree
        self._common = frozenset(f"{_COMMON} {_MERGED}".split() if with_real else _COMMON.split())
        self._with_real = with_real
        self._roots = frozenset(self._topmost()) | (frozenset() if with_real else frozenset(_HIDDEN))
        names = sorted({re.escape(posixpath.basename(root)) for root in self._roots})
        self.hints = re.compile(f"(?:^|/)(?:{'|'.join(names)})(?:/|$)".encode())
        """Finds nothing in a path that cannot be ours: every path of ours has one of these names in it."""

    def shared_directories(self) -> list[str]:
        """The directories below /dev and /sys that hold nodes of the machine beside real ones, topmost first."""
        return [path for path in sorted(self._common) if path != "/" and self._is_directory(path)]

    def has(self, path: str) -> bool:
        """Whether `path` (without links on the way) is not the real file system's alone."""
        if path in self._roots or (path in self._common and self._is_directory(path)):
            return True
        return not self._with_real and _ROOT_COMPLEX.fullmatch(path) is not None

    def _is_directory(self, path: str) -> bool:
        try:
            return isinstance(self._tree.get(path, follow=False), Directory)
        except OSError:
            return False

    def locate(self, path: str, follow: bool) -> Located | None:
        """What stands at absolute `path`; None when that is not ours to answer.

        A path that leads back out of the machine's part by ".." is ours to answer as well: the kernel, which does not
        know the way in, would not find the way out.

        Links are followed, the last one only with `follow`, or when the path ends in a slash. Raises OSError as the
        system call would: ENOENT, ENOTDIR, ELOOP.
        """
        directory = path.endswith(("/", "/."))
        try:
            found = self._find(path, follow or directory)
        except OSError:
            if self._owns(posixpath.normpath(path)):
                raise
            return self._detour(path)
        if found.path in self._common or not self._owns(found.path):
            return self._detour(path)
        if directory and not isinstance(found.node, Directory):
            raise NotADirectoryError(20, "Not a directory", path)
        return found

    def _find(self, path: str, follow: bool) -> Located:
        if follow:
            return Located(self._tree.realpath(path), self._tree.get(path))
        above, name = posixpath.split(path.rstrip("/") or "/")
        if name in ("", ".", ".."):
            return self._find(path, follow=True)
        return Located(posixpath.join(self._tree.realpath(above), name), self._tree.get(path, follow=False))

    def _detour(self, path: str) -> Located | None:
        """Where a path with ".." in it leads."""
        head, dots, tail = f"{path}/".rpartition("/../")
        if not dots:
            return None
        try:
            return Located(posixpath.join(self._tree.realpath(f"{head}/.."), tail.rstrip("/")), Elsewhere())
        except OSError:
            return None

    def _owns(self, path: str) -> bool:
        """Whether a path without links lies at or below one of the roots."""
        while path not in self._roots:
            if path in ("/", "", "//"):
                return False
            path = posixpath.dirname(path)
        return True

    def _topmost(self) -> list[str]:
        """The topmost nodes of the tree that the real file system does not share."""
        found = []
        for directory in filter(self._is_directory, self._common):
            paths = (posixpath.join(directory, name) for name in self._tree.listdir(directory))
            found += [path for path in paths if not (path in self._common and self._is_directory(path))]
        return found
