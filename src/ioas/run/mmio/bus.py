"""The bus of a program: from an address to the device that answers there.

There is no table of mappings. The memory of a device file is a file without contents (`ioas.run.mmio.memory_files`), so
the area of an address names the device by that file's inode, and the place in the device by the offset in it. The
kernel is asked at each fault: so whatever the program does to its mappings - unmapping parts, mapping over them,
mremap, fork - the answer is what is mapped now.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from ioas.host import PAGE_SIZE
from ioas.host.maps import Maps
from ioas.run.mmio.machine import NotEmulated, Silent

_QUERY = 0xC0686611  # PROCMAP_QUERY (include/uapi/linux/fs.h)
_QUESTION = struct.Struct("9QIIIIQQ")
_BLANK = _QUESTION.pack(_QUESTION.size, *bytes(14))
_ADDRESS = slice(16, 24)
_ANSWER = slice(24, 80)
_FIELDS = struct.Struct("QQ16xQQII")
_TOP = 1 << 64


class Windows(Protocol):
    """A device file whose regions are mapped. Offsets are those of the file."""

    def load(self, offset: int, length: int) -> bytes | None:
        """What a load from a mapped region finds; None where a kernel answers with SIGBUS."""
        ...

    def store(self, offset: int, data: bytes) -> bool:
        """A store; False where a kernel answers with SIGBUS."""
        ...

    def answers(self, offset: int) -> bool:
        """Whether loads and stores at `offset` reach the device now."""
        ...


Inode = tuple[int, int]
"""Device number and inode of a file, by which it is known."""


class Area(NamedTuple):
    """A mapped range of addresses, `start` to `end` (exclusive)."""

    start: int
    end: int
    offset: int
    """Where `start` stands in the device file."""
    windows: Windows | None
    """None for memory that is not a device's."""
    inode: Inode = (0, 0)
    """The file that it shows."""


class Areas:
    """The areas of one address space."""

    def __init__(self, thread: int, files: Mapping[Inode, Windows]) -> None:
        """`thread`: one that has it; `files`: the device files by inode. Raises OSError when it may not be asked."""
        self._maps = Maps(thread)
        self._fd = os.open(f"/proc/{thread}/maps", os.O_RDONLY | os.O_CLOEXEC)
        self._files = files
        self._can_query = True
        self._question = bytearray(_BLANK)
        self._last_answer = bytearray()
        self._last = Area(0, 0, 0, None)

    @property
    def maps(self) -> int:
        """The descriptor of /proc/PID/maps."""
        return self._fd

    def close(self) -> None:
        """Close its descriptors."""
        self._maps.close()
        os.close(self._fd)

    def at(self, address: int) -> Area:
        """The area of `address`; an empty one where nothing is mapped. Raises OSError when the memory is gone."""
        if not self._can_query:
            return self._look_up(address)
        question = self._question
        question[:] = _BLANK
        question[_ADDRESS] = address.to_bytes(8, "little")
        try:
            fcntl.ioctl(self._fd, _QUERY, question)
        except FileNotFoundError:
            return Area(address, address, 0, None)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            self._can_query = False
            return self._look_up(address)
        if (answer := question[_ANSWER]) != self._last_answer:
            self._last_answer, self._last = answer, self._area(answer)
        return self._last

    def _area(self, answer: bytearray) -> Area:
        start, end, offset, inode, major, minor = _FIELDS.unpack(answer)
        known = os.makedev(major, minor), inode
        return Area(start, end, offset, self._files.get(known) if inode else None, known)

    def _look_up(self, address: int) -> Area:
        vma = self._maps.at(address)
        if vma is None:
            return Area(address, address, 0, None)
        known = vma.device, vma.inode
        return Area(vma.start, vma.end, vma.offset, self._files.get(known), known)


class Memory(Protocol):
    """Ordinary memory of the thread that stands (`ioas.run.mmio.machine.Cpu`)."""

    def read(self, address: int, length: int) -> bytes:
        """Read it. Raises MemoryFault."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write it. Raises MemoryFault."""
        ...


