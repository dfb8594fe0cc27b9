"""Reading a TOML document whose every complaint says where: the file, the line and the key.

`tomllib` does not keep positions, so the line of a key is found by parsing longer and longer beginnings of the file
until the key is there (`_line_of`): slow, exact, and only done for an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ioas.errors import MachineError

Path = tuple[str | int, ...]
"""Where a value stands in the document: ("device", 1, "model")."""

TABLES, LISTS = ("machine", "iommu"), ("unit", "device")
"""What stands at the top of a machine file: tables, and lists of tables."""


class Reader:
    """Takes values out of a parsed document, of the kind that is wanted, or refuses with their place (MachineError)."""

    def __init__(self, text: str, name: str, document: Mapping[str, object]) -> None:
        """`text` is the whole file, `name` what messages call it."""
        self.text = text
        self.name = name
        self.document = document

    def tables(self, path: Path, value: object) -> Sequence[object]:
        """The entries of a list of tables, which `table` looks at one by one."""
        if not isinstance(value, list):
            self.refuse(path, "is a list of tables" + (f": write [[{path[0]}]]" if len(path) == 1 else ""))
        return value

    def table(self, path: Path, value: object, known: Sequence[str]) -> Mapping[str, object]:
        """A table with no keys but those that are `known`."""
        if not isinstance(value, dict):
            self.refuse(path, f"is a table, not {value!r}")
        for key in value:
            if key not in known:
                self.refuse((*path, key), f"is unknown; known here: {', '.join(known)}")
        return value

    def string(self, path: Path, value: object) -> str:
        """A text."""
        if not isinstance(value, str):
            self.refuse(path, f"is text, not {value!r}")
        return value

    def choice(self, path: Path, value: object, known: Sequence[str]) -> str:
        """One of the texts that are `known`."""
        if value not in known:
            self.refuse(path, f"is {' or '.join(repr(one) for one in known)}, not {value!r}")
        return str(value)

    def switch(self, path: Path, value: object) -> bool:
        """True or false."""
        if not isinstance(value, bool):
            self.refuse(path, f"is true or false, not {value!r}")
        return value

    def whole(self, path: Path, value: object) -> int:
        """A number from 0 to 2**64 - 1."""
        if type(value) is not int or not 0 <= value < 1 << 64:
            self.refuse(path, f"is a number from 0 to 2**64 - 1, not {value!r}")
        return value

    def place(self, path: Path) -> str:
        """File and line of what stands at `path`: "lab.toml:12"."""
        return f"{self.name}:{_line_of(self.text, path)}"

    def refuse(self, path: Path, complaint: str) -> NoReturn:
        """Raise MachineError: the place, what stands there, and the complaint about it."""
        raise MachineError(f"{self.place(path)}: {_shown(path)} {complaint}")


def _shown(path: Path) -> str:
    """A path as a user finds it in the file: "[iommu]", "key 'addr' of [[device]]", "key 'x' of [[device]] options"."""
    if not path:
        return "the file"
    *above, last = path
    if not above:
        return f"[{last}]" if last in TABLES else f"[[{last}]]" if last in LISTS else f"key {last!r}"
    if isinstance(last, int):
        return f"[[{above[0]}]]" if len(above) == 1 else _shown(tuple(above))
    return f"key {last!r} of {_table(tuple(above))}"


def _table(path: Path) -> str:
    name, *below = path
    inner = "".join(f" {step}" for step in below if isinstance(step, str))
    return f"[{name}]{inner}" if name in TABLES else f"[[{name}]]{inner}"


def _line_of(text: str, path: Path) -> int:
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


def _has(document: object, path: Path) -> bool:
    for step in path:
        try:
            document = document[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return False
    return True
