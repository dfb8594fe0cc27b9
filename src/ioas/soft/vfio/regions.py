"""Reads and writes of a device file: BARs, ROM, configuration space (follows vfio_pci_rdwr.c, 7.3); mapped BARs.

The file offset is the region's index << 40 plus the byte in the region. Reads and writes of BARs are cut into aligned
pieces of 8, 4, 2 and 1 bytes; the MSI-X table is a hole in its BAR that reads as ones and drops writes. Loads and
stores through a mapping reach the function as the processor makes them, the MSI-X table included.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EINVAL, EIO, ENOMEM
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import refuse
from ioas.host import PAGE_SIZE
from ioas.soft.pci import Bar, Config
from ioas.soft.vfio import permissions as rules
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.vfio.device import VfioDevice

OFFSET_SHIFT = 40
OFFSET_MASK = (1 << OFFSET_SHIFT) - 1


class MsixTable(NamedTuple):
    """Where the MSI-X table lies: BAR (-1: there is none), offset and size in bytes."""

    bar: int = -1
    offset: int = 0
    size: int = 0

    @classmethod
    def of(cls, config: Config) -> MsixTable:
        """The table that the MSI-X capability describes."""
        start = config.find(rules.MSIX)
        if start is None:
            return cls()
        place = config.get(start + 4, 4)
        return cls(place & 7, place & ~7, ((config.get(start + 2, 2) & 0x7FF) + 1) * 16)

    def overlaps(self, bar: int, offset: int, length: int) -> bool:
        """Whether `length` bytes at `offset` of BAR `bar` touch the table."""
        return bar == self.bar and offset < self.offset + self.size and self.offset < offset + length


def read(device: VfioDevice, offset: int, count: int) -> bytes:
    """Read up to `count` bytes at file offset `offset`; short at the end of a BAR.

    Raises KernelError: EINVAL for a region that is not there or an offset behind its end, EIO while memory
    decoding is off, EFAULT beyond configuration space, ENOMEM for a ROM without a valid image.
    """
    if not count:
        return b""
    index, position = offset >> OFFSET_SHIFT, offset & OFFSET_MASK
    if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
        return device.config.read(position, count)
    if index == uapi.VFIO_PCI_ROM_REGION_INDEX:
        return _read_rom(device, position, count)
    bar, count = _bar(device, index, position, count)
    data = bytearray()
    for at, width, there in _pieces(device.msix_table, index, position, count):
        if there:
            _check_decoding(device, bar)
            data += device.function.bar_read(index, at, width)
        else:
            data += b"\xff" * width
    return bytes(data)


def write(device: VfioDevice, offset: int, data: bytes) -> int:
    """Write at file offset `offset`; how many bytes were taken. Raises KernelError as `read`; EINVAL for the ROM."""
    if not data:
        return 0
    index, position = offset >> OFFSET_SHIFT, offset & OFFSET_MASK
    if index == uapi.VFIO_PCI_CONFIG_REGION_INDEX:
        device.config.write(position, data)
        return len(data)
    if index == uapi.VFIO_PCI_ROM_REGION_INDEX:
        raise refuse(EINVAL, "the ROM cannot be written", "region", "ROM")
    bar, count = _bar(device, index, position, len(data))
    for at, width, there in _pieces(device.msix_table, index, position, count):
        if there:
            _check_decoding(device, bar)
            device.function.bar_write(index, at, data[at - position : at - position + width])
    return count


def mappable(device: VfioDevice) -> frozenset[int]:
    """The BARs that a kernel lets programs map (vfio_pci_probe_mmaps, 7.3).

    Memory of at least a page; smaller ones when they begin a page and nothing else on the bus lies in it.
    """
    function = device.function
    neighbours = [
        (each, bar)
        for each in function.place.bus.functions.values()
        for bar in each.bars
        if bar is not None and not bar.is_io
    ]
    pages = [each.bar_address(bar.index) // PAGE_SIZE for each, bar in neighbours]
    return frozenset(
        bar.index
        for each, bar in neighbours
        if each is function and (bar.size >= PAGE_SIZE or _alone_in_page(each.bar_address(bar.index), pages))
    )


def _alone_in_page(address: int, pages: list[int]) -> bool:
    return address % PAGE_SIZE == 0 and pages.count(address // PAGE_SIZE) == 1


def check_mapping(device: VfioDevice, length: int, shared: bool, offset: int) -> None:
    """Refuse what cannot be mapped: `length` bytes at file offset `offset` (vfio_pci_core_mmap, 7.3).

    Raises KernelError(EINVAL): no such region, a private mapping, a region without the MMAP flag, or beyond its end.
    """
    index, position = offset >> OFFSET_SHIFT, offset & OFFSET_MASK
    if index >= uapi.VFIO_PCI_NUM_REGIONS:
        raise refuse(EINVAL, "the device has no such region", "region", index)
    if not shared:
        raise refuse(EINVAL, "device memory cannot be mapped privately (MAP_PRIVATE)", "region", index)
    bar = device.function.bars[index] if index in device.mappable_bars else None
    if bar is None:
        raise refuse(EINVAL, "the region cannot be mapped (no MMAP flag)", "region", index)
    room = -(-bar.size // PAGE_SIZE) * PAGE_SIZE
    if position + -(-length // PAGE_SIZE) * PAGE_SIZE > room:
        raise refuse(
            EINVAL,
            f"{length:#x} bytes at {position:#x} go beyond the region ({room:#x} with its last page)",
            "region",
            index,
        )


def _bar(device: VfioDevice, index: int, position: int, count: int) -> tuple[Bar, int]:
    """The BAR, and how many of `count` bytes it has from `position`."""
    bar = device.function.bars[index] if 0 <= index <= uapi.VFIO_PCI_BAR5_REGION_INDEX else None
    if bar is None:
        raise refuse(EINVAL, "the device has no such region", "region", index)
    if position >= bar.size:
        raise refuse(EINVAL, f"offset {position:#x} is behind the end of the region ({bar.size:#x})", "region", index)
    return bar, min(count, bar.size - position)


def _check_decoding(device: VfioDevice, bar: Bar) -> None:
    """I/O ports are not checked, as in 7.3: with decoding off they read as ones."""
    if not bar.is_io and not device.memory_enabled:
        raise refuse(
            EIO, "memory decoding is off (bit 1 of the command register), or the function sleeps", "region", bar.index
        )


def _pieces(table: MsixTable, index: int, position: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """(offset, width, whether the device answers there) of the accesses that make up one read or write."""
    end = position + count
    hole = (table.offset, table.offset + table.size) if index == table.bar else (end, end)
    while position < end:
        if hole[0] <= position < hole[1]:
            width = min(end, hole[1]) - position
            yield position, width, False
        else:
            room = (hole[0] if position < hole[0] else end) - position
            width = next(w for w in (8, 4, 2, 1) if w <= min(room, end - position) and position % w == 0)
            yield position, width, True
        position += width


def _read_rom(device: VfioDevice, position: int, count: int) -> bytes:
    """The ROM's image, with ones behind it up to the size of the window."""
    rom = device.function.rom
    if rom is None:
        raise refuse(EINVAL, "the device has no ROM", "region", "ROM")
    if position >= rom.size:
        raise refuse(EINVAL, f"offset {position:#x} is behind the end of the ROM ({rom.size:#x})", "region", "ROM")
    image = rom_image_size(rom.contents)
    if not image:
        raise refuse(ENOMEM, "the ROM holds no valid image", "region", "ROM")
    count = min(count, rom.size - position)
    if position < image:
        _check_decoding(device, rom)
    return rom.contents[position : min(position + count, image)].ljust(count, b"\xff")


def rom_image_size(contents: bytes) -> int:
    """Bytes of the images in a ROM, by their headers (pci_get_rom_size, 7.3); 0 when the first is not valid."""
    start = 0
    while contents[start : start + 2] == b"\x55\xaa":
        header = start + int.from_bytes(contents[start + 0x18 : start + 0x1A], "little")
        if contents[header : header + 4] != b"PCIR":
            break
        length = int.from_bytes(contents[header + 0x10 : header + 0x12], "little") * 512
        start += length
        if contents[header + 0x15] & 0x80 or not length:
            break
    return min(start, len(contents))
