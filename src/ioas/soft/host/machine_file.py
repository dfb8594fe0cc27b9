"""Machine descriptions in TOML (`--machine lab.toml`).

The whole schema, with every key::

    [machine]
    isolation = "strict"          # default; "kernel": do not refuse units that let DMA pass around the aperture
    container = "vfio"            # default: VFIO serves /dev/vfio/vfio; "iommufd" does; "none": no such node

    [iommu]
    kind = "vt-d"                 # default; "amd"
    address_width = 48            # bits of IOVA: 48 (default) or 39
    scalable = false              # default; true (vt-d only): programs may nest first-stage tables of their own
    force_aperture = true         # default; false: DMA beyond the aperture passes untranslated

    [[device]]                    # one table for each device, in slot order
    model = "edu"                 # required; a name that `ioas run --help` lists
    addr = "0000:05:00.0"         # default: the next free of 0000:01:00.0, 0000:02:00.0, ...
    options = { dma_mask = 0xfffffff }   # the model's own

A machine without [[device]] is a machine without devices. Whatever is wrong is refused with the file, the
line and the key: `tomllib` does not keep positions, so the line of a key is found by parsing longer and
longer beginnings of the file until the key is there (`_line_of`): slow, exact, and only done for an error.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import NoReturn, get_args

from ioas.errors import MachineError, UsageError
from ioas.soft.host.description import (
    ADDRESS_WIDTHS,
    ContainerKind,
    DeviceDescription,
    MachineDescription,
    UnitDescription,
    UnitKind,
    check_container,
    check_isolation,
)
from ioas.soft.iommu.system import Isolation
from ioas.soft.pci import Bdf, OptionValue

_Path = tuple[str | int, ...]
"""Where a value stands in the document: ("device", 1, "model")."""

_TOP = ("machine", "iommu", "device")
_MACHINE = ("isolation", "container")
_IOMMU = ("kind", "address_width", "scalable", "force_aperture")
_DEVICE = ("model", "addr", "options")


def load_machine(path: str | os.PathLike[str]) -> MachineDescription:
    """Read a machine file.

    Raises MachineError: the file cannot be read, is not TOML, or has a wrong key, type or value; the message
    begins with ``FILE:LINE:`` and names the key.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise MachineError(f"{name}: cannot read the machine file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MachineError(f"{name}: cannot read the machine file: it is not UTF-8") from error
    except ValueError as error:  # a path that open(2) cannot be asked for
        raise MachineError(f"{name!r}: cannot read the machine file: {error}") from error
    return parse_machine(text, name)


def parse_machine(text: str, name: str = "<machine>") -> MachineDescription:
    """The machine that `text` describes; `name` is the file's in messages. Raises MachineError as `load_machine`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r" \(at line (\d+), column \d+\)", str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        reason = str(error).replace(where[0] if where else " (at end of document)", "")
        raise MachineError(f"{name}:{line}: not TOML: {reason}") from None
    except RecursionError:
        raise MachineError(f"{name}: arrays or tables are nested too deeply") from None
    return _Reader(text, name, document).machine()


class _Reader:
    """Turns a parsed document into a description; every complaint knows its place."""

    def __init__(self, text: str, name: str, document: Mapping[str, object]) -> None:
        self.text = text
        self.name = name
        self.document = document

    def machine(self) -> MachineDescription:
        top = self.table((), self.document, _TOP)
        machine = self.table(("machine",), top.get("machine", {}), _MACHINE)
        devices = top.get("device", [])
        if not isinstance(devices, list):
            self.refuse(("device",), "is a list of tables: write [[device]]")
        return MachineDescription(
            devices=tuple(self.device(index, entry) for index, entry in enumerate(devices)),
            unit=self.unit(top.get("iommu", {})),
            isolation=self.isolation(machine),
            container=self.container(machine),
        )

    def isolation(self, machine: Mapping[str, object]) -> Isolation:
        path = ("machine", "isolation")
        return check_isolation(self.choice(path, machine.get("isolation", "strict"), get_args(Isolation)))

    def container(self, machine: Mapping[str, object]) -> ContainerKind:
        path = ("machine", "container")
        return check_container(self.choice(path, machine.get("container", "vfio"), get_args(ContainerKind)))

    def unit(self, entry: object) -> UnitDescription:
        iommu = self.table(("iommu",), entry, _IOMMU)
        kind = self.choice(("iommu", "kind"), iommu.get("kind", "vt-d"), get_args(UnitKind))
        width = iommu.get("address_width", 48)
        if type(width) is not int or width not in ADDRESS_WIDTHS:
            known = ", ".join(map(str, ADDRESS_WIDTHS))
            self.refuse(("iommu", "address_width"), f"is one of {known} (bits), not {width!r}")
        force = self.switch(("iommu", "force_aperture"), iommu.get("force_aperture", True))
        scalable = self.switch(("iommu", "scalable"), iommu.get("scalable", False))
        if kind == "amd" and scalable:
            self.refuse(("iommu", "scalable"), "is for kind 'vt-d' only")
        return UnitDescription("amd" if kind == "amd" else "vt-d", width, scalable, force)

    def switch(self, path: _Path, value: object) -> bool:
        if not isinstance(value, bool):
            self.refuse(path, f"is true or false, not {value!r}")
        return value

    def device(self, index: int, entry: object) -> DeviceDescription:
        path = ("device", index)
        table = self.table(path, entry, _DEVICE)
        origin = f"{self.name}:{self.line(path)}"
        if "model" not in table:
            self.refuse(path, "lacks the key 'model'")
        address = table.get("addr")
        return DeviceDescription(
            self.string((*path, "model"), table["model"]),
            None if address is None else self.address((*path, "addr"), address),
            self.options((*path, "options"), table.get("options", {})),
            origin,
            in_file=True,
        )

    def address(self, path: _Path, value: object) -> str:
        try:
            return str(Bdf.parse(self.string(path, value)))
        except MachineError:
            raise
        except UsageError as error:
            self.refuse(path, f"is wrong: {error}")

    def options(self, path: _Path, value: object) -> dict[str, OptionValue]:
        if not isinstance(value, dict):
            self.refuse(path, f"is a table of the model's options, not {value!r}")
        options: dict[str, OptionValue] = {}
        for key, option in value.items():
            if not isinstance(option, (str, int, float)):
                self.refuse((*path, key), "is text, a number or true/false")
            options[key] = option
        return options

    def table(self, path: _Path, value: object, known: Sequence[str]) -> Mapping[str, object]:
        if not isinstance(value, dict):
            self.refuse(path, f"is a table, not {value!r}")
        for key in value:
            if key not in known:
                self.refuse((*path, key), f"is unknown; known here: {', '.join(known)}")
        return value

    def string(self, path: _Path, value: object) -> str:
        if not isinstance(value, str):
            self.refuse(path, f"is text, not {value!r}")
        return value

    def choice(self, path: _Path, value: object, known: Sequence[str]) -> str:
        if value not in known:
            self.refuse(path, f"is {' or '.join(repr(one) for one in known)}, not {value!r}")
        return str(value)

    def line(self, path: _Path) -> int:
        return _line_of(self.text, path)

    def refuse(self, path: _Path, complaint: str) -> NoReturn:
        raise MachineError(f"{self.name}:{self.line(path)}: {_shown(path)} {complaint}")


def _shown(path: _Path) -> str:
    """A path as a user finds it in the file: "[iommu]", "key 'addr' of [[device]]"."""
    match path:
        case ("device",) | ("device", int()):
            return "[[device]]"
        case ("device", int(), key):
            return f"key {key!r} of [[device]]"
        case ("device", int(), _, key):
            return f"key {key!r} of [[device]] options"
        case (table, key):
            return f"key {key!r} of [{table}]"
        case (name,):
            return f"[{name}]" if name in _TOP else f"key {name!r}"
        case _:
            return "the file"


def _line_of(text: str, path: _Path) -> int:
    """The line (from 1) on which the value at `path` begins."""
    begin = 1
    lines = text.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a value that spans lines
        if _has(document, path):
            return begin
        begin = count + 1
    return begin


def _has(document: object, path: _Path) -> bool:
    for step in path:
        try:
            document = document[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return False
    return True
