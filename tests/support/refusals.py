"""Refusals as `ioas run --refusals FILE` writes them, and a table of what they must say.

A row of the table is a line ``COMMAND ERRNO | reason | kind of the culprit | culprit``. In reason and culprit ``{x}``
stands for a number (or the name of a mock device). Where the call has a field of that name it must be the field's
value; the other names must stand for the same wherever they come in the row, and ``{}`` for anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parents[1] / "conformance" / "refusals.txt"
_PLACE = re.compile(r"\{(\w*)\}")
_NUMBER = r"0x[0-9a-f]+|\d+|iommufd_mock\d+"
_FIELD = re.compile(r"(\w+)=(0x[0-9a-f]+|\d+)\b")


class Refused(NamedTuple):
    """One refused call."""

    command: str
    """The request's name, with the tests' operation behind it, or that of the system call."""
    fields: Mapping[str, int]
    """What stood in the structure."""
    errno: str
    reason: str
    kind: str
    culprit: str


class Row(NamedTuple):
    """One row of the table."""

    command: str
    errno: str
    reason: str
    kind: str
    culprit: str

    def says(self, refused: Refused) -> bool:
        """Whether the refusal is the one of this row."""
        if (self.command, self.errno, self.kind) != (refused.command, refused.errno, refused.kind):
            return False
        found = re.fullmatch(self._pattern(refused.fields), f"{refused.reason}\n{refused.culprit}")
        return found is not None

    def _pattern(self, fields: Mapping[str, int]) -> str:
        seen: set[str] = set()

        def stands(place: re.Match[str]) -> str:
            name = place[1]
            if name in fields:
                return f"(?:{fields[name]}|{fields[name]:#x})"
            if not name:
                return f"(?:{_NUMBER})"
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return f"(?P<{name}>{_NUMBER})"

        text = f"{self.reason}\n{self.culprit}"
        pieces, at = [], 0
        for place in _PLACE.finditer(text):
            pieces += [re.escape(text[at : place.start()]), stands(place)]
            at = place.end()
        return "".join([*pieces, re.escape(text[at:])])

    def __str__(self) -> str:
        return f"{self.command} {self.errno} | {self.reason} | {self.kind} | {self.culprit}"


def rows(path: Path = TABLE) -> list[Row]:
    """The rows of the table."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    parts = [[part.strip() for part in line.split("|")] for line in lines]
    return [Row(*call.rsplit(" ", 1), reason, kind, culprit) for call, reason, kind, culprit in parts]


def record(path: Path) -> Iterable[Refused]:
    """What a run has written."""
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        culprit = entry["culprit"] or {"kind": "", "name": ""}
        yield refused(entry["name"], entry["call"], entry["errno"], entry["reason"], culprit["kind"], culprit["name"])


def refused(name: str, call: str, errno: str, reason: str, kind: str, culprit: str) -> Refused:
    """A refusal from the call as it is shown."""
    fields = {field: int(value, 0) for field, value in _FIELD.findall(call)}
    operation = re.search(r"op=IOMMU_TEST_OP_(\w+)", call)
    return Refused(f"{name} {operation[1]}" if operation else name, fields, errno, reason, kind, culprit)
