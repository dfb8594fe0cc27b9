"""Where a sysfs tree is read from. Paths are absolute and begin with /sys; errors are those of system calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
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


_PIECE = 1 << 16


class DirectorySource:
    """A tree on disk: the running kernel's ("/"), or a copy whose `sys` directory stands in `root`."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self._root = os.fspath(root).rstrip("/")

    def read(self, path: str) -> bytes:
        """The contents of a file, links followed."""
        fd = os.open(self._root + path, os.O_RDONLY | os.O_CLOEXEC)  # a machine has tens of thousands: no file objects
        try:
            pieces = []
            while piece := os.read(fd, _PIECE):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            os.close(fd)

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory, links followed."""
        return os.listdir(self._root + path)

    def readlink(self, path: str) -> str:
        """The target of a link."""
        return os.readlink(self._root + path)
