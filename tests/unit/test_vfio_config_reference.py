"""Configuration space against what Linux 7.3.4 answered for real functions: tests/reference/vfio_config_*.txt."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from ioas.soft.iommu import System, vtd_unit
from ioas.soft.iommufd import Context
from ioas.soft.pci import Bar, Capability, Function, Pcie, Topology
from ioas.soft.vfio import VfioDevice

REFERENCE = Path(__file__).parents[1] / "reference"


class Igb(Function):
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(),)
    first = Bar(0, 1 << 17)
    second = Bar(1, 1 << 17)
    ports = Bar(2, 32, "io")
    table = Bar(3, 1 << 14, "mem64")


class Nvme(Function):
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(),)
    registers = Bar(0, 1 << 14, "mem64")


def load(name: str) -> list[list[str]]:
    lines = (REFERENCE / f"vfio_config_{name}.txt").read_text().splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def opened(function: Function, rows: list[list[str]]) -> VfioDevice:
    """The function with the reference's registers instead of its own, open under VFIO."""
    system = System()
    topology = Topology(system, vtd_unit(system))
    topology.plug(function)
    topology.settle()
    for offset in range(0, 4096, 4):
        function.config.declare(offset, 4, 0, writable=0xFFFF_FFFF)
    for _, offset_text, value, writable in (row for row in rows if row[0] == "hardware"):
        function.config.declare(int(offset_text, 16), 4, number(value), writable=number(writable))
    device = VfioDevice(system, function, 0, (248, 0))
    with system.lock:
        device.open(Context(system))
    return device


def number(text: str) -> int:
    return int.from_bytes(bytes.fromhex(text), "little")


@pytest.mark.parametrize(("name", "model"), [("igb", Igb), ("nvme", Nvme)])
def test_every_write_leaves_what_the_kernel_shows(name: str, model: type[Function]) -> None:
    rows = load(name)
    config = opened(model(), rows).config
    wrong = []
    for row in rows:
        if row[0] not in ("hardware", "initial"):
            offset, data, value = row
            config.write(int(offset, 16), bytes.fromhex(data))
            got = config.read(int(offset, 16) & ~3, 4).hex()
            if got != value:
                wrong.append((offset, data, value, got))
    assert wrong == []


@pytest.mark.parametrize(("name", "model"), [("igb", Igb), ("nvme", Nvme)])
def test_a_program_sees_at_first_what_the_kernel_shows(name: str, model: type[Function]) -> None:
    rows = load(name)
    config = opened(model(), rows).config
    expected = {row[1]: row[2] for row in rows if row[0] == "hardware"} | {
        row[1]: row[2] for row in rows if row[0] == "initial"
    }
    shown = {f"{offset:03x}": config.read(offset, 4).hex() for offset in range(0, 4096, 4)}
    assert {offset: value for offset, value in shown.items() if value != expected.get(offset, "00000000")} == {}