class _Part(NamedTuple):
    """What an access that crosses from one area into another does in one of them."""

    start: int
    """Its first byte, counted from the beginning of the access."""
    length: int
    area: Area


class ProgramBus:
    """The windows in one address space while a thread stands still (implements `ioas.run.mmio.machine.Bus`)."""

    def __init__(self, areas: Areas) -> None:
        self._areas = areas
        self.area = Area(0, 0, 0, None)
        """The area that was used last."""
        self.memory: Memory | None = None
        """For accesses that are only in part to a window."""

    def look(self, address: int) -> Windows | None:
        """The device at `address` as of now."""
        self.area = self._areas.at(address)
        return self.area.windows

    def covers(self, address: int, length: int) -> bool:
        """See `Bus.covers`."""
        area = self._find(address)
        if address + length <= area.end:
            return area.windows is not None and _answers(area, address)
        parts = [part for part in self._parts(address, length) if part.area.windows]
        return bool(parts) and all(_answers(part.area, address + part.start) for part in parts)

    def read(self, address: int, length: int) -> bytes:
        """See `Bus.read`."""
        area = self._window(address, length)
        return _load(area, address, length) if area else self._read_parts(address, length)

    def write(self, address: int, data: bytes) -> None:
        """See `Bus.write`."""
        area = self._window(address, len(data))
        if area:
            _store(area, address, data)
        else:
            self._write_parts(address, data)

    def _window(self, address: int, length: int) -> Area | None:
        """The window that all of the access is to; None when it is so only in part."""
        area = self.area
        if not (area.windows and area.start <= address and address + length <= area.end):
            if not self.covers(address, length):
                raise NotEmulated(f"an access of {length} bytes at {address:#x} is not to a mapped BAR")
            area = self.area
        return area if area.windows and address + length <= area.end else None

    def _find(self, address: int) -> Area:
        if not self.area.start <= address < self.area.end:
            self.area = self._areas.at(address)
        return self.area

    def _parts(self, address: int, length: int) -> list[_Part]:
        parts, at, end = [], address, address + length
        while at < end:
            area = self._areas.at(at & _TOP - 1)
            behind = min(end, area.end if area.end > at else (at & -PAGE_SIZE) + PAGE_SIZE)
            parts.append(_Part(at - address, behind - at, area))
            at = behind
        return parts

    def _read_parts(self, address: int, length: int) -> bytes:
        """Ordinary memory first, for it may be missing, and then the processor has not asked the device."""
        data = bytearray(length)
        parts = self._parts(address, length)
        for start, count, _ in (part for part in parts if not part.area.windows):
            data[start : start + count] = self._ordinary.read(address + start, count)
        for start, count, area in (part for part in parts if part.area.windows):
            for at, width in _aligned(address + start, count):
                data[at - address : at - address + width] = _load(area, at, width)
        return bytes(data)

    def _write_parts(self, address: int, data: bytes) -> None:
        parts = self._parts(address, len(data))
        for start, count, _ in (part for part in parts if not part.area.windows):
            self._ordinary.write(address + start, data[start : start + count])
        for start, count, area in (part for part in parts if part.area.windows):
            for at, width in _aligned(address + start, count):
                _store(area, at, data[at - address : at - address + width])

    @property
    def _ordinary(self) -> Memory:
        if self.memory is None:
            raise NotEmulated("no thread stands")
        return self.memory


def _answers(area: Area, address: int) -> bool:
    """Always true. Raises Silent."""
    if area.windows is None or not area.windows.answers(area.offset + address - area.start):
        raise Silent
    return True


def _load(area: Area, address: int, length: int) -> bytes:
    data = area.windows.load(area.offset + address - area.start, length) if area.windows else None
    if data is None:
        raise Silent
    return data


def _store(area: Area, address: int, data: bytes) -> None:
    if area.windows is None or not area.windows.store(area.offset + address - area.start, data):
        raise Silent


def _aligned(address: int, length: int) -> Iterator[tuple[int, int]]:
    """Address and width of the aligned accesses that make up what is left of one in a page."""
    end = address + length
    while address < end:
        width = next(width for width in (32, 16, 8, 4, 2, 1) if width <= end - address and address % width == 0)
        yield address, width
        address += width
