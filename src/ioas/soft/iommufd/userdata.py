"""What a program says to an IOMMU's driver, in a structure of the driver's own (struct iommu_user_data, 7.3)."""

from __future__ import annotations

from ctypes import sizeof
from errno import E2BIG, EINVAL
from typing import NamedTuple, TypeVar

from ioas.errors import refuse
from ioas.host import AddressSpace
from ioas.uapi.base import Struct, end_of

S = TypeVar("S", bound=Struct)


class UserData(NamedTuple):
    """One structure in the caller's memory: of which type, where, and how long the caller says it is."""

    kind: int
    address: int
    length: int
    memory: AddressSpace
    length_field: str = "data_len"
    """The field that says the length, for refusals."""

    def take(self, kind: int, struct: type[S], last: str) -> S:
        """Copy it in, if it is of type `kind`; `last` is the last field of its first version.

        Follows iommu_copy_struct_from_user. Raises KernelError: EINVAL for another type or a wrong length, EFAULT.
        """
        size, minimum = sizeof(struct), end_of(struct, last)
        if self.kind != kind:
            raise refuse(EINVAL, f"data_type {self.kind:#x} is not {kind:#x}", "field", "data_type")
        if not minimum <= self.length <= size:
            name = self.length_field
            raise refuse(EINVAL, f"{name} {self.length} is not in {minimum} to {size}", "field", name)
        data: S = struct.from_buffer_copy(self.memory.read(self.address, self.length).ljust(size, b"\0"))
        return data

    def give(self, answer: Struct) -> None:
        """Copy the structure back, as far as the caller knows it. Raises KernelError(EFAULT)."""
        self.memory.write(self.address, bytes(answer)[: self.length])


class UserArray:
    """`count` entries of `length` bytes each in the caller's memory; `done` tells how many were carried out."""

    def __init__(self, kind: int, address: int, length: int, count: int, memory: AddressSpace) -> None:
        self.kind = kind
        self.address = address
        self.length = length
        self.count = count
        self.memory = memory
        self.done = 0

    def entry(self, index: int, kind: int, struct: type[S], last: str) -> S:
        """Copy one entry in. Raises as `UserData.take`."""
        place = self.address + self.length * index
        return UserData(self.kind, place, self.length, self.memory, "entry_len").take(kind, struct, last)

    def entries(self, kind: int, struct: type[S]) -> list[S]:
        """Copy all of them in (iommu_copy_struct_from_full_user_array).

        Raises KernelError: EINVAL for another type or no entry, E2BIG when an entry says more than is known, EFAULT.
        """
        size = sizeof(struct)
        if self.kind != kind:
            raise refuse(EINVAL, f"data_type {self.kind:#x} is not {kind:#x}", "field", "data_type")
        if not self.count:
            raise refuse(EINVAL, "there are no entries", "field", "entry_num")
        if self.length == size:
            raw = self.memory.read(self.address, self.count * size)
            return [struct.from_buffer_copy(raw, at) for at in range(0, len(raw), size)]
        return [self._any_length(index, struct, size) for index in range(self.count)]

    def _any_length(self, index: int, struct: type[S], size: int) -> S:
        """An entry of another length than ours. Raises as `entries`."""
        raw = self.memory.read(self.address + index * self.length, self.length)
        if any(raw[size:]):
            raise refuse(E2BIG, f"entries have {size} bytes, and what follows is not zero", "field", "entry_len")
        entry: S = struct.from_buffer_copy(raw[:size].ljust(size, b"\0"))
        return entry
