"""A small file system in memory: directories, texts, links, character devices - the form of /sys and /dev."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LINKS_FOLLOWED = 40
"""As many as the kernel follows in one path (MAXSYMLINKS)."""


@dataclass(slots=True)
class Text:
    """A file: fixed bytes or a callable that gives them now; `write` takes what is written to it, a command.

    `store` makes it a binary file: bytes are written to it at an offset within its length.
    `size` is what stat(2) shows where that is not the length of the contents (a BAR's resource file).
    """

    contents: bytes | Callable[[], bytes]
    mode: int = 0o444
    write: Callable[[bytes], None] | None = None
    size: int | None = None
    store: Callable[[int, bytes], None] | None = None

    @property
    def writable(self) -> bool:
        """Whether anything becomes of what is written to it."""
        return self.write is not None or self.store is not None

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
    """A tree of nodes under "/". Paths are absolute. Errors are those of system calls (OSError with an errno)."""

    def __init__(self) -> None:
        self.root = Directory()
        self.version = 0
        """Another number whenever a node has been added or removed."""

    def add(self, path: str, node: Node) -> None:
        """Put `node` at `path`, making the directories above it; raises FileExistsError when taken."""
        above, name = posixpath.split(posixpath.normpath(path))
        directory = self._make(above)
        if name in directory.entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        directory.entries[name] = node
        self.version += 1

    def directory(self, path: str) -> None:
        """Make the directory at `path` and those above it, as far as they are missing."""
        self._make(posixpath.normpath(path))

    def _make(self, path: str) -> Directory:
        node = self.root
        for name in _parts(path):
            found = node.entries.setdefault(name, Directory())
            if not isinstance(found, Directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            node = found
        return node

    def link(self, path: str, target: str) -> None:
        """Make at `path` the relative link that leads to absolute path `target`.

        To a directory above it the link goes by that directory's name, as the kernel's do (kernfs_get_target_path).
        """
        relative = posixpath.relpath(target, posixpath.dirname(path))
        if relative.endswith(".."):
            relative = f"{relative}/../{posixpath.basename(target)}"
        self.add(path, Link(relative))

    def remove(self, path: str) -> None:
        """Take a node (with everything below it) away; raises FileNotFoundError."""
        above, name = posixpath.split(posixpath.normpath(path))
        directory = self._make(above)
        if name not in directory.entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        del directory.entries[name]
        self.version += 1

    def get(self, path: str, *, follow: bool = True) -> Node:
        """The node at `path`; links on the way are followed, the last one only with `follow`.

        Raises FileNotFoundError, NotADirectoryError, or OSError(ELOOP).
        """
        return self._walk(path, follow)[1]

    def realpath(self, path: str) -> str:
        """Where `path` leads when all links are followed; raises as `get`."""
        return self._walk(path, True)[0]

    def _walk(self, path: str, follow: bool) -> tuple[str, Node]:
        left = list(reversed(_parts(path)))
        way: list[tuple[str, Node]] = [("", self.root)]
        links = 0
        while left:
            name = left.pop()
            if name == "..":
                way = way[:-1] or way
                continue
            node = _entry(way[-1][1], name, path)
            if not isinstance(node, Link) or not (left or follow):
                way.append((name, node))
                continue
            links += 1
            if links > _LINKS_FOLLOWED:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            left.extend(reversed(_parts(node.target)))
            if node.target.startswith("/"):
                way = way[:1]
        return "/".join(name for name, _ in way) or "/", way[-1][1]

    def read(self, path: str) -> bytes:
        """The contents of a text, links followed; raises as `get`, and IsADirectoryError."""
        return self._text(path).read()

    def write(self, path: str, data: bytes) -> None:
        """Write to a text, links followed; raises as `get`, and PermissionError when it takes nothing."""
        text = self._text(path)
        if text.write is None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        text.write(data)

    def _text(self, path: str) -> Text:
        node = self.get(path)
        if isinstance(node, Directory):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not isinstance(node, Text):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return node

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory, links followed; raises as `get`."""
        node = self.get(path)
        if not isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return tuple(node.entries)

    def readlink(self, path: str) -> str:
        """A link's target; raises as `get`, and OSError(EINVAL) for what is no link."""
        node = self.get(path, follow=False)
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return node.target

    def walk(self, path: str = "/") -> Iterator[tuple[str, Node]]:
        """Every path and node below `path`, depth first, links not followed."""
        node = self.get(path)
        if not isinstance(node, Directory):
            return
        for name, entry in node.entries.items():
            below = posixpath.join(path, name)
            yield below, entry
            if isinstance(entry, Directory):
                yield from self.walk(below)

    def materialise(self, directory: Path) -> None:
        """Write the tree below `directory` as real directories, files and links.

        Texts are written with their contents of now and made as long as `size` says, with their modes; character
        devices become empty files. Links are relative where they were, so the tree works wherever it stands.
        """
        for path, node in self.walk():
            real = directory / path.lstrip("/")
            if isinstance(node, Directory):
                real.mkdir(parents=True, exist_ok=True)
            elif isinstance(node, Link):
                real.symlink_to(node.target)
            else:
                _write_file(real, node)


def _write_file(path: Path, node: Text | CharDevice) -> None:
    path.write_bytes(node.read() if isinstance(node, Text) else b"")
    if isinstance(node, Text) and node.size is not None:
        os.truncate(path, node.size)
    path.chmod(node.mode)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _entry(node: Node, name: str, path: str) -> Node:
    if not isinstance(node, Directory):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    try:
        return node.entries[name]
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
