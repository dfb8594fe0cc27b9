"""Devices of unlike IOMMUs under one address space: it offers what all can do, and says who stands in the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ioas.api import Ioas
from ioas.errors import AddressInUse, InvalidArgument, NotPermitted, NotSupported
from ioas.soft.iommu import Requester, vtd_unit
from ioas.uapi.vfio import VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU
from tests.support.iommufd import MOCK, Iommufd
from tests.support.lab import EDU, lab

LAST = {bits: (1 << bits) - 1 for bits in (38, 39, 47, 48, 56, 57)}
MSI = (0xFEE0_0000, 0xFEEF_FFFF)
BEHIND_1 = EDU + 'unit = "dmar1"\n'
SMALL_AND_BIG = "[[unit]]\n[[unit]]\naddress_width = 39\n" + EDU + BEHIND_1


def ranges(space: Ioas) -> list[tuple[int, int]]:
    return [(found.start, found.last) for found in space.ranges()]


def window(last: int) -> list[tuple[int, int]]:
    """What an address space offers below `last`, with interrupts taken out."""
    return [(0, MSI[0] - 1), (MSI[1] + 1, last)]


def test_the_aperture_narrows_to_what_all_can_do_and_widens_on_detach(tmp_path: Path) -> None:
    with lab(tmp_path, SMALL_AND_BIG) as machine:
        space = machine.iommufd.ioas()
        assert ranges(space) == [(0, (1 << 64) - 1)]
        machine.device(1).attach(space)
        assert ranges(space) == window(LAST[48])
        machine.device(2).attach(space)
        assert ranges(space) == window(LAST[39])
        machine.device(2).detach()
        assert ranges(space) == window(LAST[48])
        machine.device(1).detach()
        assert ranges(space) == [(0, (1 << 64) - 1)]


def test_both_reach_the_same_page_each_by_tables_of_its_own(tmp_path: Path) -> None:
    with lab(tmp_path, SMALL_AND_BIG) as machine:
        space = machine.iommufd.ioas()
        first, second = machine.device(1).attach(space), machine.device(2).attach(space)
        assert first != second
        page = space.alloc(4096, writable=True, iova=LAST[39] - 4095)
        assert machine.function(1).dma.write(page.iova, b"written")
        assert machine.function(2).dma.read(page.iova, 7) == b"written"
        levels = [
            machine.function(number).requester.domains[None].format.levels  # type: ignore[union-attr]
            for number in (1, 2)
        ]
        assert levels == [4, 3]


@pytest.mark.parametrize("iova", [LAST[39] + 1, 1 << 47, LAST[39] + 1 - (1 << 20)])
def test_what_is_mapped_above_the_smaller_aperture_keeps_its_device_out_by_name(tmp_path: Path, iova: int) -> None:
    """As QEMU maps memory above 1 TiB and a client machine's graphics unit has 39 bits."""
    with lab(tmp_path, SMALL_AND_BIG) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        low = space.alloc(4096, writable=True, iova=0)
        high = space.alloc(1 << 21, writable=True, iova=iova)  # the third stands across the boundary
        with pytest.raises(AddressInUse) as info:
            machine.device(2).attach(space)
        refusal = info.value.refusal
        assert f"{iova:#x}-{iova + (1 << 21) - 1:#x}" in refusal.reason
        assert "dmar1" in refusal.reason
        assert "0000:02:00.0" in refusal.reason
        assert refusal.culprit is not None
        assert refusal.culprit.kind == "area"
        assert ranges(space) == window(LAST[48]), "nothing has changed"
        high.close()
        machine.device(2).attach(space)
        assert machine.function(2).dma.write(low.iova, b"x")


def test_ranges_that_were_promised_are_not_taken_back(tmp_path: Path) -> None:
    with lab(tmp_path, SMALL_AND_BIG) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        space.allow([(MSI[1] + 1, LAST[48])])
        with pytest.raises(AddressInUse, match=r"promised by ALLOW_IOVAS.*dmar1") as info:
            machine.device(2).attach(space)
        assert info.value.refusal.culprit is not None
        assert info.value.refusal.culprit.kind == "region"
        space.allow([(MSI[1] + 1, LAST[39])])
        machine.device(2).attach(space)
        with pytest.raises(AddressInUse, match="outside the aperture"):
            space.allow([(MSI[1] + 1, LAST[48])])


def test_nothing_can_be_mapped_where_one_of_them_cannot_go(tmp_path: Path) -> None:
    with lab(tmp_path, SMALL_AND_BIG) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        machine.device(2).attach(space)
        with pytest.raises(
            InvalidArgument, match=r"outside the aperture 0x0-0x7fffffffff of dmar1 before 0000:02:00.0"
        ):
            space.alloc(4096, iova=LAST[39] + 1)


