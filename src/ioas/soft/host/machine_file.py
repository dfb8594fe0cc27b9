"""Machine descriptions in TOML (`--machine lab.toml`): docs/machines.md describes the schema, with examples.

Whatever is wrong is refused with the file, the line and the key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import get_args

from ioas.errors import MachineError, UsageError
from ioas.soft.host.description import (
    NO_UNIT,
    VFIO_PCI,
    ContainerKind,
    DeviceDescription,
    MachineDescription,
    UnitDescription,
    check_container,
    check_isolation,
)
from ioas.soft.host.document import LISTS, TABLES, Path, Reader
from ioas.soft.host.machine_units import read_reserved, read_units
from ioas.soft.iommu.system import Isolation
from ioas.soft.pci import Bdf, OptionValue

MACHINE_KEYS = ("isolation", "container", "allow_unsafe_interrupts", "unsafe_noiommu")
DEVICE_KEYS = ("model", "addr", "unit", "acs", "driver", "reserved", "options")

_DRIVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


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
    except ValueError:  # int(), of a number that is longer than it takes
        raise MachineError(f"{name}: not TOML: a number has too many digits") from None
    except RecursionError:
        raise MachineError(f"{name}: arrays or tables are nested too deeply") from None
    return _machine(Reader(text, name, document))


def _machine(reader: Reader) -> MachineDescription:
    top = reader.table((), reader.document, (*TABLES, *LISTS))
    machine = reader.table(("machine",), top.get("machine", {}), MACHINE_KEYS)
    units = read_units(reader, top)
    devices = reader.tables(("device",), top.get("device", []))
    return MachineDescription(
        devices=tuple(_device(reader, index, entry, units) for index, entry in enumerate(devices)),
        units=units,
        isolation=_isolation(reader, machine),
        container=_container(reader, machine),
        allow_unsafe_interrupts=_switch(reader, machine, "allow_unsafe_interrupts"),
        unsafe_noiommu=_switch(reader, machine, "unsafe_noiommu"),
    )


def _switch(reader: Reader, machine: Mapping[str, object], key: str) -> bool:
    return reader.switch(("machine", key), machine.get(key, False))


def _isolation(reader: Reader, machine: Mapping[str, object]) -> Isolation:
    path = ("machine", "isolation")
    return check_isolation(reader.choice(path, machine.get("isolation", "strict"), get_args(Isolation)))


def _container(reader: Reader, machine: Mapping[str, object]) -> ContainerKind:
    path = ("machine", "container")
    return check_container(reader.choice(path, machine.get("container", "vfio"), get_args(ContainerKind)))


def _device(reader: Reader, index: int, entry: object, units: tuple[UnitDescription, ...]) -> DeviceDescription:
    path = ("device", index)
    table = reader.table(path, entry, DEVICE_KEYS)
    if "model" not in table:
        reader.refuse(path, "lacks the key 'model'")
    address = table.get("addr")
    return DeviceDescription(
        reader.string((*path, "model"), table["model"]),
        None if address is None else _address(reader, (*path, "addr"), address),
        _options(reader, (*path, "options"), table.get("options", {})),
        reader.place(path),
        in_file=True,
        unit=_unit_of(reader, (*path, "unit"), table.get("unit"), units),
        acs=reader.switch((*path, "acs"), table.get("acs", True)),
        driver=_driver(reader, (*path, "driver"), table.get("driver", VFIO_PCI)),
        reserved=read_reserved(reader, (*path, "reserved"), table.get("reserved", [])),
    )


def _unit_of(reader: Reader, path: Path, value: object, units: tuple[UnitDescription, ...]) -> str | None:
    """The name of one of the units."""
    if value is None:
        return None
    return reader.choice(path, value, [*(unit.name for unit in units if unit.name is not None), NO_UNIT])


def _driver(reader: Reader, path: Path, value: object) -> str:
    name = reader.string(path, value)
    if not _DRIVER_NAME.fullmatch(name):
        reader.refuse(path, f"is the name of a driver, not {name!r}")
    return name


def _address(reader: Reader, path: Path, value: object) -> str:
    try:
        return str(Bdf.parse(reader.string(path, value)))
    except MachineError:
        raise
    except UsageError as error:
        reader.refuse(path, f"is wrong: {error}")


def _options(reader: Reader, path: Path, value: object) -> dict[str, OptionValue]:
    if not isinstance(value, dict):
        reader.refuse(path, f"is a table of the model's options, not {value!r}")
    options: dict[str, OptionValue] = {}
    for key, option in value.items():
        if not isinstance(option, (str, int, float)):
            reader.refuse((*path, key), "is text, a number or true/false")
        options[key] = option
    return options
