"""`MappedRegion`: a BAR in the program's own address space, where each access is one load or one store.

Reads go through ctypes objects that stand at their registers, made on first use: `value` loads exactly as many bytes
as the type has, and looking the object up by its offset is the check that the offset is right. Writes go through
memoryviews, for a ctypes object reads before it writes (it might be a bit field). Both are given up when the region may
not answer any more: touching a BAR whose memory is off ends a process with SIGBUS, which no Python program can catch in
time. That is why configuration space is to be written through this API and not beside it.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from ioas.api.region import Region
from ioas.errors import UsageError
from ioas.uapi.vfio import VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE

if TYPE_CHECKING:
    from typing import Any

    from ioas.api.device import Device

    Cell = ctypes._SimpleCData[Any]

_WIDTHS: dict[int, tuple[type[Cell], Literal["B", "H", "I", "Q"]]] = {
    1: (ctypes.c_uint8, "B"),
    2: (ctypes.c_uint16, "H"),
    4: (ctypes.c_uint32, "I"),
    8: (ctypes.c_uint64, "Q"),
}


class MappedRegion(Region):
    """A region with the MMAP flag, mapped on first use. `read` and `write` of any length stay calls to the kernel."""

    __slots__ = ("_cells", "_cells32", "_memory", "_stores", "_stores32")

    def __init__(self, device: Device, index: int, size: int, base: int, flags: int) -> None:
        """See `Region`."""
        super().__init__(device, index, size, base, flags)
        self._cells: dict[int, dict[int, Cell]] = {width: {} for width in _WIDTHS}
        self._cells32 = self._cells[4]
        self._memory: mmap.mmap | None = None
        self._stores: dict[int, memoryview] = {}
        self._stores32 = _NOTHING

    @property
    def mapped(self) -> bool:
        """Whether accesses are loads and stores now."""
        return self._memory is not None

    def read8(self, offset: int) -> int:
        """One byte."""
        return self._load(offset, 1)

    def read16(self, offset: int) -> int:
        """Two bytes."""
        return self._load(offset, 2)

    def read32(self, offset: int) -> int:
        """Four bytes."""
        try:
            return self._cells32[offset].value  # type: ignore[no-any-return]
        except KeyError:
            return self._load(offset, 4)

    def read64(self, offset: int) -> int:
        """Eight bytes, in one access where the device can."""
        return self._load(offset, 8)

    def write8(self, offset: int, value: int) -> None:
        """One byte; `value` is 0 to 2**8 - 1."""
        self._store(offset, value, 1)

    def write16(self, offset: int, value: int) -> None:
        """Two bytes; `value` is 0 to 2**16 - 1."""
        self._store(offset, value, 2)

    def write32(self, offset: int, value: int) -> None:
        """Four bytes; `value` is 0 to 2**32 - 1."""
        if not offset & 3 and offset >= 0:
            try:
                self._stores32[offset >> 2] = value
                return
            except (IndexError, ValueError, TypeError):
                pass
        self._store(offset, value, 4)

    def write64(self, offset: int, value: int) -> None:
        """Eight bytes, in one access where the device can; `value` is 0 to 2**64 - 1."""
        self._store(offset, value, 8)

    def view(self, width: Literal[1, 2, 4, 8]) -> memoryview:
        """See `Region.view`."""
        if width not in _WIDTHS or not self._map() or width not in self._stores:
            raise UsageError(f"{self.name} cannot be had as numbers of {width} bytes")
        return self._stores[width]

    def unmap(self) -> None:
        """Give the mapping up; the next access looks whether the device answers, and maps again."""
        memory, self._memory = self._memory, None
        for cells in self._cells.values():
            cells.clear()
        stores, self._stores, self._stores32 = self._stores, {}, _NOTHING
        for view in stores.values():
            view.release()
        if memory is not None:
            with suppress(BufferError):  # another thread is in the middle of a read; the mapping ends with it
                memory.close()

    def _load(self, offset: int, width: int) -> int:
        cells = self._cells[width]
        cell = cells.get(offset)
        if cell is None:
            if offset % width or not 0 <= offset <= self.size - width or not self._map():
                return int.from_bytes(self.read(offset, width), "little")
            cell = cells[offset] = _WIDTHS[width][0].from_buffer(self._memory, offset)  # type: ignore[arg-type]
        return cell.value  # type: ignore[no-any-return]

    def _store(self, offset: int, value: int, width: int) -> None:
        data = self.encode(value, width)
        if offset % width or not 0 <= offset <= self.size - width or not self._map():
            self.write(offset, data)
        else:
            self._stores[width][offset // width] = int(value)

    def _map(self) -> bool:
        """Map the region if it is not, and it answers and can be; whether it is."""
        if self._memory is not None:
            return True
        if not self.device.memory_answers():
            return False
        both = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE
        if self.flags & both != both:
            return False
        caller = self.device.session.caller
        fd = self.device.file.mmap(caller, self.size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self.base)
        try:
            memory = mmap.mmap(fd, self.size, offset=self.base)
        except OSError:  # parts of it only can be mapped (VFIO_REGION_INFO_CAP_SPARSE_MMAP)
            return False
        whole = memoryview(memory)
        self._stores = {width: whole.cast(kind) for width, (_, kind) in _WIDTHS.items() if not self.size % width}
        self._stores32 = self._stores.get(4, _NOTHING)
        self._memory = memory
        whole.release()
        return True


_NOTHING = memoryview(bytearray()).cast("I")
