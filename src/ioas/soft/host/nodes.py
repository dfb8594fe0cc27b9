"""The device nodes of a machine: what can be opened below /dev, and who opens it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ioas.host import Caller, File
from ioas.soft.pci import CharDevice, Tree

Opener = Callable[[Caller, int], File]
"""Takes who opens the node, and the flags of open(2). Raises KernelError."""


class Node(NamedTuple):
    """A character device node: what stat(2) shows of it."""

    major: int
    minor: int
    mode: int = 0o666
    """Permission bits (without S_IFCHR): everybody may, as if udev had been told so."""


class DeviceNodes:
    """The nodes by absolute path, such as "/dev/iommu"."""

    def __init__(self, tree: Tree) -> None:
        """Nodes are shown in `tree`."""
        self._tree = tree
        self._nodes: dict[str, tuple[Node, Opener]] = {}

    def add(self, path: str, number: tuple[int, int], opener: Opener) -> None:
        """Make a node."""
        node = Node(*number)
        self._nodes[path] = node, opener
        self._tree.add(path, CharDevice(*node))

    def remove(self, path: str) -> None:
        """Take a node away; what is open stays so."""
        del self._nodes[path]
        self._tree.remove(path)

    def opener(self, path: str) -> Opener | None:
        """Who opens `path`; None when there is no such node."""
        found = self._nodes.get(path)
        return None if found is None else found[1]

    @property
    def shown(self) -> Mapping[str, Node]:
        """What stat(2) shows, by path."""
        return {path: node for path, (node, _) in self._nodes.items()}