def test_a_region_that_firmware_reserves_for_one_is_reserved_for_all(tmp_path: Path) -> None:
    """A reserved region over the IOVA that a program wants, in each order of mapping and attaching."""
    region = "[{ start = 0x80000000, last = 0x800fffff }]"
    with lab(tmp_path, EDU + EDU + f"reserved = {region}\n") as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        wanted = space.alloc(1 << 20, iova=0x8000_0000)
        with pytest.raises(AddressInUse) as info:
            machine.device(2).attach(space)
        assert re.search(r"0x80000000-0x800fffff .*reserved region of 0000:02:00\.0", info.value.refusal.reason)
        wanted.close()
        machine.device(2).attach(space)
        with pytest.raises(InvalidArgument, match=r"0x80000000-0x800fffff \(reserved region of 0000:02:00\.0\)"):
            space.alloc(4096, iova=0x8008_0000)
        machine.device(2).detach()
        space.alloc(4096, iova=0x8008_0000)


def test_what_a_unit_reserves_is_reserved_for_everything_behind_it(tmp_path: Path) -> None:
    text = "[[unit]]\n[[unit]]\nreserved = [{ start = 0x100000, last = 0x1fffff }]\n" + EDU + BEHIND_1
    with lab(tmp_path, text) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        assert ranges(space) == window(LAST[48])
        machine.device(2).attach(space)
        assert ranges(space) == [(0, 0xF_FFFF), (0x20_0000, MSI[0] - 1), (MSI[1] + 1, LAST[48])]


def test_user_space_may_map_over_what_firmware_can_do_without(tmp_path: Path) -> None:
    relaxable = 'reserved = [{ start = 0x1000, last = 0x1fff, kind = "direct-relaxable" }]\n'
    with lab(tmp_path, EDU + relaxable) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        space.alloc(4096, iova=0x1000)


def test_a_device_whose_memory_firmware_wants_mapped_always_is_given_to_nobody(tmp_path: Path) -> None:
    direct = 'reserved = [{ start = 0x7b800000, last = 0x7fffffff, kind = "direct" }]\n'
    with lab(tmp_path, EDU + direct) as machine, pytest.raises(InvalidArgument) as info:
        machine.device(1)
    assert "0000:01:00.0" in info.value.refusal.reason
    assert str(info.value.refusal.culprit) == "region 0x7b800000-0x7fffffff"


UNLIKE = {
    "width": "address_width = 39",
    "levels": "address_width = 57",
    "pages": 'page_sizes = ["4K"]',
    "coherency": "snoop_control = false",
    "mode": "scalable = true",
    "kind": 'kind = "amd"\nname = "dmar1"',
}


@pytest.mark.parametrize(
    ("unlike", "reused", "words"),
    [
        ("width", False, "48 bits, this unit 39"),
        ("levels", True, ""),
        ("pages", False, "pages of 0x200000 bytes"),
        ("coherency", False, "SNP"),
        ("mode", True, ""),
        ("kind", False, "another kind (dmar0, vtd)"),
    ],
)
def test_a_page_table_serves_another_unit_where_that_can_walk_it(
    tmp_path: Path, unlike: str, reused: bool, words: str
) -> None:
    with lab(tmp_path, f"[[unit]]\n[[unit]]\n{UNLIKE[unlike]}\n" + EDU + BEHIND_1) as machine:
        space = machine.iommufd.ioas()
        first = machine.device(1).attach(space)
        table = machine.iommufd.hwpt(machine.device(1), space)
        if not reused:
            with pytest.raises(InvalidArgument, match=re.escape(words)) as info:
                machine.device(2).attach(table)
            assert "0000:02:00.0 stands behind dmar1" in info.value.refusal.reason
        assert (machine.device(2).attach(space) == first) is reused


@pytest.mark.parametrize(
    ("unlike", "words"),
    [
        ("levels", "57 bits, this unit 48"),
        ("mode", "legacy mode"),
        ("kind", r"another kind \(dmar1, amd\)"),
    ],
)
def test_a_page_table_of_the_better_unit_is_refused_by_the_lesser(tmp_path: Path, unlike: str, words: str) -> None:
    with lab(tmp_path, f"[[unit]]\n[[unit]]\n{UNLIKE[unlike]}\n" + EDU + BEHIND_1) as machine:
        space = machine.iommufd.ioas()
        second = machine.device(2).attach(space)
        with pytest.raises(InvalidArgument, match=words):
            machine.device(1).attach(machine.iommufd.hwpt(machine.device(2), space))
        assert machine.device(1).attach(space) != second


