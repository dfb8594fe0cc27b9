"""Which capabilities a program finds: hidden ones are taken out of the lists (vfio_cap_init, vfio_ecap_init, 7.3)."""

from __future__ import annotations

from typing import ClassVar

from ioas.soft.iommu import System, vtd_unit
from ioas.soft.iommufd import Context
from ioas.soft.pci import Capability, Config, Function, Pcie, Topology
from ioas.soft.vfio import VfioDevice
from ioas.soft.vfio.config_space import ConfigSpace


class Plain(Function):
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(),)


def opened(*registers: tuple[int, int, int]) -> tuple[ConfigSpace, Config]:
    """A function whose space behind the header holds just `registers` (offset, width, value); all else is writable."""
    system = System()
    topology = Topology(system, vtd_unit(system))
    function = Plain()
    topology.plug(function)
    topology.settle()
    for offset in range(0x40, 4096, 4):
        function.config.declare(offset, 4, 0, writable=0xFFFF_FFFF)
    for offset, width, value in registers:
        function.config.declare(offset, width, value)
    device = VfioDevice(system, function, 0, (248, 0))
    with system.lock:
        device.open(Context(system))
    return device.config, function.config


def value(config: ConfigSpace, offset: int, width: int) -> int:
    return int.from_bytes(config.read(offset, width), "little")


def test_a_hidden_capability_is_skipped_and_its_bytes_are_read_and_written_raw() -> None:
    config, hardware = opened((0x34, 1, 0x40), (0x40, 2, 0x500D), (0x50, 2, 0x6011), (0x60, 2, 0x000D))
    assert value(config, 0x34, 1) == 0x50
    assert value(config, 0x50, 2) == 0x0011
    config.write(0x44, b"\x99")
    assert hardware.get(0x44, 1) == 0x99


def test_a_list_of_hidden_capabilities_is_no_list() -> None:
    config, _ = opened((0x34, 1, 0x40), (0x40, 2, 0x000D))
    assert not value(config, 6, 2) & 0x10


def test_a_loop_in_the_list_ends() -> None:
    config, _ = opened((0x34, 1, 0x40), (0x40, 2, 0x4001))
    assert value(config, 0x40, 2) == 0x4001


def test_vendor_capabilities_are_written_through() -> None:
    config, hardware = opened((0x34, 1, 0x40), (0x40, 3, 0x100009))
    config.write(0x44, b"\x12\x34\x56\x78")
    assert hardware.get(0x44, 4) == 0x78563412
    assert value(config, 0x44, 4) == 0x78563412


def test_unknown_bytes_inside_a_known_capability_cannot_be_written() -> None:
    config, hardware = opened((0x34, 1, 0x40), (0x40, 2, 0x0011))
    config.write(0x44, b"\x12\x34\x56\x78")
    assert hardware.get(0x44, 4) == 0


def test_a_hidden_extended_capability_is_skipped_except_that_the_first_stays_as_an_anchor() -> None:
    express = (0x34, 1, 0x40), (0x40, 4, 0x0002_0010)
    first = 0x1B | 1 << 16 | 0x120 << 20
    second = 0x03 | 1 << 16 | 0x140 << 20
    third = 0x1E | 1 << 16 | 0x160 << 20
    fourth = 0x18 | 1 << 16
    config, _ = opened(*express, (0x100, 4, first), (0x120, 4, second), (0x140, 4, third), (0x160, 4, fourth))
    assert value(config, 0x100, 4) == 0x120 << 20
    assert value(config, 0x120, 4) == 0x03 | 1 << 16 | 0x160 << 20
    assert value(config, 0x160, 4) == fourth


def test_an_extended_list_of_hidden_capabilities_is_empty() -> None:
    config, _ = opened((0x34, 1, 0x40), (0x40, 4, 0x0002_0010), (0x100, 4, 0x1B | 1 << 16))
    assert value(config, 0x100, 4) == 0


def test_without_a_pci_express_capability_there_is_no_extended_list() -> None:
    config, _ = opened((0x34, 1, 0), (6, 2, 0), (0x100, 4, 0x1B | 1 << 16))
    assert value(config, 0x100, 4) == 0x1B | 1 << 16


def test_vpd_is_transferred_when_the_address_is_complete() -> None:
    config, hardware = opened((0x34, 1, 0x40), (0x40, 2, 0x0003))
    hardware.declare(0x42, 2, 0, writable=0xFFFF)
    hardware.declare(0x44, 4, 0x1234_5678, writable=0xFFFF_FFFF)

    def transfer() -> None:
        hardware.set(0x42, 2, hardware.get(0x42, 2) ^ 0x8000)

    hardware.watch(0x43, 1, transfer)
    config.write(0x42, b"\x10\x00")
    assert value(config, 0x42, 2) == 0x8010
    assert value(config, 0x44, 4) == 0x1234_5678
    config.write(0x44, b"\xaa\xbb\xcc\xdd")
    assert hardware.get(0x44, 4) == 0x1234_5678
    config.write(0x42, b"\x10\x80")
    assert value(config, 0x42, 2) == 0x0010
    assert hardware.get(0x44, 4) == 0xDDCC_BBAA
