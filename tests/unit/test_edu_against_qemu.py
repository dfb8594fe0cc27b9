"""The model answers as QEMU's edu does, access for access.

The record was made with QEMU 10.0.2 and Linux 7.3.4: random and chosen accesses to BAR 0 by pread and pwrite on
/dev/vfio/devices/vfio0, no memory mapped for DMA, and VFIO_DEVICE_RESET. Each line is an access with its width and the
value (hexadecimal) that was written or read, a time to wait in seconds, or a reset.
"""

from __future__ import annotations

from pathlib import Path

from ioas.devices.edu import Edu
from ioas.soft.pci import header
from tests.support.machine import Machine, machine, set_command

RECORD = Path(__file__).parent / "data" / "edu-qemu-10.0.2.txt"


def replay(line: str, edu: Edu, bench: Machine) -> str:
    """Do what `line` says; return it with the value that the model gives."""
    match line.split():
        case ["read", offset, width, _]:
            value = int.from_bytes(edu.bar_read(0, int(offset, 16), int(width)), "little")
            return f"read {offset} {width} {value:x}"
        case ["write", offset, width, value]:
            edu.bar_write(0, int(offset, 16), int(value, 16).to_bytes(int(width), "little"))
        case ["wait", seconds]:
            bench.timers.advance(float(seconds))
        case ["reset"]:
            edu.reset_by()
        case _:
            raise ValueError(line)
    return line


def test_every_recorded_read_gives_the_recorded_value() -> None:
    edu = Edu()
    bench = machine(edu)
    set_command(edu, header.COMMAND_MASTER)
    lines = RECORD.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        assert replay(line, edu, bench) == line, f"line {number}"
    assert sum(line.startswith("read") for line in lines) == 285
