"""What a capture must look like before it is believed: it may come from anywhere, and have been edited by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_ERRNO_LIMIT = 4096
"""Linux's error numbers are below this (MAX_ERRNO, include/linux/err.h)."""


def check(data: Mapping[str, Any]) -> None:
    """Raises ValueError, which says where a capture is not of the form that docs/doctor.md gives, or lacks a part."""
    for part, (fits, expected) in _PARTS.items():
        if part in _LATER and part not in data:
            continue
        for path, value in _object(data, part).items():
            if not fits(value):
                raise ValueError(f"{_shown(value)} in {part!r} of {path!r} should be {expected}")
    user = _object(data, "user")
    for name, (fits, expected) in _USER.items():
        if name not in user:
            raise ValueError(f"{name!r} is missing in 'user'")
        if not fits(user[name]):
            raise ValueError(f"{_shown(user[name])} in {name!r} of 'user' should be {expected}")


def _object(data: Mapping[str, Any], part: str) -> Mapping[str, object]:
    if part not in data:
        raise ValueError(f"{part!r} is missing")
    found = data[part]
    if not isinstance(found, dict):
        raise ValueError(f"{part!r} is {_shown(found)}, and should be an object")
    for name in found:
        if not _is_text(name):
            raise ValueError(f"{name!r} in {part!r} is no text")
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _is_text(value: object) -> bool:
    """Text that can be printed: JSON's strings may hold halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64  # not a bool


def _is_error(value: object) -> bool:
    return type(value) is int and 0 < value < _ERRNO_LIMIT


def _list_of(fits: Callable[[object], bool], length: int | None = None) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(fits, value))


_NAMES = (_list_of(_is_text), "a list of texts")
_NUMBERS = (_list_of(_is_number), "a list of numbers")
_PARTS = {
    "files": (_is_text, "a text"),
    "directories": _NAMES,
    "links": (_is_text, "a text"),
    "failures": (_is_error, "an error number"),
    "nodes": (_list_of(_is_number, 3), "mode, user and group"),
    "acls": (_list_of(_list_of(_is_number, 3)), "a list of tags, numbers and permissions"),
    "bypass": (_is_text, "a text"),
    "holders": _NAMES,
}
_LATER = ("acls", "bypass")
"""Parts that the first captures did not have."""
_USER = {
    "uid": (_is_number, "a number"),
    "gids": _NUMBERS,
    "memlock": (lambda value: value is None or _is_number(value), "a number or null"),
    "capabilities": _NUMBERS,
}
