"""SR-IOV: virtual functions appear where a kernel looks for them, in groups of their own (drivers/pci/iov.c, 7.3)."""

from __future__ import annotations

from typing import ClassVar

import pytest

from ioas.errors import UsageError
from ioas.soft.pci import Bar, Capability, Function, Pcie, SrIov, VirtualFunction, header, virtual
from ioas.soft.pci.capabilities import sriov
from tests.support.machine import Machine, machine, map_memory
from tests.support.sriov_model import VENDOR, VF_DEVICE, VFS, Physical, Virtual

ONES16 = b"\xff\xff"


def appeared(count: int = VFS) -> tuple[Machine, Physical, list[Virtual]]:
    physical = Physical()
    made = machine(physical)
    functions = virtual.enable(made.topology, physical, count)
    return made, physical, [each for each in functions if isinstance(each, Virtual)]


def registers(physical: Function) -> int:
    placed = physical.find(SrIov)
    assert placed is not None
    return placed[1]


def test_the_capability_tells_how_many_there_can_be_and_where() -> None:
    physical = Physical()
    machine(physical)
    start = registers(physical)
    for offset, value in (
        (sriov.INITIAL_VFS, VFS),
        (sriov.TOTAL_VFS, VFS),
        (sriov.NUM_VFS, 0),
        (sriov.FIRST_VF_OFFSET, 0x80),
        (sriov.VF_STRIDE, 2),
        (sriov.VF_DEVICE_ID, VF_DEVICE),
    ):
        assert physical.config.get(start + offset, 2) == value


def test_a_vf_bar_register_is_sized_as_one_vfs_bar_and_stands_for_all() -> None:
    made, physical, functions = appeared()
    start = registers(physical) + sriov.VF_BAR0
    base = physical.config.get(start, 8) & ~0xF
    assert [each.bar_address(0) for each in functions] == [base + 0x4000 * n for n in range(VFS)]
    physical.config.write(start, b"\xff" * 8)
    assert physical.config.get(start, 8) == (1 << 64) - 0x4000 | 0xC
    assert made.topology.functions["0000:01:00.0"] is physical


def test_all_vfs_lie_in_the_window_of_the_port_and_apart_from_other_bars() -> None:
    _, physical, functions = appeared()
    spans = [(each.bar_address(0), 0x4000) for each in (physical, *functions)]
    assert all(a == b or a[0] + a[1] <= b[0] or b[0] + b[1] <= a[0] for a in spans for b in spans)


def test_they_stand_at_offset_and_stride_from_their_pf_in_groups_of_their_own() -> None:
    made, physical, functions = appeared(3)
    assert [str(each.bdf) for each in functions] == ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4"]
    groups = {id(each.requester.group) for each in (physical, *functions)}
    assert len(groups) == 4
    for each in functions:
        virtual.remove(made.topology, each)
    assert physical.config.get(registers(physical) + sriov.CONTROL, 2) == 0
    assert list(made.topology.functions) == ["0000:01:00.0"]
    assert len(made.system.groups) == 3  # host bridge, port, PF


def test_ids_bars_and_most_of_the_command_register_read_as_the_specification_wants() -> None:
    _, _, (first, *_) = appeared()
    assert first.config.read(0, 4) == ONES16 * 2
    first.config.write(header.COMMAND, ONES16)
    assert first.config.get(header.COMMAND, 2) == header.COMMAND_MASTER
    first.config.write(header.BAR0, b"\xff" * 24)
    assert first.config.read(header.BAR0, 24) == bytes(24)
    assert first.vendor_id == VENDOR


def test_memory_decoding_is_the_pfs_to_turn_on() -> None:
    _, physical, (first, *_) = appeared()
    first.bar_write(0, 0, b"\x07\0\0\0")
    assert first.bar_read(0, 0, 4) == b"\x07\0\0\0"
    control = registers(physical) + sriov.CONTROL
    physical.config.write(control, sriov.VF_ENABLE.to_bytes(2, "little"))
    assert first.bar_read(0, 0, 4) == ONES16 * 2
    physical.config.write(control, (sriov.VF_ENABLE | sriov.VF_MEMORY).to_bytes(2, "little"))
    assert first.bar_read(0, 0, 4) == b"\x07\0\0\0"


def test_each_vf_reaches_its_own_memory_alone() -> None:
    made, _, functions = appeared(2)
    rams = [map_memory(made.system, each, 0x10000) for each in functions]
    for each in functions:
        each.bar_write(0, 8, (0x10000).to_bytes(8, "little"))
    assert [bytes(ram.page(0)[:4]) for ram in rams] == [b"\0\0\0\0", b"\x01\0\0\0"]
    functions[1].bar_write(0, 8, (0x10004).to_bytes(8, "little"))
    assert [bytes(ram.page(0)[4:8]) for ram in rams] == [b"\0\0\0\0", b"\x01\0\0\0"]


def test_a_reset_of_one_vf_leaves_the_others_and_one_of_the_pf_resets_all() -> None:
    _, physical, functions = appeared(2)
    for each in (physical, *functions):
        each.counter = 5
    functions[0].reset_by("flr")
    assert [each.counter for each in functions] == [0, 5]
    physical.reset_by("flr")
    assert [each.counter for each in functions] == [0, 0]
    assert all(each.memory_enabled for each in functions)


@pytest.mark.parametrize("numbers", [(0, 0x80, 2), (1, 0, 2), (1, 0x80, 0), (65, 0x80, 2)])
def test_vfs_must_fit_onto_the_bus_of_their_pf(numbers: tuple[int, int, int]) -> None:
    total, offset, stride = numbers
    with pytest.raises(UsageError, match="bus"):
        SrIov(Virtual, total, offset=offset, stride=stride)


def test_vfs_are_of_their_pfs_vendor_and_have_memory_bars_of_whole_pages() -> None:
    class Foreign(VirtualFunction):
        vendor_id: ClassVar[int] = 0x4321

    class Small(VirtualFunction):
        vendor_id: ClassVar[int] = VENDOR
        window = Bar(0, 16)

    for kind, complaint in ((Foreign, "vendor"), (Small, "pages")):

        class Wrong(Function):
            vendor_id: ClassVar[int] = VENDOR
            capabilities: ClassVar[tuple[Capability, ...]] = (Pcie(), SrIov(kind, 1))

        with pytest.raises(UsageError, match=complaint):
            Wrong()
