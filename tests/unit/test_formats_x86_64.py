"""First-stage entries, bit for bit. Examples worked out by hand from VT-d's section 9.7."""

from __future__ import annotations

import pytest

from ioas.soft.iommu import Prot
from ioas.soft.iommu.formats import Leaf, X86First

RW = Prot.READ | Prot.WRITE

# An entry:  51:12 address | 7 PS | 6 D | 5 A | 2 U/S | 1 R/W | 0 P


@pytest.mark.parametrize(
    ("level", "size_lg2", "prot", "address", "expected", "allowed"),
    [
        (0, 12, Prot.READ, 0x1_2345_6000, 0x1_2345_6025, Prot.READ),
        (0, 12, RW, 0x1_2345_6000, 0x1_2345_6067, RW),
        (0, 12, Prot.WRITE, 0x1_2345_6000, 0x1_2345_6067, RW),  # what can be written can be read
        (1, 21, RW, 0x1_2340_0000, 0x1_2340_00E7, RW),
        (2, 30, Prot.READ, 0x1_4000_0000, 0x1_4000_00A5, Prot.READ),
    ],
)
def test_pages(level: int, size_lg2: int, prot: int, address: int, expected: int, allowed: int) -> None:
    form = X86First()
    assert address | form.leaf_bits(level, size_lg2) | (form.attributes[prot] or 0) == expected
    assert form.permissions(expected) == allowed
    assert form.next_table(expected, level) is None
    assert form.leaf(expected, level) == Leaf(address, size_lg2)


def test_a_pointer_has_all_permissions_and_no_ps() -> None:
    form = X86First(5)
    assert form.table_entry(0x12345, 0) == 0x1234_5027
    assert form.next_table(0x1234_5027, 1) == (0, 0x12345)
    assert form.next_table(0x1234_5027, 4) == (3, 0x12345)
    # Bit 7 of a PML4 entry is reserved, not PS: it is still a pointer.
    assert form.next_table(0x1234_50A7, 3) == (2, 0x12345)


def test_without_p_there_is_no_entry_and_without_u_s_no_device_gets_in() -> None:
    form = X86First()
    assert not form.present(0x1_2345_6066)
    assert form.permissions(0x1_2345_6063) == 0


@pytest.mark.parametrize(("levels", "width"), [(4, 48), (5, 57)])
def test_levels_give_the_width(levels: int, width: int) -> None:
    assert X86First(levels).width == width


def test_coherency_is_told_to_the_unit_and_not_in_the_table() -> None:
    plain, snooping = X86First(snoop=False), X86First(snoop=True)
    assert (plain.enforces_coherency, snooping.enforces_coherency) == (False, True)
    assert plain.attributes == snooping.attributes
