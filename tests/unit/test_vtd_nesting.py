"""Nesting on the VT-d unit: a program's own first-stage table, in its own memory, under a DMA-capable device.

What hardware would do is the VT-d specification's word: translations are cached until they are invalidated, walks go
through the second stage, and set A and D.
"""

from __future__ import annotations

from ctypes import sizeof

import pytest

from ioas.errors import InvalidArgument, KernelError, NotSupported
from ioas.soft.iommu import Requester, System, vtd_unit
from ioas.soft.iommu.formats.x86fs import PS, RW, US, A, D, P
from ioas.soft.iommufd import Device
from ioas.uapi import iommufd as uapi
from tests.support.iommufd import PAGE, RW as MAP_RW, Iommufd

GUEST = 0x10_0000
"""Where the program's memory stands in the second stage: its guest-physical addresses."""
TABLES = GUEST
DATA = GUEST + 16 * PAGE
PAGES = 1024
GIOVA = 0x7000_0000_0000


class Guest:
    """A machine with a nesting unit, a device behind it, and a program whose memory holds page tables and data."""

    def __init__(self, *, scalable: bool = True, width: int = 48, flags: int = 0, attach: bool = True) -> None:
        self.iommufd = iommufd = Iommufd(System())
        unit = vtd_unit(iommufd.system, scalable=scalable)
        self.requester = Requester(iommufd.system, "0000:01:00.0", unit, iommufd.system.add_group())
        self.dma = self.requester.dma
        self.device = Device.bind(iommufd.context, self.requester)
        self.ioas = iommufd.alloc()
        self.memory = iommufd.caller.memory.map(PAGES)
        iommufd.map(self.ioas, self.memory, PAGES * PAGE, GUEST, flags=MAP_RW)
        self.parent = iommufd.hwpt(self.device.id, self.ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT)
        self.next_table = TABLES + PAGE
        self.table = self.make(TABLES, width, flags)
        if attach:
            self.device.attach(self.table)

    def make(self, root: int, width: int = 48, flags: int = 0) -> int:
        data = uapi.iommu_hwpt_vtd_s1(flags=flags, pgtbl_addr=root, addr_width=width)
        place = self.iommufd.caller.memory.map(1)
        self.iommufd.caller.memory.write(place, bytes(data))
        return self.iommufd.hwpt(
            self.device.id,
            self.parent,
            data_type=uapi.IOMMU_HWPT_DATA_VTD_S1,
            data_len=sizeof(data),
            data_uptr=place,
        )

    def peek(self, guest: int) -> int:
        return int.from_bytes(self.iommufd.caller.memory.read(self.memory + guest - GUEST, 8), "little")

    def poke(self, guest: int, entry: int) -> None:
        self.iommufd.caller.memory.write(self.memory + guest - GUEST, entry.to_bytes(8, "little"))

    def entry(self, giova: int, level: int = 0) -> int:
        """Where the entry of `level` for `giova` stands; the tables above are made."""
        table = TABLES
        for above in range(3, level, -1):
            place = table + (giova >> 12 + 9 * above & 511) * 8
            if not self.peek(place) & P:
                self.poke(place, self.next_table | P | RW | US)
                self.next_table += PAGE
            table = self.peek(place) & -PAGE & (1 << 52) - 1
        return table + (giova >> 12 + 9 * level & 511) * 8

    def set(self, giova: int, target: int, bits: int = P | RW | US, level: int = 0) -> int:
        place = self.entry(giova, level)
        self.poke(place, target | bits)
        return place

    def invalidate(self, address: int, pages: int, **fields: int) -> int:
        entry = uapi.iommu_hwpt_vtd_s1_invalidate(addr=address, npages=pages, **fields)
        place = self.iommufd.caller.memory.map(1)
        self.iommufd.caller.memory.write(place, bytes(entry))
        command = uapi.iommu_hwpt_invalidate(
            hwpt_id=self.table,
            data_uptr=place,
            data_type=uapi.IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
            entry_len=sizeof(entry),
            entry_num=1,
        )
        return self.iommufd.call(uapi.IOMMU_HWPT_INVALIDATE, command).entry_num

    def data(self, page: int, text: bytes) -> None:
        self.iommufd.caller.memory.write(self.memory + DATA - GUEST + page * PAGE, text)

    def seen(self, page: int, length: int) -> bytes:
        return self.iommufd.caller.memory.read(self.memory + DATA - GUEST + page * PAGE, length)