def test_the_pages_of_a_unit_without_large_ones_are_small_and_the_others_stay_large(tmp_path: Path) -> None:
    with lab(tmp_path, f"[[unit]]\n[[unit]]\n{UNLIKE['pages']}\n" + EDU + BEHIND_1) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        machine.device(2).attach(space)
        sizes = [machine.function(number).requester.domains[None].page_sizes for number in (1, 2)]  # type: ignore[union-attr]
        assert sizes == [1 << 12 | 1 << 21 | 1 << 30, 1 << 12]


def test_coherency_counts_as_enforced_only_where_all_tables_enforce_it(tmp_path: Path) -> None:
    """VFIO_DMA_CC_IOMMU of an iommufd as a container. A table without SNP serves a unit that knows it too."""
    with lab(tmp_path, f"[[unit]]\n[[unit]]\n{UNLIKE['coherency']}\n" + EDU + BEHIND_1) as machine:
        space = machine.iommufd.ioas()
        machine.iommufd.vfio_ioas = space.id
        first = machine.device(1).attach(space)
        assert machine.iommufd.ioctl(VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU) == 1
        second = machine.device(2).attach(space)
        assert first != second
        assert machine.iommufd.ioctl(VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU) == 0
        machine.device(1).detach()
        assert machine.device(1).attach(space) == second, "the table that is left serves both"


def test_a_unit_that_can_be_bypassed_is_refused_beside_one_that_cannot(tmp_path: Path) -> None:
    text = "[[unit]]\n[[unit]]\nforce_aperture = false\n" + EDU + BEHIND_1
    with lab(tmp_path, text) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        with pytest.raises(NotPermitted, match=r"dmar1 lets DMA outside the aperture pass") as info:
            machine.device(2).attach(space)
        assert str(info.value.refusal.culprit) == "device 0000:02:00.0"
        assert ranges(space) == window(LAST[48])
    with lab(tmp_path, '[machine]\nisolation = "kernel"\n' + text) as machine:
        machine.device(2).attach(machine.iommufd.ioas())


WITHOUT_REMAPPING = "[[unit]]\n[[unit]]\ninterrupt_remapping = false\n" + EDU + BEHIND_1
PARAMETER = "/sys/module/iommufd/parameters/allow_unsafe_interrupts"


@pytest.mark.parametrize("number", [1, 2])
def test_without_interrupt_remapping_in_one_unit_no_device_is_given_out(tmp_path: Path, number: int) -> None:
    """The kernel turns remapping on for all units or for none."""
    with lab(tmp_path, WITHOUT_REMAPPING) as machine:
        with pytest.raises(NotPermitted) as info:
            machine.device(number)
        assert f"0000:{number:02x}:00.0" in info.value.refusal.reason
        assert "allow_unsafe_interrupts of iommufd is off" in info.value.refusal.reason
        assert str(info.value.refusal.culprit) == "device dmar1"
        tree = machine.host.machine.tree
        assert tree.read(PARAMETER) == b"N\n"
        tree.write(PARAMETER, b"Y\n")
        machine.device(number)
        assert tree.read(PARAMETER) == b"Y\n"
        assert tree.read(PARAMETER.replace("iommufd", "vfio_iommu_type1")) == b"N\n"


def test_a_machine_file_may_allow_unsafe_interrupts_from_the_start(tmp_path: Path) -> None:
    with lab(tmp_path, "[machine]\nallow_unsafe_interrupts = true\n" + WITHOUT_REMAPPING) as machine:
        machine.device(1).attach(machine.iommufd.ioas())


def test_units_of_another_kind_remap_for_themselves(tmp_path: Path) -> None:
    text = '[[unit]]\ninterrupt_remapping = false\n[[unit]]\nkind = "amd"\nname = "dmar1"\n' + EDU + BEHIND_1
    with lab(tmp_path, text) as machine:
        machine.device(2)
        with pytest.raises(NotPermitted):
            machine.device(1)


@pytest.mark.parametrize(
    ("written", "shown"),
    [("1", "Y"), ("yes", "Y"), ("on", "Y"), ("true", "Y"), ("n", "N"), ("off\n", "N"), ("0", "N")],
)
def test_a_parameter_takes_what_the_kernel_takes_for_a_truth(tmp_path: Path, written: str, shown: str) -> None:
    with lab(tmp_path, "") as machine:
        tree = machine.host.machine.tree
        tree.write(PARAMETER, b"1" if shown == "N" else b"0")
        tree.write(PARAMETER, written.encode())
        assert tree.read(PARAMETER).decode() == f"{shown}\n"


def test_writing_nothing_to_a_parameter_changes_nothing(tmp_path: Path) -> None:
    with lab(tmp_path, "[machine]\nallow_unsafe_interrupts = true") as machine:
        machine.host.machine.tree.write(PARAMETER, b"")
        assert machine.host.machine.tree.read(PARAMETER) == b"Y\n"


