"""Where a sysfs tree is read from. Paths are absolute and begin with /sys; errors are those of system calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Source(Protocol):
    """A tree of texts and links. `ioas.soft.pci.Tree` is one."""

    def read(self, path: str) -> bytes:
        """The contents of a file, links followed."""
        ...

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory, links followed."""
        ...

    def readlink(self, path: str) -> str:
        """The target of a link."""
        ...


class DirectorySource:
    """A tree on disk: the running kernel's ("/"), or a copy whose `sys` directory stands in `root`."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self._root = Path(root)

    def _real(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def read(self, path: str) -> bytes:
        """The contents of a file, links followed."""
        return self._real(path).read_bytes()

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory, links followed."""
        return os.listdir(self._real(path))

    def readlink(self, path: str) -> str:
        """The target of a link."""
        return os.readlink(self._real(path))