def test_dma_goes_through_both_stages() -> None:
    guest = Guest()
    guest.set(GIOVA, DATA)
    guest.set(GIOVA + PAGE, DATA + 5 * PAGE)
    guest.data(0, b"first page")
    guest.data(5, b"sixth page")
    assert guest.dma.read(GIOVA, 10) == b"first page"
    assert guest.dma.read(GIOVA + PAGE, 10) == b"sixth page"
    assert guest.dma.write(GIOVA + PAGE - 2, b"over")
    assert guest.seen(5, 2) == b"er"
    assert not guest.iommufd.system.faults


def test_an_edited_entry_is_seen_only_after_it_was_invalidated() -> None:
    guest = Guest()
    guest.data(0, b"old")
    guest.data(1, b"new")
    guest.set(GIOVA, DATA)
    assert guest.dma.read(GIOVA, 3) == b"old"
    guest.set(GIOVA, DATA + PAGE)
    assert guest.dma.read(GIOVA, 3) == b"old", "still cached"
    assert guest.invalidate(GIOVA + PAGE, 1) == 1
    assert guest.dma.read(GIOVA, 3) == b"old", "another page was invalidated"
    assert guest.invalidate(GIOVA, 1) == 1
    assert guest.dma.read(GIOVA, 3) == b"new"


def test_what_was_not_present_is_not_cached() -> None:
    guest = Guest()
    guest.data(0, b"now")
    assert guest.dma.read(GIOVA, 3) is None
    assert guest.iommufd.system.faults[-1].reason == "not mapped"
    guest.set(GIOVA, DATA)
    assert guest.dma.read(GIOVA, 3) == b"now"


def test_everything_can_be_invalidated_at_once() -> None:
    guest = Guest()
    guest.data(0, b"old")
    for page in range(3):
        guest.set(GIOVA + page * PAGE, DATA)
        assert guest.dma.read(GIOVA + page * PAGE, 3) == b"old"
        guest.set(GIOVA + page * PAGE, 0, bits=0)
    assert guest.invalidate(0, (1 << 64) - 1) == 1
    assert [guest.dma.read(GIOVA + page * PAGE, 3) for page in range(3)] == [None] * 3


def test_unmapping_the_second_stage_takes_it_from_the_first_at_once() -> None:
    guest = Guest()
    guest.set(GIOVA, DATA)
    assert guest.dma.write(GIOVA, b"x")
    guest.iommufd.unmap(guest.ioas, GUEST, PAGES * PAGE)
    assert not guest.dma.write(GIOVA, b"y")


@pytest.mark.parametrize("level", [1, 2])
def test_large_pages(level: int) -> None:
    size = PAGE << 9 * level
    guest = Guest()
    guest.data(3, b"inside")
    giova = GIOVA & -(1 << 30)
    offset = DATA + 3 * PAGE & size - 1
    guest.set(giova, DATA & -size, P | RW | US | PS, level)
    assert guest.dma.read(giova + offset, 6) == b"inside"


@pytest.mark.parametrize(
    ("bits", "readable", "writable"),
    [(P | RW | US, True, True), (P | US, True, False), (P | RW, False, False), (RW | US, False, False)],
)
def test_permissions_are_those_of_user_level_requests(bits: int, readable: bool, writable: bool) -> None:
    guest = Guest()
    guest.set(GIOVA, DATA, bits)
    assert (guest.dma.read(GIOVA, 1) is not None) is readable
    assert guest.dma.write(GIOVA, b"x") is writable


def test_a_table_above_takes_permission_away() -> None:
    guest = Guest()
    guest.set(GIOVA, DATA)
    above = guest.entry(GIOVA, level=2)
    guest.poke(above, guest.peek(above) & ~RW)
    assert guest.dma.read(GIOVA, 1) is not None
    assert not guest.dma.write(GIOVA, b"x")


def test_walks_set_a_and_writes_set_d() -> None:
    guest = Guest()
    place = guest.set(GIOVA, DATA)
    assert guest.dma.read(GIOVA, 1) is not None
    assert guest.peek(place) & (A | D) == A
    assert all(guest.peek(guest.entry(GIOVA, level)) & A for level in (1, 2, 3))
    assert guest.dma.write(GIOVA, b"x")
    assert guest.peek(place) & (A | D) == A | D
    guest.poke(place, guest.peek(place) & ~D)
    guest.invalidate(GIOVA, 1)
    assert guest.dma.write(GIOVA, b"x")
    assert guest.peek(place) & D, "what was made clean and invalidated becomes dirty again"