@pytest.mark.parametrize("written", ["x", "o", "\n", "2"])
def test_anything_else_is_no_truth(tmp_path: Path, written: str) -> None:
    with lab(tmp_path, "") as machine, pytest.raises(OSError, match="Invalid argument"):
        machine.host.machine.tree.write(PARAMETER, written.encode())


@pytest.mark.parametrize(
    ("unit", "last"),
    [
        ("address_width = 39", LAST[39]),
        ("address_width = 57", LAST[57]),
        ("scalable = true", LAST[47]),
        ("scalable = true\naddress_width = 57", LAST[56]),
        ("scalable = true\naddress_width = 39", LAST[38]),
        ('kind = "amd"\naddress_width = 39', LAST[39]),
        ('kind = "amd"\naddress_width = 57', LAST[57]),
    ],
)
def test_memory_at_the_end_of_each_aperture_is_reached_and_nothing_beyond(tmp_path: Path, unit: str, last: int) -> None:
    with lab(tmp_path, f"[[unit]]\n{unit}\n" + EDU) as machine:
        space = machine.iommufd.ioas()
        machine.device(1).attach(space)
        assert ranges(space)[-1][1] == last
        page = space.alloc(4096, writable=True, iova=last - 4095)
        assert machine.function(1).dma.write(last - 3, b"last")
        assert bytes(page.view[-4:]) == b"last"
        assert machine.function(1).dma.read(last + 1, 1) is None
        assert [fault.reason for fault in machine.host.faults()] == ["aperture"]


def test_amd_units_all_do_what_the_narrowest_can(tmp_path: Path) -> None:
    text = '[[unit]]\nkind = "amd"\naddress_width = 57\n[[unit]]\nkind = "amd"\naddress_width = 39\nname = "dmar1"\n'
    with lab(tmp_path, text + EDU + BEHIND_1) as machine:
        space = machine.iommufd.ioas()
        first = machine.device(1).attach(space)
        assert ranges(space)[-1][1] == LAST[39]
        assert machine.device(2).attach(space) == first


def test_a_nesting_parent_keeps_the_whole_width_of_the_second_stage(tmp_path: Path) -> None:
    with lab(tmp_path, "[[unit]]\nscalable = true\n" + EDU) as machine:
        space = machine.iommufd.ioas()
        machine.iommufd.hwpt(machine.device(1), space, nest_parent=True)
        assert ranges(space) == [(0, LAST[48])], "no device is attached that could send interrupts"
        machine.device(1).attach(space)
        assert ranges(space) == window(LAST[47])


def test_a_unit_in_legacy_mode_does_not_nest(tmp_path: Path) -> None:
    with lab(tmp_path, EDU) as machine, pytest.raises(NotSupported, match="nesting"):
        machine.iommufd.hwpt(machine.device(1), machine.iommufd.ioas(), nest_parent=True)


def test_alignment_is_the_largest_of_the_smallest_pages() -> None:
    """The selftests' mock has pages of 2 KiB, every real unit of 4: the one narrows what the other allows."""
    iommufd = Iommufd()
    requester = Requester(iommufd.system, "0000:01:00.0", vtd_unit(iommufd.system), iommufd.system.add_group())
    device = iommufd.bind(requester)
    ioas = iommufd.alloc()
    iommufd.mock(ioas)
    assert iommufd.ranges(ioas)[1] == 2048
    memory = iommufd.caller.memory.map(1)
    half = iommufd.map(ioas, memory + 2048, 2048, MOCK + 2048)
    with pytest.raises(AddressInUse, match=r"area 0x1000800-0x1000fff is not aligned to 4096"):
        device.attach(ioas)
    iommufd.unmap(ioas, half, 2048)
    device.attach(ioas)
    assert iommufd.ranges(ioas)[1] == 4096
    with pytest.raises(InvalidArgument, match="no multiple of 4096, the smallest page of dmar0"):
        iommufd.map(ioas, memory + 2048, 2048, MOCK + 2048)
    device.detach()
    assert iommufd.ranges(ioas)[1] == 2048


def test_a_device_that_firmware_has_left_out_is_nobodys_beside_those_behind_a_unit(tmp_path: Path) -> None:
    with lab(tmp_path, EDU + EDU + 'unit = "none"\n') as machine:
        assert machine.function(2).requester.group is None
        tree = machine.host.machine.tree
        assert "iommu_group" not in tree.listdir("/sys/bus/pci/devices/0000:02:00.0")
        assert machine.host.devices() == ["0000:01:00.0"], "vfio-pci does not take it (EINVAL)"
        machine.device(1).attach(machine.iommufd.ioas())
