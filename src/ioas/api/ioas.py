"""`Ioas`: an I/O address space, and the memory mapped in it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from errno import EFAULT, EINVAL, ENOENT, ENOMEM
from typing import TYPE_CHECKING, NamedTuple, Self

from ioas.api.checks import U64_LAST, whole
from ioas.api.mapping import DmaBuffer, Mapping
from ioas.errors import MessageTooLong, UsageError, refuse
from ioas.host import PAGE_SIZE
from ioas.uapi.iommufd import (
    IOMMU_IOAS_ALLOW_IOVAS,
    IOMMU_IOAS_COPY,
    IOMMU_IOAS_IOVA_RANGES,
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FILE,
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_IOAS_UNMAP,
    IOMMU_OPTION_HUGE_PAGES,
    iommu_ioas_allow_iovas,
    iommu_ioas_copy,
    iommu_ioas_iova_ranges,
    iommu_ioas_map,
    iommu_ioas_map_file,
    iommu_ioas_unmap,
    iommu_iova_range,
)

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike
    from typing_extensions import Buffer

    from ioas.api.iommufd import Iommufd

_MAP_SIZE = ctypes.sizeof(iommu_ioas_map)
_UNMAP_SIZE = ctypes.sizeof(iommu_ioas_unmap)


class IovaRange(NamedTuple):
    """IOVAs from `start` to `last`, both included."""

    start: int
    last: int


class Ioas:
    """An I/O address space, made by `Iommufd.ioas`. Use it as a context manager, or let the iommufd's close end it."""

    def __init__(self, iommufd: Iommufd, object_id: int) -> None:
        self.iommufd = iommufd
        self.id = object_id
        self._mappings: dict[int, Mapping] = {}
        self._open = True
        iommufd.spaces.add(self)

    def __repr__(self) -> str:
        return f"<Ioas {self.id}{'' if self._open else ' (closed)'}>"

    def alloc(
        self, length: int, *, writable: bool = False, readable: bool = True, iova: int | None = None
    ) -> DmaBuffer:
        """Fresh, zeroed, page-aligned memory of at least `length` bytes, mapped for DMA.

        `writable`, `readable`: what the device may do. `iova`: where; None leaves the choice to the host.
        Raises KernelError as `map`, and OutOfMemory when there is not so much.
        """
        if whole("length", length) == 0:
            raise UsageError("length is 0, and has to be positive")
        try:
            memory = mmap.mmap(-1, -(-length // PAGE_SIZE) * PAGE_SIZE)
        except (OSError, OverflowError) as error:
            raise refuse(ENOMEM, f"{length:#x} bytes of memory cannot be had", "field", "length") from error
        mapping = self.map(memory, iova=iova, writable=writable, readable=readable)
        return DmaBuffer(mapping, memoryview(memory)[:length])

    def map(
        self, buffer: Buffer, *, iova: int | None = None, writable: bool | None = None, readable: bool = True
    ) -> Mapping:
        """Map a buffer: an mmap object, an aligned NumPy array, any object with the buffer protocol.

        Address and length have to be multiples of 4096. The buffer stays alive and in place until it is unmapped.
        `writable` None means: if the buffer is. Raises InvalidArgument: misaligned, reserved or neither readable nor
        writable; AlreadyExists: the IOVA is taken; NoSpace; OutOfMemory: RLIMIT_MEMLOCK; BadAddress: the device
        would write to read-only memory.
        """
        view = memoryview(buffer)
        where = None if iova is None else whole("iova", iova)
        self.check_open()
        memory = self.iommufd.session.caller
        address = memory.register(view)
        try:
            _check_aligned(address, view.nbytes)
            if writable and view.readonly:  # whatever the pages' own permissions are: Python forbids it
                raise refuse(EFAULT, "the device would write to a read-only buffer", "address", address)
            flags = _flags(where, not view.readonly if writable is None else writable, readable)
            command = iommu_ioas_map(_MAP_SIZE, flags, self.id, 0, address, view.nbytes, where or 0)
            self.iommufd.ioctl(IOMMU_IOAS_MAP, command)
        except BaseException:
            memory.unregister(address)
            raise
        return self._mapped(command.iova, view.nbytes, flags, address)

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
        flags = _flags(where, writable, readable)
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
        self.iommufd.check_own(source.space.iommufd, source)
        if not source.mapped:  # something else may be mapped there by now
            raise refuse(ENOENT, "the source has been unmapped", "area", source)
        offset = whole("offset", offset, source.length)
        length = source.length - offset if length is None else whole("length", length)
        where = None if iova is None else whole("iova", iova)
        flags = _flags(
            where,
            bool(source.flags & IOMMU_IOAS_MAP_WRITEABLE) if writable is None else writable,
            bool(source.flags & IOMMU_IOAS_MAP_READABLE) if readable is None else readable,
        )
        size = ctypes.sizeof(iommu_ioas_copy)
        command = iommu_ioas_copy(size, flags, self.id, source.space.id, length, where or 0, source.iova + offset)
        self.iommufd.ioctl(IOMMU_IOAS_COPY, command)
        return self._mapped(command.dst_iova, length, flags, source.share_buffer())

    def unmap(self, iova: int, length: int) -> int:
        """Remove every mapping inside a range; the bytes removed. Raises NotFound when there is none, or one is cut."""
        self.check_open()
        iova, length = whole("iova", iova), whole("length", length)
        command = iommu_ioas_unmap(_UNMAP_SIZE, self.id, iova, length)
        self.iommufd.ioctl(IOMMU_IOAS_UNMAP, command)
        self._forget_unmapped(iova, length, command.length)
        return command.length

    def unmap_all(self) -> int:
        """Remove every mapping; the bytes removed."""
        return self.unmap(0, U64_LAST)

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

    def close(self) -> None:
        """Destroy it with all its mappings. Raises Busy while a device is attached. Idempotent."""
        if self._open and not self.iommufd.closed:
            self.iommufd.destroy(self.id)
        self.forget()

    def forget(self) -> None:
        """The host has dropped it: let go of the buffers."""
        self._open = False
        self.iommufd.spaces.discard(self)
        while self._mappings:
            self._mappings.popitem()[1].forget()

    def discard(self, mapping: Mapping) -> None:
        """The host has unmapped `mapping`: let go of its buffer."""
        if self._mappings.get(mapping.iova) is mapping:
            del self._mappings[mapping.iova]
        mapping.forget()

    def check_open(self) -> None:
        """Raises UsageError when it, or its iommufd, is closed."""
        self.iommufd.check_open()
        if not self._open:
            raise UsageError(f"IOAS {self.id} is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _mapped(self, iova: int, length: int, flags: int, address: int | None) -> Mapping:
        if stale := self._mappings.get(iova):  # somebody has unmapped it by a call of his own
            stale.forget()
        mapping = self._mappings[iova] = Mapping(self, iova, length, flags, address)
        return mapping

    def _forget_unmapped(self, iova: int, length: int, unmapped: int) -> None:
        """Let go of the buffers of `unmapped` bytes of mappings in a range."""
        exact = self._mappings.get(iova)
        gone = [iova] if exact is not None and exact.length == unmapped else list(self._mappings)
        for start in gone:
            if iova <= start <= iova + length - 1 and (mapping := self._mappings.pop(start, None)) is not None:
                mapping.forget()

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


def _flags(iova: int | None, writable: bool, readable: bool) -> int:
    return (
        (IOMMU_IOAS_MAP_FIXED_IOVA if iova is not None else 0)
        | (IOMMU_IOAS_MAP_WRITEABLE if writable else 0)
        | (IOMMU_IOAS_MAP_READABLE if readable else 0)
    )


def _check_aligned(address: int, length: int) -> None:
    if address % PAGE_SIZE:
        raise refuse(EINVAL, f"the buffer begins at {address:#x}, which is not a multiple of {PAGE_SIZE}",
                     "address", address)  # fmt: skip
    if length % PAGE_SIZE:
        raise refuse(EINVAL, f"the buffer has {length} bytes, which is not a multiple of {PAGE_SIZE}",
                     "field", "length")  # fmt: skip
