"""A machine in a file, to be looked at elsewhere: what the doctor reads, and nothing else.

A capture is made by asking everything about every function and recording what was read on the way, so that it answers
the same questions. What they do not need is cut out of files that say more (`_SCRUBBERS`): serial numbers, network
addresses, directories, what the command line says of other things. It is JSON, the schema "ioas.capture", version 1.
"""

from __future__ import annotations

import base64
import errno
import fnmatch
import gzip
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ioas.errors import MachineError
from ioas.inspect.acl import AclEntry
from ioas.inspect.case import PURPOSES, Case, Wanted
from ioas.inspect.doctor import diagnose
from ioas.inspect.inventory import take
from ioas.inspect.machine import Machine, Node, User
from ioas.inspect.shape import check
from ioas.sysfs import Source

SCHEMA, VERSION = "ioas.capture", 1

_EVERYTHING = Wanted(memory=1 << 40, hugepages=1 << 40, iova=(0, (1 << 64) - 1))
_OPTIONS = (b"CONFIG_VFIO", b"CONFIG_IOMMU", b"CONFIG_INTEL_IOMMU", b"CONFIG_AMD_IOMMU")
_WORDS = (b"iommu", b"intel_iommu", b"amd_iommu", b"intremap", b"nointremap", b"vfio", b"pci", b"hugepages")
_EXTENDED, _SERIAL_NUMBER = 0x100, 0x0003
"""Where extended capabilities begin, and the one with a device's serial number (PCI Express 6.2, 7.9.3)."""

T = TypeVar("T")


class Recorder:
    """A source that remembers what was read from another, and what could not be."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.files: dict[str, bytes] = {}
        self.directories: dict[str, Sequence[str]] = {}
        self.links: dict[str, str] = {}
        self.failures: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """The contents of a file. Raises OSError."""
        return self._record(self.files, self._source.read, path)

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory. Raises OSError."""
        return self._record(self.directories, self._source.listdir, path)

    def readlink(self, path: str) -> str:
        """The target of a link. Raises OSError."""
        return self._record(self.links, self._source.readlink, path)

    def _record(self, found: dict[str, T], ask: Callable[[str], T], path: str) -> T:
        try:
            found[path] = ask(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.failures[path] = error.errno or errno.EIO
            raise
        return found[path]


class Captured:
    """The source that a capture is."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._files = {path: _decoded(path, text) for path, text in data["files"].items()}
        self._directories: Mapping[str, Sequence[str]] = data["directories"]
        self._links: Mapping[str, str] = data["links"]
        self._failures: Mapping[str, int] = data["failures"]

    def read(self, path: str) -> bytes:
        """The contents of a file. Raises OSError."""
        return self._found(self._files, path)

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory. Raises OSError."""
        return self._found(self._directories, path)

    def readlink(self, path: str) -> str:
        """The target of a link. Raises OSError."""
        return self._found(self._links, path)

    def _found(self, kind: Mapping[str, T], path: str) -> T:
        if path in kind:
            return kind[path]
        number = self._failures.get(path, errno.ENOENT)
        raise OSError(number, os.strerror(number), path)


def _decoded(path: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"'files' of {path!r}: {error}") from error


def capture(machine: Machine, *, whole: bool = False) -> dict[str, object]:
    """All that the doctor could ask of a machine, of JSON's types. `whole`: leave serial numbers and addresses in."""
    recorder = Recorder(machine.source)
    nodes: dict[str, Node | None] = {}
    holders: dict[str, Sequence[str]] = {}
    bypassed: dict[str, str | None] = {}

    def node(path: str) -> Node | None:
        return nodes.setdefault(path, machine.nodes(path))

    def held(path: str) -> Sequence[str]:
        return holders.setdefault(path, machine.holders(path))

    def bypass(unit: str) -> str | None:
        return bypassed.setdefault(unit, machine.bypass(unit))

    watched = Machine(recorder, node, machine.user, held, bypass=bypass)
    for function in take(watched).functions:
        for purpose in PURPOSES:
            diagnose(Case(watched, function.bdf, purpose, _EVERYTHING))
    files = {path: data if whole else scrubbed(path, data) for path, data in recorder.files.items()}
    user = machine.user
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "files": {path: base64.b64encode(data).decode() for path, data in files.items()},
        "directories": {path: list(names) for path, names in recorder.directories.items()},
        "links": recorder.links,
        "failures": recorder.failures,
        "nodes": {path: list(node[:3]) for path, node in nodes.items() if node is not None},
        "acls": {path: [list(entry) for entry in node.acl] for path, node in nodes.items() if node and node.acl},
        "bypass": {unit: policy for unit, policy in bypassed.items() if policy is not None},
        "holders": {path: list(names) for path, names in holders.items()},
        "user": {
            "uid": user.uid,
            "gids": sorted(user.gids),
            "memlock": user.memlock,
            "capabilities": sorted(user.capabilities),
        },
    }


