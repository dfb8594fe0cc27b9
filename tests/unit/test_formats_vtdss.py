"""VT-d second-stage entries, bit for bit. Examples worked out by hand from the specification, section 9.8."""

from __future__ import annotations

import pytest

from ioas.soft.iommu import Prot
from ioas.soft.iommu.formats import Leaf, VtdSecondStage

RW = Prot.READ | Prot.WRITE

# An entry:  51:12 address | 11 SNP | 9 D | 8 A | 7 PS | 1 W | 0 R


def entry(form: VtdSecondStage, level: int, address: int, size_lg2: int, prot: int) -> int:
    return address | form.leaf_bits(level, size_lg2) | (form.attributes[prot] or 0)


@pytest.mark.parametrize(
    ("level", "size_lg2", "prot", "address", "expected"),
    [
        (0, 12, Prot.READ, 0x1_2345_6000, 0x1_2345_6801),
        (0, 12, Prot.WRITE, 0x1_2345_6000, 0x1_2345_6802),
        (0, 12, RW, 0x1_2345_6000, 0x1_2345_6803),
        (0, 12, RW | Prot.CACHE, 0x1_2345_6000, 0x1_2345_6803),
        (1, 21, RW, 0x1_2340_0000, 0x1_2340_0883),  # PS in an SS-PDE: 2 MiB
        (2, 30, RW, 0x1_4000_0000, 0x1_4000_0883),  # PS in an SS-PDPTE: 1 GiB
    ],
)
def test_pages(level: int, size_lg2: int, prot: int, address: int, expected: int) -> None:
    form = VtdSecondStage()
    assert entry(form, level, address, size_lg2, prot) == expected
    assert form.permissions(expected) == prot & RW
    assert form.next_table(expected, level) is None
    assert form.leaf(expected, level) == Leaf(address, size_lg2)


def test_without_snoop_control_bit_11_stays_clear() -> None:
    assert entry(VtdSecondStage(snoop=False), 0, 0x1000, 12, RW) == 0x1003


def test_a_pointer_has_r_and_w_and_no_ps() -> None:
    form = VtdSecondStage()
    assert form.table_entry(0x12345, 0) == 0x1234_5003
    assert form.next_table(0x1234_5003, 1) == (0, 0x12345)
    assert form.next_table(0x1234_5003, 3) == (2, 0x12345)
    # Bit 7 of an SS-PML4E is reserved, not PS: it is still a pointer.
    assert form.next_table(0x1234_5083, 3) == (2, 0x12345)


def test_an_entry_without_r_and_w_is_none() -> None:
    assert not VtdSecondStage().present(0x1_2345_6880)


def test_there_is_no_page_without_permissions() -> None:
    assert VtdSecondStage().attributes[0] is None
    assert VtdSecondStage().attributes[Prot.CACHE] is None


def test_a_nesting_parent_has_no_read_only_pages() -> None:
    """ERRATA_772415_SPR17, as vtdss_pt_iommu_set_prot (7.3)."""
    form = VtdSecondStage(writable_only=True)
    assert form.attributes[Prot.READ] is None
    assert form.attributes[RW] == 0x803


@pytest.mark.parametrize(("levels", "width"), [(3, 39), (4, 48), (5, 57)])
def test_width_follows_from_the_levels(levels: int, width: int) -> None:
    assert VtdSecondStage(levels).width == width
