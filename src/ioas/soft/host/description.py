"""What a machine is made of, before it is built: the common form of `--device` and of machine files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OptionValue = str | int | bool | float


@dataclass(frozen=True, slots=True)
class DeviceDescription:
    """One device: the model's name, where it stands (None: the next free slot) and the model's options."""

    model: str
    address: str | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    origin: str = "--device"
    """Where it was written, for messages: "--device edu,x=1" or "lab.toml:12"."""


@dataclass(frozen=True, slots=True)
class MachineDescription:
    """A whole machine."""

    devices: tuple[DeviceDescription, ...] = ()


def parse_device(text: str) -> DeviceDescription:
    """Parse ``MODEL[,addr=BDF][,option=value]...``.

    The BDF is DDDD:BB:DD.F or BB:DD.F (domain 0000). Values stay text: the model knows their types.
    Raises UsageError for an empty model, an item without "=", an option given twice or a malformed BDF.
    """
    raise NotImplementedError