def test_a_table_outside_the_second_stage_translates_nothing() -> None:
    guest = Guest()
    guest.poke(guest.entry(GIOVA, level=2), 0x5000_0000 | P | RW | US)
    assert guest.dma.read(GIOVA, 1) is None
    guest.set(GIOVA + (1 << 39), 0x5000_0000)
    assert guest.dma.read(GIOVA + (1 << 39), 1) is None


def test_addresses_beyond_the_first_stage_fault() -> None:
    guest = Guest()
    assert guest.dma.read(1 << 48, 1) is None
    assert guest.iommufd.system.faults[-1].reason == "aperture"


@pytest.mark.parametrize(
    ("width", "flags"), [(39, 0), (57, 0), (0, 0), (48, uapi.IOMMU_VTD_S1_SRE), (48, uapi.IOMMU_VTD_S1_EAFE)]
)
def test_what_the_unit_does_not_have_is_refused_when_a_device_attaches(width: int, flags: int) -> None:
    guest = Guest(width=width, flags=flags, attach=False)
    with pytest.raises(InvalidArgument):
        guest.device.attach(guest.table)


@pytest.mark.parametrize(
    ("address", "pages", "fields", "error"),
    [
        (1, 1, {}, "EINVAL"),
        (PAGE, (1 << 64) - 1, {}, "EINVAL"),
        (0, 1, {"flags": 2}, "EOPNOTSUPP"),
        (0, 1, {"__reserved": 1}, "EOPNOTSUPP"),
    ],
)
def test_wrong_invalidations(address: int, pages: int, fields: dict[str, int], error: str) -> None:
    with pytest.raises(KernelError, match=error):
        Guest().invalidate(address, pages, **fields)


def test_without_scalable_mode_there_is_no_nesting() -> None:
    with pytest.raises(NotSupported):
        Guest(scalable=False)


def test_the_unit_says_that_it_nests() -> None:
    def extended(scalable: bool) -> int:
        unit = vtd_unit(System(), scalable=scalable)
        return uapi.iommu_hw_info_vtd.from_buffer_copy(unit.hw_info(0)[1]).ecap_reg

    assert extended(True) & (1 << 26 | 1 << 43 | 1 << 47) == 1 << 26 | 1 << 43 | 1 << 47
    assert not extended(False) & (1 << 26 | 1 << 43)


def chain(guest: Guest, root: int, target: int) -> int:
    """Tables from `root` on, four pages, that map GIOVA to `target`; where the last entry stands."""
    table = root
    for level in (3, 2, 1):
        guest.poke(table + (GIOVA >> 12 + 9 * level & 511) * 8, table + PAGE | P | RW | US)
        table += PAGE
    place = table + (GIOVA >> 12 & 511) * 8
    guest.poke(place, target | P | RW | US)
    return place


def test_each_pasid_has_a_first_stage_of_its_own_and_is_invalidated_by_itself() -> None:
    guest = Guest(attach=False)
    guest.requester.max_pasid_log2 = 8
    places, tables = {}, {}
    for pasid in (1, 2):
        guest.data(pasid, b"old %d" % pasid)
        guest.data(pasid + 2, b"new %d" % pasid)
        places[pasid] = chain(guest, TABLES + 4 * pasid * PAGE, DATA + pasid * PAGE)
        data = uapi.iommu_hwpt_vtd_s1(pgtbl_addr=TABLES + 4 * pasid * PAGE, addr_width=48)
        where = guest.iommufd.caller.memory.map(1)
        guest.iommufd.caller.memory.write(where, bytes(data))
        tables[pasid] = guest.iommufd.hwpt(
            guest.device.id,
            guest.parent,
            uapi.IOMMU_HWPT_ALLOC_PASID,
            data_type=uapi.IOMMU_HWPT_DATA_VTD_S1,
            data_len=sizeof(data),
            data_uptr=where,
        )
        guest.device.attach(tables[pasid], pasid)

    def seen() -> list[bytes | None]:
        return [guest.dma.read(GIOVA, 5, pasid) for pasid in (1, 2)]

    assert seen() == [b"old 1", b"old 2"]
    for pasid in (1, 2):
        guest.poke(places[pasid], DATA + (pasid + 2) * PAGE | P | RW | US)
    assert seen() == [b"old 1", b"old 2"], "both are cached"
    guest.table = tables[1]
    guest.invalidate(GIOVA, 1)
    assert seen() == [b"new 1", b"old 2"]
    guest.device.detach(2)
    assert seen() == [b"new 1", None]
    guest.iommufd.unmap(guest.ioas, GUEST, PAGES * PAGE)
    assert seen() == [None, None]