def load(file: str | os.PathLike[str]) -> Machine:
    """The machine of a capture, a file with a JSON object. Raises MachineError, which names the file."""
    try:
        data = json.loads(Path(file).read_bytes())
        if (found := (data.get("schema"), data.get("version"))) != (SCHEMA, VERSION):
            raise MachineError(f"{file} is {found[0]!r} version {found[1]!r}, not {SCHEMA} {VERSION}")
        check(data)
        acls = {path: tuple(AclEntry(*entry) for entry in acl) for path, acl in data.get("acls", {}).items()}
        nodes = {path: Node(node[0], node[1], node[2], acls.get(path, ())) for path, node in data["nodes"].items()}
        holders: dict[str, Sequence[str]] = data["holders"]
        user = data["user"]
        asked = User(user["uid"], frozenset(user["gids"]), user["memlock"], frozenset(user["capabilities"]))
        bypass: dict[str, str] = data.get("bypass", {})
        return Machine(Captured(data), nodes.get, asked, lambda path: holders.get(path, ()), bypass=bypass.get)
    except OSError as error:
        raise MachineError(f"{file}: {error.strerror}") from error
    except MachineError:
        raise
    except (ValueError, RecursionError) as error:
        raise MachineError(f"{file} is no capture of a machine: {error}") from error


def scrubbed(path: str, data: bytes) -> bytes:
    """A file without what the doctor does not need."""
    scrub = next((scrub for pattern, scrub in _SCRUBBERS.items() if fnmatch.fnmatchcase(path, pattern)), None)
    return data if scrub is None else scrub(data)


def _command_line(data: bytes) -> bytes:
    return b" ".join(word for word in data.split() if word.startswith(_WORDS)) + b"\n"


def _mounts(data: bytes) -> bytes:
    """The devices, and whether they are the root; other directories may be named after people."""
    words = [line.split() for line in data.splitlines() if line.startswith(b"/dev/")]
    pairs = [(line[0], line[1] if line[1] == b"/" else b"(elsewhere)") for line in words if len(line) > 1]
    return b"".join(b"%s %s\n" % pair for pair in pairs)


def _routes(data: bytes) -> bytes:
    """The interfaces of default routes, without their gateways."""
    words = [line.split() for line in data.splitlines()[1:]]
    names = [line[0] for line in words if line[1:2] == [b"0" * 8]]
    return b"Iface Destination\n" + b"".join(b"%s 00000000\n" % name for name in names)


def _kernel_options(data: bytes) -> bytes:
    return b"".join(line + b"\n" for line in data.splitlines() if line.startswith(_OPTIONS))


def _packed_options(data: bytes) -> bytes:
    try:
        return gzip.compress(_kernel_options(gzip.decompress(data)), mtime=0)
    except (OSError, EOFError, zlib.error):
        return b""


def _modules(data: bytes) -> bytes:
    return b"".join(line.partition(b":")[0] + b":\n" for line in data.splitlines() if b"vfio" in line)


def _interrupts(data: bytes) -> bytes:
    """Whether any is remapped."""
    return b"0: 0 IR-\n" if b" IR-" in data else b"0: 0\n"


def _processors(data: bytes) -> bytes:
    """Whether this is a guest of the kind that processors tell of."""
    return b"flags : tdx_guest\n" if b" tdx_guest" in data else b"flags :\n"


def _configuration(data: bytes) -> bytes:
    """Configuration space with serial numbers of 0."""
    config, offset, seen = bytearray(data), _EXTENDED, set[int]()
    while _EXTENDED <= offset <= len(config) - 12 and offset not in seen:
        seen.add(offset)
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & 0xFFFF == _SERIAL_NUMBER:
            config[offset + 4 : offset + 12] = bytes(8)
        offset = header >> 20
    return bytes(config)


_SCRUBBERS: dict[str, Callable[[bytes], bytes]] = {
    "/proc/cmdline": _command_line,
    "/proc/mounts": _mounts,
    "/proc/net/route": _routes,
    "/proc/interrupts": _interrupts,
    "/proc/config.gz": _packed_options,
    "/proc/cpuinfo": _processors,
    "/boot/config-*": _kernel_options,
    "/lib/modules/*/modules.dep": _modules,
    "/sys/bus/pci/devices/*/config": _configuration,
}
"""What is cut out of files, by their paths."""
