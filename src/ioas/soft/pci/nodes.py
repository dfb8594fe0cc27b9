"""A small read-mostly file system: directories, texts, links, character devices - the form of /sys and /dev."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Text:
    """A file: fixed bytes or a callable that gives them now; `write` takes what is written to it."""

    contents: bytes | Callable[[], bytes]
    mode: int = 0o444
    write: Callable[[bytes], None] | None = None

    def read(self) -> bytes:
        """The contents now."""
        return self.contents() if callable(self.contents) else self.contents


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; `target` is relative to the directory it stands in, as sysfs makes them."""

    target: str


@dataclass(frozen=True, slots=True)
class CharDevice:
    """A character device node."""

    major: int
    minor: int
    mode: int = 0o600


@dataclass(slots=True)
class Directory:
    """Names and nodes, in order of insertion."""

    entries: dict[str, Node] = field(default_factory=dict)


Node = Directory | Text | Link | CharDevice


class Tree:
    """A tree of nodes under "/". Paths are absolute."""

    def __init__(self) -> None:
        self.root = Directory()

    def add(self, path: str, node: Node) -> None:
        """Put `node` at `path`, making the directories above it; raises FileExistsError when taken."""
        raise NotImplementedError

    def link(self, path: str, target: str) -> None:
        """Make at `path` the relative link that leads to absolute path `target`."""
        raise NotImplementedError

    def remove(self, path: str) -> None:
        """Take a node (with everything below it) away; raises FileNotFoundError."""
        raise NotImplementedError

    def get(self, path: str, *, follow: bool = True) -> Node:
        """The node at `path`; links on the way are followed, the last one only with `follow`.

        Raises FileNotFoundError, NotADirectoryError, or OSError(ELOOP).
        """
        raise NotImplementedError

    def read(self, path: str) -> bytes:
        """The contents of a text, links followed."""
        raise NotImplementedError

    def realpath(self, path: str) -> str:
        """The path without links, as realpath(3) answers."""
        raise NotImplementedError

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Every path and node, depth first, links not followed."""
        raise NotImplementedError

    def materialise(self, directory: Path) -> None:
        """Write the tree below `directory` as real directories, files and links (character devices as empty files)."""
        raise NotImplementedError
