"""The machine that is looked at, and who asks.

A `Machine` is a tree of files (/sys, /proc, /boot), the permissions of device nodes, the user, and who has nodes open.
What cannot be read is as if it were not there, and noted in `unreadable`: a diagnosis goes on with what there is, and
says what it could not see.
"""

from __future__ import annotations

import errno
import gzip
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ioas.errors import UsageError
from ioas.host import Capability
from ioas.inspect.acl import AclEntry, may
from ioas.sysfs import Source, Sysfs

_ABSENT = (errno.ENOENT, errno.ENODEV, errno.EINVAL, errno.ENOTDIR)
"""What the reader of sysfs takes for "not there" by itself."""


class Node(NamedTuple):
    """A device node: permission bits, the numbers of its owner and group, its access control list (mostly empty)."""

    mode: int
    uid: int
    gid: int
    acl: tuple[AclEntry, ...] = ()


class User(NamedTuple):
    """Who asks: numbers of the user and of all groups, RLIMIT_MEMLOCK in bytes (None: no limit), capabilities."""

    uid: int
    gids: frozenset[int]
    memlock: int | None
    capabilities: frozenset[int]

    def may_use(self, node: Node) -> bool:
        """Whether permissions and access control list let this user read and write a node."""
        if self.uid == 0:
            return True
        return may(self.uid, self.gids, node.mode, (node.uid, node.gid), node.acl)


ROOT = User(0, frozenset({0}), None, frozenset(Capability))


class Patient:
    """A source whose unreadable files are not there, and noted."""

    def __init__(self, source: Source, unreadable: dict[str, str]) -> None:
        self._source = source
        self._unreadable = unreadable

    def read(self, path: str) -> bytes:
        """The contents of a file. Raises FileNotFoundError for whatever reason there is none."""
        try:
            return self._source.read(path)
        except OSError as error:
            raise self._missing(path, error) from None

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory. Raises FileNotFoundError."""
        try:
            return self._source.listdir(path)
        except OSError as error:
            raise self._missing(path, error) from None

    def readlink(self, path: str) -> str:
        """The target of a link. Raises FileNotFoundError."""
        try:
            return self._source.readlink(path)
        except OSError as error:
            raise self._missing(path, error) from None

    def _missing(self, path: str, error: OSError) -> FileNotFoundError:
        if error.errno not in _ABSENT:
            self._unreadable[path] = os.strerror(error.errno or 0)
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


@dataclass
class Machine:
    """What is looked at. `nodes` gives a node's permissions, `holders` the programs that have one open.

    `bypass` gives the isolation policy of a software machine for an IOMMU, by name, that can be passed by; else None.
    """

    source: Source
    nodes: Callable[[str], Node | None] = lambda path: None
    user: User = ROOT
    holders: Callable[[str], Sequence[str]] = lambda path: ()
    bypass: Callable[[str], str | None] = lambda unit: None
    unreadable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sysfs = Sysfs(Patient(self.source, self.unreadable))

    def text(self, path: str) -> str | None:
        """A file's text without its final newline; None when there is none that can be read."""
        return self.sysfs.text(path)

    def parameter(self, module: str, name: str) -> str | None:
        """A module's parameter."""
        return self.text(f"/sys/module/{module}/parameters/{name}")

    @property
    def command_line(self) -> Sequence[str]:
        """The words of the kernel's command line."""
        return (self.text("/proc/cmdline") or "").split()

    @property
    def release(self) -> str | None:
        """The kernel's release."""
        return self.text("/proc/sys/kernel/osrelease")

    def option(self, name: str) -> str | None:
        """A kernel option ("y", "m", "n" or a value) by its name without CONFIG_; None when nothing tells.

        Reads /proc/config.gz, or /boot/config-RELEASE, which distributions install.
        """
        if not self._options:
            return None
        return self._options.get(f"CONFIG_{name}", "n")

    @cached_property
    def _options(self) -> dict[str, str]:
        packed = self.sysfs.contents("/proc/config.gz")
        text = _unpacked(packed) if packed is not None else self.text(f"/boot/config-{self.release}")
        pairs = (line.partition("=") for line in (text or "").splitlines() if line.startswith("CONFIG_"))
        return {name: value for name, _, value in pairs}


def check_bdf(machine: Machine, bdf: str) -> str:
    """`bdf`, in full; "01:00.0" means domain 0. Raises UsageError when the machine has no such function."""
    names = machine.sysfs.names("/sys/bus/pci/devices")
    for candidate in (bdf, f"0000:{bdf}"):
        if candidate in names:
            return candidate
    raise UsageError(f"there is no PCI device {bdf!r}; `ioas ls` shows those that there are")


def _unpacked(data: bytes) -> str | None:
    try:
        return gzip.decompress(data).decode(errors="replace")
    except (OSError, EOFError, zlib.error):
        return None
