"""What a model's class declares, collected once when the class is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ioas.errors import UsageError
from ioas.soft.pci.bars import Bar, Rom
from ioas.soft.pci.options import AnyOption, Option
from ioas.soft.pci.ram import Ram
from ioas.soft.pci.registers import Register


@dataclass(frozen=True, slots=True)
class Declaration:
    """BARs by index, registers, the register (if any) for each BAR and offset, memory, options by name."""

    bars: Sequence[Bar | None] = (None,) * 6
    registers: Sequence[Register] = ()
    map: Mapping[tuple[int, int], Register] = field(default_factory=dict)
    rams: Sequence[Ram] = ()
    options: Mapping[str, AnyOption] = field(default_factory=dict)


def declaration_of(model: type, protocol: type) -> Declaration:
    """Collect what `model` and its base classes below `protocol` (the class Function) declare.

    Raises UsageError where BARs, registers or memory overlap, and for one whose name belongs to the protocol.
    """
    attributes: dict[str, object] = {}
    for base in reversed(model.__mro__):
        if base is not protocol and issubclass(base, protocol):
            attributes.update(vars(base))
    for name, each in attributes.items():
        declared = isinstance(each, Register | Option | Bar | Ram) and not isinstance(each, Rom)
        if declared and name in _names_of(protocol):
            raise UsageError(f"{model.__name__}: the name {name!r} belongs to {protocol.__name__}; choose another")
    registers = [each for each in attributes.values() if isinstance(each, Register)]
    rams = [each for each in attributes.values() if isinstance(each, Ram)]
    _check_rams(model, rams, registers)
    return Declaration(
        bars=_place_bars(model, [each for each in attributes.values() if isinstance(each, Bar)]),
        registers=registers,
        map=_map_registers(model, registers),
        rams=rams,
        options={name: each for name, each in attributes.items() if isinstance(each, Option)},
    )


def _names_of(protocol: type) -> frozenset[str]:
    """What the protocol uses itself: a register called "config" would take the place of configuration space."""
    return frozenset(dir(protocol)) | frozenset(protocol.__annotations__)


def _place_bars(model: type, declared: Sequence[Bar]) -> Sequence[Bar | None]:
    bars: list[Bar | None] = [None] * 6
    taken: set[int] = set()
    for bar in declared:
        if isinstance(bar, Rom):
            continue
        slots = {bar.index, bar.index + 1} if bar.kind == "mem64" else {bar.index}
        if taken & slots:
            raise UsageError(f"{model.__name__}: BAR {bar.index} stands where another one does")
        taken |= slots
        bars[bar.index] = bar
    return tuple(bars)


def _map_registers(model: type, registers: Sequence[Register]) -> Mapping[tuple[int, int], Register]:
    taken: dict[tuple[int, int], Register] = {}
    starts: dict[tuple[int, int], Register] = {}
    for register in registers:
        for offset in range(register.offset, register.offset + register.width):
            if (other := taken.setdefault((register.bar, offset), register)) is not register:
                raise UsageError(f"{model.__name__}: registers {other.name} and {register.name} overlap")
        starts.update(((register.bar, offset), register) for offset in register.starts())
    return starts


def _check_rams(model: type, rams: Sequence[Ram], registers: Sequence[Register]) -> None:
    for number, ram in enumerate(rams):
        others = [(each.name, each.bar, each.offset, each.width) for each in registers]
        others += [(each.name, each.bar, each.offset, each.size) for each in rams[:number]]
        for name, bar, offset, length in others:
            if ram.touches(bar, offset, offset + length):
                raise UsageError(f"{model.__name__}: {name} lies in the memory {ram.name}")
