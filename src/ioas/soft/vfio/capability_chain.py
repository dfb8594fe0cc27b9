"""Capability chains: what INFO answers carry behind their structure, and the `argsz` protocol for them.

A chain begins right behind the structure; each capability starts with `vfio_info_cap_header`, is padded to 8
bytes and points to the next by its offset from the start of the answer. When the program's buffer is too
small for the whole chain nothing of it is written: `argsz` returns the size that would do, `cap_offset` is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ioas.uapi.vfio import vfio_info_cap_header

_HEADER = 8


class InfoCapability(NamedTuple):
    """One capability: id, version, and what follows the header."""

    id: int
    version: int = 1
    body: bytes = b""


def chain(capabilities: Sequence[InfoCapability], base: int) -> bytes:
    """The bytes of a chain that stands at offset `base` of the answer; empty without capabilities."""
    parts = bytearray()
    for index, capability in enumerate(capabilities):
        size = (_HEADER + len(capability.body) + 7) & ~7
        last = index == len(capabilities) - 1
        header = vfio_info_cap_header(
            id=capability.id, version=capability.version, next=0 if last else base + len(parts) + size
        )
        parts += (bytes(header) + capability.body).ljust(size, b"\0")
    return bytes(parts)
