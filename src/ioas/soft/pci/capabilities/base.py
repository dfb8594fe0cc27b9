"""What every capability structure has: an ID, a length, a place in one of the two lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function


class Capability:
    """A capability as a model declares it; holds no state of its own, for a class's functions share it."""

    id: ClassVar[int]
    extended: ClassVar[bool] = False
    """Whether it belongs into the list from 0x100 (which needs PCI Express)."""
    version: ClassVar[int] = 1
    """The version in an extended capability's header."""
    prefixes: ClassVar[bool] = False
    """Whether requests carry TLP prefixes because of it, which the PCI Express capability then tells."""

    @property
    def length(self) -> int:
        """Bytes that the structure takes, header included."""
        raise NotImplementedError

    def install(self, function: Function, offset: int) -> None:
        """Declare the registers behind the header at `offset` of the function's configuration space, and watch them."""
        raise NotImplementedError


def link(function: Function, capabilities: tuple[Capability, ...]) -> dict[type[Capability], tuple[Capability, int]]:
    """Place `capabilities` one after another, chain their headers, install them; return each with its offset.

    Raises UsageError when the conventional ones do not fit below the extended ones.
    """
    placed: dict[type[Capability], tuple[Capability, int]] = {}
    for extended in (False, True):
        start = 0x100 if extended else 0x40
        chain = [each for each in capabilities if each.extended is extended]
        offsets: list[int] = []
        for each in chain:
            offsets.append(start)
            start = start + each.length + 3 & ~3
        if not extended and start > 0x100:
            raise UsageError(f"{function}: its capabilities end at {start:#x}, beyond configuration space's 0x100")
        for position, (each, offset) in enumerate(zip(chain, offsets, strict=True), 1):
            following = offsets[position] if position < len(chain) else 0
            _declare_header(function, each, offset, following)
            each.install(function, offset)
            placed[type(each)] = each, offset
    return placed


def _declare_header(function: Function, capability: Capability, offset: int, following: int) -> None:
    if capability.extended:
        function.config.declare(offset, 4, capability.id | capability.version << 16 | following << 20)
    else:
        function.config.declare(offset, 2, capability.id | following << 8)
