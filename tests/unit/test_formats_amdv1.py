"""AMDv1 entries, bit for bit. Examples worked out by hand from AMD 48882, section 2.2.3."""

from __future__ import annotations

import pytest

from ioas.soft.iommu import Prot
from ioas.soft.iommu.formats import AmdV1, Leaf
from ioas.soft.iommu.formats.amdv1 import mock_format

RW = Prot.READ | Prot.WRITE

# An entry:  62 IW | 61 IR | 60 FC | 59 U | 58:52 - | 51:12 address | 11:9 next level | 6 D | 5 A | 0 PR


def entry(form: AmdV1, level: int, address: int, size_lg2: int, prot: int) -> int:
    return (address >> form.granule_lg2) << 12 | form.leaf_bits(level, size_lg2) | (form.attributes[prot] or 0)


@pytest.mark.parametrize(
    ("prot", "high"),
    [
        (Prot.READ, 0x3 << 60),  # IR, FC
        (Prot.WRITE, 0x5 << 60),  # IW, FC
        (RW, 0x7 << 60),
        (RW | Prot.CACHE, 0x7 << 60),  # coherence is the domain's, not the mapping's
        (0, 0x1 << 60),
    ],
)
def test_permissions_stand_at_bits_61_and_62(prot: int, high: int) -> None:
    form = AmdV1()
    assert entry(form, 0, 0x1_2345_6000, 12, prot) == high | 0x1_2345_6001
    assert form.permissions(high) == prot & RW


@pytest.mark.parametrize(
    ("level", "size_lg2", "address", "expected"),
    [
        # Each level's own page size: next level 0.
        (0, 12, 0x0000_1234_5000, 0x7000_0000_1234_5001),
        (1, 21, 0x000F_FFE0_0000, 0x7000_000F_FFE0_0001),
        (2, 30, 0x00C0_4000_0000, 0x7000_00C0_4000_0001),
        # Others: next level 7 (bits 11:9, so 0xe00), and the size in the low address bits:
        (0, 13, 0x0000_0001_2000, 0x7000_0000_0001_2E01),  # 8 KiB: bit 12 is 0
        (0, 14, 0x0000_0001_4000, 0x7000_0000_0001_5E01),  # 16 KiB: bit 13 is 0, bit 12 is 1
        (0, 16, 0x0000_0001_0000, 0x7000_0000_0001_7E01),  # 64 KiB: 15 is 0, 14:12 are 1
        (0, 20, 0x0000_0010_0000, 0x7000_0000_0017_FE01),  # 1 MiB: 19 is 0, 18:12 are 1
        (1, 22, 0x0000_0040_0000, 0x7000_0000_005F_FE01),  # 4 MiB: 21 is 0, 20:12 are 1
        (2, 32, 0x0001_0000_0000, 0x7000_0001_7FFF_FE01),  # 4 GiB: 31 is 0, 30:12 are 1
    ],
)
def test_page_sizes(level: int, size_lg2: int, address: int, expected: int) -> None:
    form = AmdV1()
    assert entry(form, level, address, size_lg2, RW) == expected
    assert form.next_table(expected, level) is None
    assert form.leaf(expected, level) == Leaf(address, size_lg2)


def test_a_pointer_names_the_level_below_and_allows_everything() -> None:
    form = AmdV1()
    # Next level is the spec's number of the table's level: its level 1 is our level 0.
    assert form.table_entry(0x12345, 0) == 0x6000_0000_1234_5201
    assert form.table_entry(0x12345, 2) == 0x6000_0000_1234_5601
    assert form.next_table(0x6000_0000_1234_5201, 1) == (0, 0x12345)
    assert form.next_table(0x6000_0000_1234_5601, 3) == (2, 0x12345)


def test_without_pr_nothing_is_there() -> None:
    assert not AmdV1().present(0x7000_0000_1234_5000)
    assert AmdV1().present(1)


def test_every_power_of_two_is_a_page_size_but_512g() -> None:
    sizes = AmdV1(4).page_sizes
    assert [lg2 for lg2 in range(64) if sizes >> lg2 & 1] == [lg2 for lg2 in range(12, 47) if lg2 != 39]


def test_the_mock_has_granules_of_2k() -> None:
    """7.3, generic_pt: the address field counts granules, and 38 bits of IOVA give sizes from 2K to 64G."""
    form = mock_format()
    assert form.width == 38
    assert [lg2 for lg2 in range(64) if form.page_sizes >> lg2 & 1] == list(range(11, 37))
    # 2 KiB at 0x12800 is granule 0x25; no FC.
    assert entry(form, 0, 0x1_2800, 11, RW) == 0x6000_0000_0002_5001
    # A 4 KiB page is two granules: next level 7, bit 12 is 0.
    assert entry(form, 0, 0x1_2000, 12, RW) == 0x6000_0000_0002_4E01
    assert form.leaf(0x6000_0000_0002_4E01, 0) == Leaf(0x1_2000, 12)
    # 1 MiB is the page of the second level.
    assert entry(form, 1, 0x30_0000, 20, RW) == 0x6000_0000_0060_0001
    # A table in frame 0x123 stands at granule 0x246.
    assert form.table_entry(0x123, 0) == 0x6000_0000_0024_6201
    assert form.next_table(0x6000_0000_0024_6201, 1) == (0, 0x123)
