"""Addresses of PCI functions: domain, bus, device, function, written 0000:01:00.0 (a BDF)."""

from __future__ import annotations

import re
from typing import NamedTuple

from ioas.errors import UsageError

_PATTERN = re.compile(r"(?:([0-9a-fA-F]{4}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")


class Bdf(NamedTuple):
    """One function's address: domain 0-0xffff, bus 0-0xff, device 0-31, function 0-7. Sorts as lspci does."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Bdf:
        """Read "0000:01:00.0" or "01:00.0"; raises UsageError that names the text."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} is not a PCI address such as 0000:01:00.0")
        domain, bus, device, function = (int(part or "0", 16) for part in match.groups())
        if device > 31:
            raise UsageError(f"{text!r} is not a PCI address: the device number is at most 1f")
        return cls(domain, bus, device, function)

    @property
    def devfn(self) -> int:
        """Device and function as the eight bits that requests carry."""
        return self.device << 3 | self.function

    @property
    def requester_id(self) -> int:
        """Bus and devfn as the sixteen bits of a requester ID."""
        return self.bus << 8 | self.devfn

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"
