"""The options of the guest's kernels, as kernel.toml lists them with their reasons."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TypedDict, cast

from ioas.errors import EnvironmentRefusal

TABLE = Path(__file__).with_name("kernel.toml")


class _Options(TypedDict):
    why: str
    options: list[str]


class _Table(TypedDict):
    group: list[_Options]
    kernel: dict[str, _Options]


def kernels() -> tuple[str, ...]:
    """The kernels' names, in the order in which they are built."""
    return tuple(_table()["kernel"])


def fragment(kernel: str) -> str:
    """The lines of `kernel`, as the kernel's configuration reads them."""
    table = _table()
    options = [option for group in table["group"] for option in group["options"]]
    options += table["kernel"][kernel]["options"]
    lines = []
    for option in options:
        name, _, value = option.partition("=")
        lines.append(f"CONFIG_{name}={value or 'y'}\n")
    return "".join(lines)


def fingerprint() -> str:
    """Tells one state of kernel.toml from another, whatever its comments and reasons say."""
    return hashlib.sha256("".join(fragment(kernel) for kernel in kernels()).encode()).hexdigest()[:8]


def check(kernel: str, result: str) -> None:
    """Raise EnvironmentRefusal when `result`, the finished configuration, lacks an option of `kernel`."""
    have = set(result.splitlines())
    lost = [line for line in fragment(kernel).splitlines() if not _kept(line, have)]
    if lost:
        raise EnvironmentRefusal(f"this kernel does not take {', '.join(lost)} of {TABLE.name}: has an option moved?")


def _kept(line: str, have: set[str]) -> bool:
    name, _, value = line.partition("=")
    if value == "n":
        return not any(other.startswith(f"{name}=") for other in have)
    return line in have


def _table() -> _Table:
    return cast(_Table, tomllib.loads(TABLE.read_text()))
