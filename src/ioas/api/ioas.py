"""`Ioas`: an I/O address space of iommufd, and the memory mapped in it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from errno import ENOENT
from typing import TYPE_CHECKING

from ioas.api.checks import whole
from ioas.api.mapping import Mapping
from ioas.api.space import IovaRange, Space, flags_of, joined
from ioas.errors import MessageTooLong, UsageError, refuse
from ioas.host import PAGE_SIZE
from ioas.uapi.base import Struct
from ioas.uapi.iommufd import (
    IOMMU_IOAS_ALLOW_IOVAS,
    IOMMU_IOAS_COPY,
    IOMMU_IOAS_IOVA_RANGES,
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FILE,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_IOAS_NOIOMMU_GET_PA,
    IOMMU_IOAS_UNMAP,
    IOMMU_OPTION_HUGE_PAGES,
    iommu_ioas_allow_iovas,
    iommu_ioas_copy,
    iommu_ioas_iova_ranges,
    iommu_ioas_map,
    iommu_ioas_map_file,
    iommu_ioas_noiommu_get_pa,
    iommu_ioas_unmap,
    iommu_iova_range,
)

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    from ioas.api.iommufd import Iommufd

_MAP_SIZE = ctypes.sizeof(iommu_ioas_map)
_UNMAP_SIZE = ctypes.sizeof(iommu_ioas_unmap)
# The fields of the two structures that differ from call to call, as 64-bit words.
_USER_VA, _LENGTH, _IOVA = (getattr(iommu_ioas_map, name).offset // 8 for name in ("user_va", "length", "iova"))
_UNMAP_IOVA, _UNMAP_LENGTH = (getattr(iommu_ioas_unmap, name).offset // 8 for name in ("iova", "length"))


class Ioas(Space):
    """An I/O address space, made by `Iommufd.ioas`. Use it as a context manager, or let the iommufd's close end it."""

    def __init__(self, iommufd: Iommufd, object_id: int) -> None:
        super().__init__(iommufd.session)
        self.iommufd = iommufd
        self.id = object_id
        self._ioctl = iommufd.quick_ioctl()
        # Structures for the hot path that no call uses now, as words: of all that Python has, setting those is the
        # quickest. A call takes one out and puts it back, for two threads may map at once.
        self._spare_fixed: list[memoryview] = []
        self._spare_any: list[memoryview] = []
        self._spare_unmaps: list[memoryview] = []
        iommufd.spaces.add(self)

    def __repr__(self) -> str:
        return f"<Ioas {self.id}{'' if self._open else ' (closed)'}>"

    def map_address(
        self, address: int, length: int, iova: int | None = None, writable: bool = True, readable: bool = True
    ) -> int:
        """Map memory by its address in this process; the IOVA. See `Space.map_address`."""
        if not self._open:
            self.check_open()
        if not (writable and readable):
            return self._map_one_way(address, length, iova, flags_of(iova, writable, readable))
        spare = self._spare_any if iova is None else self._spare_fixed
        try:
            command = spare.pop()
        except IndexError:
            command = _words(iommu_ioas_map(_MAP_SIZE, flags_of(iova, True, True), self.id))
        try:
            command[_USER_VA] = address
            command[_LENGTH] = length
            if iova is not None:
                command[_IOVA] = iova
        except (TypeError, ValueError):
            raise _wrong(address=address, length=length, iova=iova) from None
        try:
            self._ioctl(IOMMU_IOAS_MAP, command)
        except OSError as error:
            raise self.iommufd.refusal(error, IOMMU_IOAS_MAP, command) from None
        if iova is None:
            iova = command[_IOVA]
        spare.append(command)
        return iova

    def _map_one_way(self, address: int, length: int, iova: int | None, flags: int) -> int:
        """What the device may only read, or only write."""
        at = 0 if iova is None else whole("iova", iova)
        where = whole("address", address), whole("length", length)
        command = iommu_ioas_map(_MAP_SIZE, flags, self.id, 0, *where, at)
        self.iommufd.ioctl(IOMMU_IOAS_MAP, command)
        return command.iova

    def unmap(self, iova: int, length: int) -> int:
        """Remove every mapping inside a range; the bytes removed. Raises NotFound when there is none, or one is cut."""
        if not self._open:
            self.check_open()
        try:
            command = self._spare_unmaps.pop()
        except IndexError:
            command = _words(iommu_ioas_unmap(_UNMAP_SIZE, self.id))
        try:
            command[_UNMAP_IOVA] = iova
            command[_UNMAP_LENGTH] = length
        except (TypeError, ValueError):
            raise _wrong(iova=iova, length=length) from None
        try:
            self._ioctl(IOMMU_IOAS_UNMAP, command)
        except OSError as error:
            raise self.iommufd.refusal(error, IOMMU_IOAS_UNMAP, command) from None
        removed: int = command[_UNMAP_LENGTH]
        self._spare_unmaps.append(command)
        if self._mappings:
            self._forget_unmapped(iova, length, removed)
        return removed

    def map_file(
        self,
        file: FileDescriptorLike,
        length: int,
        start: int = 0,
        *,
        iova: int | None = None,
        writable: bool = True,
        readable: bool = True,
    ) -> Mapping:
        """Map `length` bytes of a memfd from byte `start`. Raises as `map`; BadFile; InvalidArgument beyond its end."""
        self.check_open()
        fd = file if isinstance(file, int) else file.fileno()
        where = None if iova is None else whole("iova", iova)
        start, length = whole("start", start), whole("length", length)
        flags = flags_of(where, writable, readable)
        command = iommu_ioas_map_file(ctypes.sizeof(iommu_ioas_map_file), flags, self.id, fd, start, length, where or 0)
        self.iommufd.ioctl(IOMMU_IOAS_MAP_FILE, command)
        return self._mapped(command.iova, length, flags, None)

    def copy(
        self,
        source: Mapping,
        *,
        offset: int = 0,
        length: int | None = None,
        iova: int | None = None,
        writable: bool | None = None,
        readable: bool | None = None,
    ) -> Mapping:
        """Map here, too, what `source` maps (in this or another IOAS), or `length` bytes of it from `offset`.

        The memory is shared and not pinned again; the copy outlives its source. What is None is as in the source.
        Raises as `map`; NotFound when the source is gone; UsageError when that belongs to another iommufd.
        """
        self.check_open()
        origin = source.space
        if not isinstance(origin, Ioas):
            raise UsageError(f"{source!r} is not in an IOAS")
        self.iommufd.check_own(origin.iommufd, source)
        if not source.mapped:  # something else may be mapped there by now
            raise refuse(ENOENT, "the source has been unmapped", "area", source)
        offset = whole("offset", offset, source.length)
        length = source.length - offset if length is None else whole("length", length)
        where = None if iova is None else whole("iova", iova)
        flags = flags_of(
            where,
            bool(source.flags & IOMMU_IOAS_MAP_WRITEABLE) if writable is None else writable,
            bool(source.flags & IOMMU_IOAS_MAP_READABLE) if readable is None else readable,
        )
        size = ctypes.sizeof(iommu_ioas_copy)
        command = iommu_ioas_copy(size, flags, self.id, origin.id, length, where or 0, source.at + offset)
        self.iommufd.ioctl(IOMMU_IOAS_COPY, command)
        return self._mapped(command.dst_iova, length, flags, source.keep_again())

    def ranges(self) -> tuple[IovaRange, ...]:
        """The IOVAs that can be mapped now; attached devices narrow them."""
        return self._ranges()[0]

    @property
    def alignment(self) -> int:
        """What IOVA and length of every mapping have to be multiples of, in bytes: 1 until a device is attached."""
        return self._ranges()[1]

    def allow(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Keep these ranges (`start`, `last`) usable from now on, and place automatic IOVAs in them alone.

        Replaces the list; an empty one clears it. Raises AddressInUse: reserved; InvalidArgument: they overlap.
        """
        self.check_open()
        table = [iommu_iova_range(whole("start", start), whole("last", last)) for start, last in ranges]
        array = (iommu_iova_range * len(table))(*table)
        size = ctypes.sizeof(iommu_ioas_allow_iovas)
        command = iommu_ioas_allow_iovas(size, self.id, len(table), 0, ctypes.addressof(array) if table else 0)
        self.iommufd.ioctl(IOMMU_IOAS_ALLOW_IOVAS, command)

    @property
    def huge_pages(self) -> bool:
        """Whether contiguous pages are joined into large table entries."""
        return bool(self.iommufd.option(IOMMU_OPTION_HUGE_PAGES, self.id))

    @huge_pages.setter
    def huge_pages(self, on: bool) -> None:
        self.iommufd.set_option(IOMMU_OPTION_HUGE_PAGES, int(on), self.id)

    def physical_address(self, iova: int, length: int) -> tuple[int, int]:
        """The physical address behind a mapped IOVA, and how many of `length` bytes follow it contiguously.

        For devices without an IOMMU alone. Raises NotSupported when none is attached, NotPermitted, NotFound.
        """
        self.check_open()
        size = ctypes.sizeof(iommu_ioas_noiommu_get_pa)
        command = iommu_ioas_noiommu_get_pa(size, 0, self.id, 0, whole("iova", iova), whole("length", length))
        self.iommufd.ioctl(IOMMU_IOAS_NOIOMMU_GET_PA, command)
        return command.out_phys, command.length

    def become_physical(self) -> None:
        """A device without an IOMMU is attached: from now on, and for what is mapped, addresses are physical ones."""
        for mapping in list(self._mappings.values()):
            mapping.physical_pages = self.physical_pages(mapping.at, mapping.length)
        self.physical = True

    def close(self) -> None:
        """Destroy it with all its mappings. Raises Busy while a device is attached. Idempotent."""
        if self._open and not self.iommufd.closed:
            self.iommufd.destroy(self.id)
        self.forget()

    def forget(self) -> None:
        """The host has dropped it: let go of the buffers."""
        self.iommufd.spaces.discard(self)
        super().forget()

    def check_open(self) -> None:
        """Raises UsageError when it, or its iommufd, is closed."""
        self.iommufd.check_open()
        if not self._open:
            raise UsageError(f"IOAS {self.id} is closed")

    def physical_pages(self, at: int, length: int) -> Sequence[int]:
        """The physical address of each page of what is mapped at `at`: a range when they follow each other."""
        pieces: list[range] = []
        done = 0
        while done < length:
            start, contiguous = self.physical_address(at + done, length - done)
            pieces.append(range(start, start + contiguous, PAGE_SIZE))
            done += contiguous
        return joined(pieces)

    def _ranges(self) -> tuple[tuple[IovaRange, ...], int]:
        self.check_open()
        room = 16
        while True:
            array = (iommu_iova_range * room)()
            size = ctypes.sizeof(iommu_ioas_iova_ranges)
            command = iommu_ioas_iova_ranges(size, self.id, room, 0, ctypes.addressof(array))
            try:
                self.iommufd.ioctl(IOMMU_IOAS_IOVA_RANGES, command)
            except MessageTooLong:
                room = command.num_iovas
                continue
            found = tuple(IovaRange(one.start, one.last) for one in array[: command.num_iovas])
            return found, command.out_iova_alignment


def _words(command: Struct) -> memoryview:
    """A copy of a structure as 64-bit words."""
    return memoryview(bytearray(bytes(command))).cast("Q")


def _wrong(**fields: int | None) -> Exception:
    """The exception for a number that does not fit its field. Raises it, or TypeError for what is no integer."""
    for name, value in fields.items():
        if value is not None:
            whole(name, value)
    return UsageError(f"{fields} do not fit")
