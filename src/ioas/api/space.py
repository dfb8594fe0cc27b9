"""`Space`: what an address space of devices is to a program, whoever keeps it - an IOAS, a container, or nobody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from errno import EFAULT, EINVAL, ENOENT
from typing import TYPE_CHECKING, NamedTuple, Self

from ioas.api.checks import U64_LAST, whole
from ioas.api.mapping import DmaBuffer, Mapping
from ioas.api.memory import HUGE_PAGE, Keeper, Memory, MemoryKind
from ioas.errors import OutOfMemory, refuse
from ioas.host import PAGE_SIZE
from ioas.uapi.iommufd import IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_READABLE, IOMMU_IOAS_MAP_WRITEABLE

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.api.files import Program, Session


class IovaRange(NamedTuple):
    """IOVAs from `start` to `last`, both included."""

    start: int
    last: int


class Space(ABC):
    """An address space of devices, and the memory mapped in it. Use it as a context manager.

    What a mapping is asked for is the same in all of them: `iova` None leaves the choice to whoever keeps the space;
    `writable` and `readable` are what the device may do.
    """

    physical = False
    """Whether there is no IOMMU in front of its devices: addresses are physical then, and cannot be chosen."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._host_pins = session.pins
        """Whether the host pins pages by itself, as the running kernel does: memory only has to stay where it is."""
        self._mappings: dict[int, Mapping] = {}
        self._open = True

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """What was mapped by this object and is not unmapped yet, in no order; without `map_address`."""
        return tuple(self._mappings.values())

    @abstractmethod
    def map_address(
        self, address: int, length: int, iova: int | None = None, writable: bool = True, readable: bool = True
    ) -> int:
        """Map memory by its address in this process; the IOVA (as `unmap` takes it).

        For programs that keep the memory in place by themselves, and for speed: nothing is kept here, and everything
        is checked by the host alone. Raises as `map`.
        """

    @abstractmethod
    def ranges(self) -> tuple[IovaRange, ...]:
        """The IOVAs that can be mapped now; attached devices narrow them."""

    @property
    @abstractmethod
    def alignment(self) -> int:
        """What IOVA and length of every mapping have to be multiples of, in bytes."""

    def physical_pages(self, at: int, length: int) -> Sequence[int]:
        """The physical address of each page of what is mapped at `at`: a range when they follow each other."""
        return range(at, at + length, PAGE_SIZE)

    @abstractmethod
    def close(self) -> None:
        """End it with all its mappings. Idempotent. Raises Busy while a device is attached."""

    @abstractmethod
    def check_open(self) -> None:
        """Raises UsageError when it is closed, or what it belongs to."""

    def alloc(
        self,
        length: int,
        *,
        writable: bool = False,
        readable: bool = True,
        iova: int | None = None,
        memory: MemoryKind | None = None,
        huge_page: int = HUGE_PAGE,
    ) -> DmaBuffer:
        """Fresh, zeroed, page-aligned memory of at least `length` bytes, mapped for DMA.

        `memory` is "anonymous", "hugetlb" (in pages of `huge_page` bytes) or "memfd"; by default it is anonymous, and
        without an IOMMU, beyond one page, hugetlb, which is contiguous, if there is so much. Raises KernelError as
        `map`, and OutOfMemory.
        """
        fresh = self._fresh(length) if memory is None else Memory(length, memory, huge_page=huge_page)
        try:
            return DmaBuffer(self.map(fresh, iova=iova, writable=writable, readable=readable), fresh)
        except BaseException:
            fresh.close()
            raise

    def map(
        self, buffer: Buffer | Memory, *, iova: int | None = None, writable: bool | None = None, readable: bool = True
    ) -> Mapping:
        """Map a buffer: a `Memory`, an mmap object, an aligned NumPy array, any object with the buffer protocol.

        Address and length have to be multiples of 4096. The buffer stays alive and in place until it is unmapped.
        `writable` None means: if the buffer is. Raises InvalidArgument: misaligned, reserved or neither readable nor
        writable; AlreadyExists: the IOVA is taken; NoSpace; OutOfMemory: RLIMIT_MEMLOCK; BadAddress: the device
        would write to read-only memory.
        """
        if iova is not None and iova.__class__ is not int:
            iova = whole("iova", iova)
        keeper: Keeper
        if self._host_pins and isinstance(buffer, Memory):
            keeper, may_write = buffer, writable is not False  # nothing to register, and nothing to check
        else:
            keeper, may_write = self._keep(buffer, writable)
        try:
            at = self.map_address(keeper.address, keeper.size, iova, may_write, readable)
        except BaseException:
            keeper.release()
            raise
        return self._mapped(at, keeper.size, flags_of(iova, may_write, readable), keeper)

    @abstractmethod
    def unmap(self, iova: int, length: int) -> int:
        """Remove every mapping inside a range; the bytes removed. Raises NotFound when there is none, or one is cut."""

    def unmap_all(self) -> int:
        """Remove every mapping; the bytes removed."""
        return self.unmap(0, U64_LAST)

    def forget(self) -> None:
        """The host has dropped it: let go of the buffers."""
        self._open = False
        while self._mappings:
            self._mappings.popitem()[1].forget()

    def discard(self, mapping: Mapping) -> None:
        """The host has unmapped `mapping`: let go of its buffer."""
        if self._mappings.get(mapping.at) is mapping:
            del self._mappings[mapping.at]
        mapping.forget()

    def _fresh(self, length: int) -> Memory:
        if self.physical and length > PAGE_SIZE:
            with suppress(OutOfMemory):
                return Memory(length, "hugetlb")
        return Memory(length)

    def _keep(self, buffer: Buffer | Memory, writable: bool | None) -> tuple[Keeper, bool]:
        """What keeps a buffer in place, and whether the device may write to it. Raises as `map`."""
        keeper = Registered(self.session.caller, buffer.buffer if isinstance(buffer, Memory) else buffer)
        try:
            return keeper, _writable(keeper, writable)
        except BaseException:
            keeper.release()
            raise

    def _mapped(self, at: int, length: int, flags: int, keeper: Keeper | None) -> Mapping:
        mappings = self._mappings
        if at in mappings:  # somebody has unmapped it by a call of his own
            mappings[at].forget()
        mapping = mappings[at] = Mapping(self, at, length, flags, keeper)
        if self.physical:
            try:
                mapping.physical_pages = self.physical_pages(at, length)
            except BaseException:
                mapping.close()
                raise
        return mapping

    def _forget_unmapped(self, iova: int, length: int, removed: int) -> None:
        """Let go of the buffers of the `removed` bytes of mappings in a range."""
        mapping = self._mappings.get(iova)
        if mapping is not None and mapping.length == removed:
            del self._mappings[iova]
            mapping.forget()
            return
        for start in [start for start in self._mappings if iova <= start <= iova + length - 1]:
            self._mappings.pop(start).forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Registered:
    """A program's buffer, registered with the host (implements `Keeper`)."""

    __slots__ = ("_caller", "_kept", "address", "size", "writable")

    def __init__(self, caller: Program, buffer: Buffer) -> None:
        """Raises UsageError for a buffer that is empty or has gaps."""
        view = memoryview(buffer)
        self._caller = caller
        self._kept = False
        self.address = caller.register(view)
        self._kept = True
        self.size = view.nbytes
        self.writable = not view.readonly

    def again(self) -> Registered:
        """One more keeper of the same memory."""
        self._caller.register_again(self.address)
        other = object.__new__(Registered)
        other._caller, other._kept = self._caller, True
        other.address, other.size, other.writable = self.address, self.size, self.writable
        return other

    def release(self) -> None:
        """Let go of the buffer. Idempotent."""
        kept, self._kept = self._kept, False
        if kept:
            self._caller.unregister(self.address)


