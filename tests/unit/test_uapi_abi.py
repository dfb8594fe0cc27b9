"""Our structures and numbers are those of the 7.3 headers: a C probe says what the compiler makes of them.

Both directions: everything of ours is compared, and everything in the headers that is in scope must be ours.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from ioas.uapi import iommufd, iommufd_test, vfio
from ioas.uapi.base import Struct, field_names, offset_of, size_of
from tests.support import lanes


@dataclass(frozen=True)
class Header:
    """One module and the header that it writes down."""

    module: ModuleType
    path: str
    left_out: str = r"(?!)"
    """Names in the header that the module leaves out on purpose (a regular expression, searched)."""
    ours_alone: str = r"^_"
    """Names in the module that C cannot be asked for."""


IOMMUFD = Header(iommufd, "linux/iommufd.h")
IOMMUFD_TEST = Header(
    iommufd_test,
    "iommufd_test.h",
    # The members of the union are anonymous structs in C: compared as fields of iommu_test_cmd.
    ours_alone=r"^_|^iommu_test_cmd_|^Struct$",
)
VFIO = Header(
    vfio,
    "linux/vfio.h",
    left_out="|".join(
        (
            "SPAPR|spapr|EEH|eeh",  # POWER
            "VFIO_(CCW|AP)_|REGION_(SUB)?TYPE_CCW|API_(PLATFORM|AMBA|CCW|AP)|ZPCI|zpci",  # other buses, s390
            "GFX|gfx",  # displays of mediated devices
            "NVLINK|nvlink|IGD",  # vendors' own regions
            # the first migration protocol
            "DEVICE_STATE_V1|DEVICE_STATE_MASK|MIGRATION_DEPRECATED|vfio_device_migration_info",
            "^__VFIO_RESERVED",
        )
    ),
    ours_alone=r"^_|_STRING$",
)
HEADERS = pytest.mark.parametrize("header", [IOMMUFD, IOMMUFD_TEST, VFIO], ids=lambda header: header.path)


@pytest.fixture
def include(header: Header, uapi_headers: Path) -> list[str]:
    """Compiler options that find the header; iommufd_test.h lies in the kernel's tree, not among the headers."""
    options = ["-isystem", str(uapi_headers)]
    if header is IOMMUFD_TEST:
        from tools.kernel.source import found

        source = found()
        if source is None or not (source.tree / "drivers/iommu/iommufd/iommufd_test.h").exists():
            lanes.require("uapi", "no 7.3 source tree with drivers/iommu/iommufd/iommufd_test.h")
        options += ["-I", str(source.tree / "drivers/iommu/iommufd")]
    return options


@HEADERS
def test_every_structure_and_number_is_what_the_compiler_makes_of_the_header(
    header: Header, include: list[str], cc: str, tmp_path: Path
) -> None:
    ours = dict(_questions(header))
    source = tmp_path / "probe.c"
    lines = [f'printf("%s\\t%lld\\n", "{question}", (long long)({question}));' for question in ours]
    source.write_text(
        f"#include <stddef.h>\n#include <stdio.h>\n#include <{header.path}>\n"
        "int main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    probe = tmp_path / "probe"
    built = subprocess.run([cc, "-w", *include, "-o", probe, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    output = subprocess.run([probe], capture_output=True, text=True, check=True).stdout
    theirs = {question: int(value) for question, value in (line.split("\t") for line in output.splitlines())}
    for question in theirs:
        if ours[question] == 1 << 31:  # C's `1 << 31` is a negative int; the fields that hold it are unsigned
            theirs[question] &= 0xFFFFFFFF
    assert len(ours) > 60
    assert ours == theirs


@HEADERS
def test_everything_in_the_header_is_there(header: Header, include: list[str]) -> None:
    text = _text(header, include)
    structs = _structs(text)
    names = set(structs) | _numbers(text)
    wanted = {name for name in names if not re.search(header.left_out, name)}
    assert len(wanted) > 60
    assert sorted(name for name in wanted if not hasattr(header.module, name)) == []
    for name in wanted & set(structs):
        ours = set(_fields(getattr(header.module, name)))
        assert (name, sorted(structs[name] - ours)) == (name, [])


@HEADERS
def test_nothing_is_listed_as_left_out_and_yet_there(header: Header, include: list[str]) -> None:
    text = _text(header, include)
    for name in set(_structs(text)) | _numbers(text):
        if re.search(header.left_out, name):
            assert not hasattr(header.module, name), name


def _questions(header: Header) -> Iterator[tuple[str, int]]:
    """C expressions, and the value that each has here."""
    for name, value in vars(header.module).items():
        if re.search(header.ours_alone, name):
            continue
        if isinstance(value, int):
            yield name, value
        elif isinstance(value, type) and issubclass(value, Struct):
            yield f"sizeof(struct {name})", ctypes.sizeof(value)
            yield from _field_questions(value, name, "", 0)


def _field_questions(struct: type[Struct], name: str, within: str, base: int) -> Iterator[tuple[str, int]]:
    blank = struct()
    for field in field_names(struct):
        path = f"{within}{field}"
        value = getattr(blank, field)
        place = f"((struct {name} *)0)->{path}"
        offset = base + offset_of(struct, field)
        yield f"offsetof(struct {name}, {path})", offset
        if size_of(struct, field):
            yield f"sizeof({place})", size_of(struct, field)
        if isinstance(value, Struct):
            yield from _field_questions(type(value), name, f"{path}.", offset)
        elif isinstance(value, ctypes.Array):
            yield f"sizeof({place}[0])", ctypes.sizeof(value._type_)
        elif isinstance(value, int):
            setattr(blank, field, -1)
            yield f"(__typeof__({place}))-1 < 0", getattr(blank, field) < 0


def _fields(struct: type[Struct]) -> Iterator[str]:
    """Names of a structure's fields, and of fields within fields."""
    blank = struct()
    for field in field_names(struct):
        yield field
        value = getattr(blank, field)
        if isinstance(value, Struct):
            yield from _fields(type(value))


def _text(header: Header, include: list[str]) -> str:
    """The header without comments."""
    for directory in include[1::2]:
        path = Path(directory) / header.path
        if path.exists():
            return re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.DOTALL)
    raise AssertionError(f"no {header.path} in {include}")


def _structs(text: str) -> dict[str, set[str]]:
    """Every structure with the names of its fields, those of nested anonymous ones included."""
    structs = {}
    for match in re.finditer(r"^struct (\w+) \{", text, re.MULTILINE):
        body = text[match.end() : text.index("\n}", match.end())]
        structs[match[1]] = set(re.findall(r"(\w+)\s*(?:\[\w*\])?\s*(?:__counted_by\(\w+\))?\s*;", body))
    return structs


def _numbers(text: str) -> set[str]:
    """Every macro that stands for a value, and every enumerator."""
    names = set(re.findall(r"^#define[ \t]+(\w+)[ \t]+\S", text, re.MULTILINE))
    for body in re.findall(r"\benum\s*\w*\s*\{(.*?)\}", text, re.DOTALL):
        body = re.sub(r"^#.*$", "", body, flags=re.MULTILINE)
        names |= {entry.split("=")[0].strip() for entry in body.split(",")} - {""}
    return names
