"""Values for the fields of structures, picked by what a field is for.

Most are such that the call goes on: an id of the right kind, an address with memory, an IOVA near the others. Some are
at the edges, some are anything. `random` may be a `random.Random` or hypothesis's, so only what both offer is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, TypeVar

from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.fault import FaultQueue
from ioas.soft.iommufd.hwpt import HardwareTable, PagingTable
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.mock_access import AccessFile
from ioas.soft.iommufd.mock_device import MockObject
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.viommu import Viommu
from ioas.uapi.base import Struct, field_names

if TYPE_CHECKING:
    from tests.fuzz.machine import Machine

T = TypeVar("T")
PAGE = 4096
U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
APERTURE = 1 << 24
"""Where the mock's aperture begins, and most mappings stand."""
WILD = (
    0,
    1,
    PAGE - 1,
    1 << 31,
    U32,
    1 << 32,
    1 << 47,
    (1 << 63) - 1,
    1 << 63,
    U64 - PAGE,
    U64 - PAGE + 1,
    U64 - 1,
    U64,
)

_IDS: dict[str, tuple[type[Object], ...]] = {
    "ioas_id": (Ioas,),
    "src_ioas_id": (Ioas,),
    "dst_ioas_id": (Ioas,),
    "object_id": (Ioas,),
    "dev_id": (Device,),
    "hwpt_id": (HardwareTable, PagingTable, Viommu),
    "pt_id": (Ioas, PagingTable, HardwareTable, Viommu),
    "viommu_id": (Viommu,),
    "fault_id": (FaultQueue,),
    "id": (Object, Ioas, HardwareTable, MockObject, Device),
}
_SMALL: dict[str, Sequence[int]] = {
    "option_id": (0, 1, 1, 2),
    "op": (0, 1, 1, 2, 3),
    "val64": (0, 1, 2),
    "num_iovas": (0, 1, 2, 3, 4, 300, U32),
    "page_size": (2048, 2048, PAGE, PAGE, 0, 3, 1 << 20, 1 << 63),
    "data_type": (0, 1, 1, 0xDEAD, 0xDEAD, 0xDEADBEEF, 0xDEADBEEF, 2),
    "in_data_type": (0, 1, 2, 3, 0xFEEDBEEF),
    "type": (0, 0xDEADBEEF, 0xDEADBEEF, 0xDEADBEEF, 0xBEEFBEEF, 0xBEEFBEEF, 1),
    "data_len": (0, 0, 4, 8, 8, 12, 24, 24, 32, 40, 200, U32),
    "entry_len": (8, 8, 12, 12, 24, 32, 4, 0, PAGE, PAGE + 1),
    "entry_num": (0, 1, 1, 2, 3, 1 << 19, (1 << 19) + 1, U32),
    "veventq_depth": (0, 1, 1, 2, 1 << 19, (1 << 19) + 1),
    "index": (0, 0, 1, 2),
    "virt_id": (0, 1, 2, 1 << 33),
    "pasid": (0, 1, 1, 2, 1024, 1024, 1 << 20, U32),
    "grpid": (0, 1, 2),
    "perm": (0, 1, 2, 3),
    "dev_flags": (0, 4, 4, 5, 1, 2),
    "refs": (0, 1, 2),
    "limit": (0, 11, 12, 65536),
    "access_pages_id": (0, 0, 1, 2),
    "cache_id": (0, 1, 3, 4),
    "iotlb_id": (0, 1, 3, 4),
    "cache": (0, 0xBADDAD),
    "iotlb": (0, 0xBADBEEF),
    "revoked": (0, 1, 1),
    "open_flags": (0, 2),
}
_ADDRESSES = {"user_va", "uptr", "data_uptr", "allowed_iovas", "data", "vaddr"}
_IOVAS = {"iova", "src_iova", "dst_iova", "nesting_parent_iova", "start", "addr", "pgtbl_addr"}
_FILES = {"fd", "dmabuf_fd"}
_FLAGS = (0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8, 12, 16, 1 << 31, U32)


class Values:
    """Draws values in the light of what the machine holds now."""

    def __init__(self, machine: Machine, random: Random) -> None:
        self.machine = machine
        self.random = random

    def choose(self, pool: Sequence[T]) -> T:
        """One of these."""
        return pool[self.random.randrange(len(pool))]

    def percent(self, chance: int) -> bool:
        """True so often of a hundred times."""
        return self.random.randrange(100) < chance

    def fill(self, struct: Struct) -> None:
        """Give every field of `struct`, and of the structures in it, a value. `size` and `argsz` become its size."""
        for name in field_names(type(struct)):
            inner = getattr(struct, name)
            if isinstance(inner, Struct):
                self.fill(inner)
            elif isinstance(inner, int):
                setattr(struct, name, self.of_field(name, struct) & U64)
            elif len(inner) and self.percent(3):
                inner[0] = 1

    def of_field(self, name: str, struct: Struct) -> int:
        """A value for a field of this name."""
        if name in ("size", "argsz"):
            return ctypes.sizeof(struct)
        if name.startswith("__reserved"):
            return self.choose((1, U32)) if self.percent(2) else 0
        if self.percent(3):
            return self.choose(WILD)
        maker = _MAKERS.get(name)
        if maker is not None:
            return maker(self)
        pool = _SMALL.get(name)
        return self.choose(pool) if pool is not None else self.random.randrange(8)

    def flags(self) -> int:
        """Bits."""
        return self.choose(_FLAGS)

    def identity(self, name: str) -> int:
        """An id for a field of this name, mostly of the right kind."""
        if self.percent(90):
            kind = self.choose(_IDS[name])
            known = [entry.id for entry in self.machine.context.objects if isinstance(entry, kind)]
            if known:
                return self.choose(known)
        return self.choose((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, U32))

    def iova(self) -> int:
        """An IOVA, mostly near the others."""
        base = self.choose((APERTURE, APERTURE, APERTURE, APERTURE, 0, 1 << 32, 1 << 47))
        return base + self.choose((PAGE, PAGE, PAGE, 2048, 1)) * self.random.randrange(24)

    def length(self) -> int:
        """A length in bytes."""
        unit = self.choose((PAGE, PAGE, PAGE, PAGE, 2048, 1, 1 << 20, 2 << 20))
        return unit * self.random.randrange(9)

    def address(self) -> int:
        """A user address, mostly one with memory behind it."""
        machine = self.machine
        base = self.choose((machine.scratch, machine.scratch, machine.data, machine.data, machine.large, machine.hole))
        return base + self.choose((PAGE, PAGE, PAGE, 2048, 8, 1)) * self.random.randrange(6)

    def fd(self) -> int:
        """A descriptor of the caller's, or none."""
        known = [*self.machine.caller.files, *self.machine.caller.foreign]
        return self.choose(known) if known and self.percent(92) else self.choose((-1, 0, 999, U32))

    def access(self) -> int:
        """The descriptor of a test access, mostly."""
        files = self.machine.caller.files.items()
        known = [fd for fd, file in files if isinstance(file, AccessFile)]
        return self.choose(known) if known and self.percent(95) else self.fd()


def _id_maker(name: str) -> Callable[[Values], int]:
    return lambda values: values.identity(name)


_MAKERS: dict[str, Callable[[Values], int]] = {
    "flags": Values.flags,
    "length": Values.length,
    **{name: _id_maker(name) for name in _IDS},
    **dict.fromkeys(_ADDRESSES, Values.address),
    **dict.fromkeys(_IOVAS, Values.iova),
    **dict.fromkeys(_FILES, Values.fd),
}