def flags_of(iova: int | None, writable: bool, readable: bool) -> int:
    """IOMMU_IOAS_MAP_* for what is asked."""
    return (
        (IOMMU_IOAS_MAP_FIXED_IOVA if iova is not None else 0)
        | (IOMMU_IOAS_MAP_WRITEABLE if writable else 0)
        | (IOMMU_IOAS_MAP_READABLE if readable else 0)
    )


def joined(pieces: Sequence[range]) -> Sequence[int]:
    """The page addresses of physically contiguous pieces: a range if there is just one."""
    return pieces[0] if len(pieces) == 1 else [page for piece in pieces for page in piece]


def nothing_there(iova: int, length: int) -> Exception:
    """What `unmap` raises when a range is empty."""
    return refuse(ENOENT, f"nothing is mapped in the {length:#x} bytes", "address", iova)


def _writable(keeper: Keeper, wanted: bool | None) -> bool:
    """Whether the device may write. Raises KernelError: EINVAL for a misaligned buffer, EFAULT for a read-only one."""
    address, size = keeper.address, keeper.size
    if address % PAGE_SIZE:
        raise refuse(EINVAL, f"the buffer begins at {address:#x}, which is not a multiple of {PAGE_SIZE}",
                     "address", address)  # fmt: skip
    if size % PAGE_SIZE:
        raise refuse(EINVAL, f"the buffer has {size} bytes, which is not a multiple of {PAGE_SIZE}",
                     "field", "length")  # fmt: skip
    if wanted and not keeper.writable:  # whatever the pages' own permissions are: Python forbids it
        raise refuse(EFAULT, "the device would write to a read-only buffer", "address", address)
    return keeper.writable if wanted is None else wanted
