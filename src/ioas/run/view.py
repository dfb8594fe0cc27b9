"""Which paths are the machine's, and what stands there.

The machine has a tree of nodes (`ioas.soft.pci.Tree`) that begins like the real file system: /sys/bus, /dev and so on
stand in both (`COMMON`). What the tree has below them hides what the real system has there; `HIDDEN` places are the
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
COMMON = frozenset(_COMMON.split())
HIDDEN = (
    "/dev/iommu",
    "/dev/vfio",
    "/sys/bus/pci",
    "/sys/class/iommu",
    "/sys/class/vfio",
    "/sys/class/vfio-dev",
    "/sys/kernel/iommu_groups",
)


class Located(NamedTuple):
    """A node of the machine and its path without links."""

    path: str
    node: Node


class View:
    """The machine's part of the file system."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._roots = frozenset(_roots(tree)) | frozenset(HIDDEN)
        names = sorted({re.escape(posixpath.basename(root)) for root in self._roots})
        self.hints = re.compile(f"(?:^|/)(?:{'|'.join(names)})(?:/|$)".encode())
        """Finds nothing in a path that cannot be ours: every path of ours has one of these names in it."""

    def locate(self, path: str, follow: bool) -> Located | None:
        """What stands at absolute `path`; None when that is not ours to answer.

        Links are followed, the last one only with `follow`, or when the path ends in a slash. Raises OSError as the
        system call would: ENOENT, ENOTDIR, ELOOP.
        """
        directory = path.endswith(("/", "/."))
        try:
            found = self._find(path, follow or directory)
        except OSError:
            if self._owns(posixpath.normpath(path)):
                raise
            return None
        if found.path in COMMON or not self._owns(found.path):
            return None
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

    def _owns(self, path: str) -> bool:
        """Whether a path without links lies at or below one of the roots."""
        while path not in self._roots:
            if path in ("/", "", "//"):
                return False
            path = posixpath.dirname(path)
        return True


def _roots(tree: Tree) -> list[str]:
    """The topmost nodes of the tree that the real file system does not share."""
    found = []
    for directory in COMMON:
        try:
            names = tree.listdir(directory)
        except OSError:
            continue
        found += [path for name in names if (path := posixpath.join(directory, name)) not in COMMON]
    return found
