"""The units of a machine file: [[unit]] for each, or [iommu] for the only one; and regions that are reserved."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

from ioas.host import PAGE_SIZE
from ioas.soft.host.description import ADDRESS_WIDTHS, NO_UNIT, UnitDescription, UnitKind
from ioas.soft.host.document import Path, Reader
from ioas.soft.iommu import ReservedRegion

UNIT_KEYS = (
    "kind",
    "name",
    "address_width",
    "page_sizes",
    "scalable",
    "snoop_control",
    "dirty_tracking",
    "interrupt_remapping",
    "force_aperture",
    "reserved",
)
_NONE = "none"
"""The kind of [iommu] of a machine that has no unit."""
_PREFIX: Mapping[UnitKind, str] = {"vt-d": "dmar", "amd": "ivhd"}
_VTD_SIZES = {"4K": 1 << 12, "2M": 1 << 21, "1G": 1 << 30}
_SUFFIXES = {"K": 10, "M": 20, "G": 30, "T": 40}
_LONGEST_SIZE = 21
"""Characters of a size of 64 bits."""
_FileRegion = Literal["direct", "direct-relaxable", "reserved", "msi"]
_REGION = ("start", "last", "kind")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_units(reader: Reader, top: Mapping[str, object]) -> tuple[UnitDescription, ...]:
    """All units, named, in order. Raises MachineError."""
    if "unit" in top and "iommu" in top:
        reader.refuse(("iommu",), "describes the only unit, and there is [[unit]] as well")
    iommu = top.get("iommu")
    if isinstance(iommu, dict) and iommu.get("kind") == _NONE:
        reader.table(("iommu",), iommu, ("kind",))
        return ()
    if "unit" not in top:
        return _name(reader, (_unit(reader, ("iommu",), top.get("iommu", {})),))
    entries = enumerate(reader.tables(("unit",), top["unit"]))
    return _name(reader, tuple(_unit(reader, ("unit", index), entry) for index, entry in entries))


def read_reserved(reader: Reader, path: Path, value: object) -> tuple[ReservedRegion, ...]:
    """A list of { start, last, kind }. Raises MachineError."""
    return tuple(_region(reader, (*path, index), entry) for index, entry in enumerate(reader.tables(path, value)))


def _region(reader: Reader, path: Path, entry: object) -> ReservedRegion:
    table = reader.table(path, entry, _REGION)
    for key in ("start", "last"):
        if key not in table:
            reader.refuse(path, f"has an entry that lacks {key!r}")
    start = reader.whole((*path, "start"), table["start"])
    last = reader.whole((*path, "last"), table["last"])
    if start > last or start % PAGE_SIZE or (last + 1) % PAGE_SIZE:
        reader.refuse((*path, "last"), f"does not make whole pages of 4 KiB: {start:#x} to {last:#x}")
    match reader.choice((*path, "kind"), table.get("kind", "reserved"), get_args(_FileRegion)):
        case "direct" | "direct-relaxable" | "msi" as kind:
            return ReservedRegion(start, last, kind)
    return ReservedRegion(start, last, "reserved")


def _unit(reader: Reader, path: Path, entry: object) -> UnitDescription:
    table = reader.table(path, entry, UNIT_KEYS)
    kind: UnitKind = "vt-d"
    if reader.choice((*path, "kind"), table.get("kind", kind), get_args(UnitKind)) == "amd":
        kind = "amd"
        for key in ("scalable", "snoop_control"):
            if key in table:
                reader.refuse((*path, key), "is for kind 'vt-d' only")

    def switch(key: str, default: bool) -> bool:
        return reader.switch((*path, key), table.get(key, default))

    return UnitDescription(
        kind,
        _width(reader, (*path, "address_width"), table.get("address_width", 48)),
        scalable=switch("scalable", False),
        snoop_control=switch("snoop_control", True),
        dirty_tracking=_dirty_tracking(reader, path, table, kind),
        interrupt_remapping=switch("interrupt_remapping", True),
        force_aperture=switch("force_aperture", True),
        name=_unit_name(reader, (*path, "name"), table.get("name")),
        page_sizes=_sizes(reader, (*path, "page_sizes"), table["page_sizes"], kind) if "page_sizes" in table else None,
        reserved=read_reserved(reader, (*path, "reserved"), table.get("reserved", [])),
    )


def _dirty_tracking(reader: Reader, path: Path, table: Mapping[str, object], kind: UnitKind) -> bool | None:
    key = "dirty_tracking"
    if key not in table:
        return None
    wanted = reader.switch((*path, key), table[key])
    if wanted and kind == "vt-d" and table.get("scalable") is not True:
        reader.refuse((*path, key), "wants scalable = true: in legacy mode VT-d tracks no dirty pages")
    return wanted


def _unit_name(reader: Reader, path: Path, value: object) -> str | None:
    if value is None:
        return None
    name = reader.string(path, value)
    if not _NAME.fullmatch(name) or name == NO_UNIT:
        reader.refuse(path, f"is a name such as 'dmar0', not {name!r}")
    return name


def _width(reader: Reader, path: Path, value: object) -> int:
    if type(value) is not int or value not in ADDRESS_WIDTHS:
        known = ", ".join(map(str, ADDRESS_WIDTHS))
        reader.refuse(path, f"is one of {known} (bits), not {value!r}")
    return value


def _sizes(reader: Reader, path: Path, value: object, kind: UnitKind) -> tuple[int, ...]:
    """Page sizes as a list of texts such as "2M"."""
    if not isinstance(value, list):
        reader.refuse(path, "is a list such as ['4K', '2M']")
    sizes = []
    for size in value:
        number = _size(size)
        if number is None or (kind == "vt-d" and size not in _VTD_SIZES):
            known = "'4K', '2M', '1G'" if kind == "vt-d" else "powers of two from '4K' such as '64K'"
            reader.refuse(path, f"is made of {known}, not of {size!r}")
        sizes.append(number)
    if PAGE_SIZE not in sizes:
        reader.refuse(path, "lacks '4K', without which no unit works here")
    return tuple(sorted(set(sizes)))


def _size(text: object) -> int | None:
    """The bytes of "64K"; None for what is no power of two from 4 KiB."""
    if not isinstance(text, str) or text[-1:] not in _SUFFIXES or not text[:-1].isdecimal():
        return None
    if len(text) > _LONGEST_SIZE:
        return None
    size = int(text[:-1]) << _SUFFIXES[text[-1]]
    return size if size >= PAGE_SIZE and not size & size - 1 else None


def _name(reader: Reader, units: tuple[UnitDescription, ...]) -> tuple[UnitDescription, ...]:
    """Give the units that have no name the kernel's: "dmar0", "dmar1", "ivhd0". Two of one name are refused."""
    taken = {unit.name for unit in units}
    counts: Counter[str] = Counter()
    named = []
    for index, unit in enumerate(units):
        if unit.name is None:
            prefix = _PREFIX[unit.kind]
            while f"{prefix}{counts[prefix]}" in taken:
                counts[prefix] += 1
            unit = replace(unit, name=f"{prefix}{counts[prefix]}")
            counts[prefix] += 1
        elif any(unit.name == other.name for other in units[:index]):
            reader.refuse(("unit", index, "name"), f"is {unit.name!r} a second time")
        named.append(unit)
    return tuple(named)
