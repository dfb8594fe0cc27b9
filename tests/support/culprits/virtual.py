"""Refusals of vIOMMUs and what stands behind them, and of invalidations.

Objects 1 to 5 are those of tables.py; 5 is a nesting parent and 6 a vIOMMU on it.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from ctypes import sizeof

from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from ioas.uapi.base import Struct
from tests.support.culprits.case import Case, Watched, do
from tests.support.culprits.tables import DEVICE, nested, parent, replace
from tests.support.iommufd import MOCK, PAGE, Iommufd

TYPE = test_uapi.IOMMU_VIOMMU_TYPE_SELFTEST
ENTRY = test_uapi.IOMMU_HWPT_INVALIDATE_DATA_SELFTEST
EVENTS = test_uapi.IOMMU_VEVENTQ_TYPE_SELFTEST
Provoke = Callable[[Iommufd], object]


def viommu(iommufd: Iommufd, **fields: int) -> int:
    """On nesting parent 5: vIOMMU 6."""
    parent(iommufd)
    made = do(iommufd, "VIOMMU_ALLOC", **{"type": TYPE, "dev_id": DEVICE, "hwpt_id": 5, **fields})
    return int(made.out_viommu_id)


def _viommu(**fields: int) -> Provoke:
    return lambda iommufd: viommu(iommufd, **fields)


def _queue(iommufd: Iommufd, **fields: int) -> None:
    do(
        iommufd,
        "HW_QUEUE_ALLOC",
        **{"viommu_id": 6, "type": TYPE, "nesting_parent_iova": MOCK, "length": PAGE, **fields},
    )


def _mapped_viommu(iommufd: Iommufd) -> None:
    viommu(iommufd)
    iommufd.map(1, iommufd.caller.memory.map(1), PAGE, MOCK)


def _queues(*all_of: dict[str, int]) -> Provoke:
    def provoke(iommufd: Iommufd) -> None:
        _mapped_viommu(iommufd)
        for fields in all_of:
            _queue(iommufd, **fields)

    return provoke


def _destroy_queue(iommufd: Iommufd) -> None:
    """Queue 7 (8 is the access that pins its page) comes before queue 9."""
    _queues({}, {"index": 1})(iommufd)
    iommufd.destroy(7)


def _unmap_queue(iommufd: Iommufd) -> None:
    _queues({})(iommufd)
    iommufd.unmap(1, MOCK, PAGE)


def _vdevice(iommufd: Iommufd, **fields: int) -> None:
    do(iommufd, "VDEVICE_ALLOC", **{"viommu_id": 6, "dev_id": DEVICE, "virt_id": 0x99, **fields})


def _vdevice_again(iommufd: Iommufd) -> None:
    viommu(iommufd)
    _vdevice(iommufd)
    _vdevice(iommufd)


def _events(iommufd: Iommufd, depth: int = 2) -> uapi.iommu_veventq_alloc:
    fields = {"viommu_id": 6, "type": EVENTS, "veventq_depth": depth}
    return iommufd.call(uapi.IOMMU_VEVENTQ_ALLOC, uapi.iommu_veventq_alloc(**fields))


def _events_again(iommufd: Iommufd) -> None:
    viommu(iommufd)
    _events(iommufd)
    _events(iommufd)


def _read(length: int, *, event: bool) -> Provoke:
    """Read events into a buffer that is too short; the refusal is kept as that of read(2)."""

    def provoke(iommufd: Watched) -> None:
        viommu(iommufd)
        _vdevice(iommufd)
        replace(iommufd, nested(iommufd, 6))
        file = iommufd.caller.file(_events(iommufd).out_veventq_fd)
        if event:
            iommufd.test(test_uapi.IOMMU_TEST_OP_TRIGGER_VEVENT, trigger_vevent={"dev_id": DEVICE})
        iommufd.watch("read", lambda: file.read(iommufd.caller, length, None))

    return provoke  # type: ignore[return-value]


def _window(iommufd: Iommufd) -> uapi.iommu_viommu_alloc:
    """A vIOMMU, 6, with two pages of memory at 0x1000."""
    viommu(iommufd, data_len=sizeof(test_uapi.iommu_viommu_selftest), data_uptr=iommufd.caller.memory.map(1))


def _map_elsewhere(iommufd: Watched) -> None:
    _window(iommufd)
    context, caller = iommufd.context, iommufd.caller
    iommufd.watch("mmap", lambda: context.mmap(caller, 2 * PAGE, mmap.PROT_READ, mmap.MAP_SHARED, 2 * PAGE))


def _destroy_mapped(iommufd: Iommufd) -> None:
    _window(iommufd)
    fd = iommufd.context.mmap(iommufd.caller, 2 * PAGE, mmap.PROT_READ, mmap.MAP_SHARED, PAGE)
    with mmap.mmap(fd, 3 * PAGE, mmap.MAP_SHARED):
        iommufd.destroy(6)


def _destroy_under_nested(iommufd: Iommufd) -> None:
    viommu(iommufd)
    nested(iommufd, 6)
    iommufd.destroy(6)


def _destroy_parent(iommufd: Iommufd) -> None:
    viommu(iommufd)
    iommufd.destroy(5)


def _not_a_parent(iommufd: Iommufd) -> None:
    viommu(iommufd)
    plain = iommufd.hwpt(DEVICE, 1)
    do(iommufd, "VIOMMU_ALLOC", type=TYPE, dev_id=DEVICE, hwpt_id=plain)


def _without_vdevice(iommufd: Iommufd) -> None:
    viommu(iommufd)
    replace(iommufd, nested(iommufd, 6))


def _invalidate(entry: Struct, *, through: str = "nested", **fields: int) -> Provoke:
    """One entry, for nested table 7 or for vIOMMU 6."""

    def provoke(iommufd: Iommufd) -> None:
        viommu(iommufd)
        nested(iommufd)
        place = iommufd.caller.memory.map(1)
        iommufd.caller.memory.write(place, bytes(entry))
        usual = {"hwpt_id": 7 if through == "nested" else 6, "data_uptr": place, "data_type": ENTRY, "entry_num": 1}
        do(iommufd, "HWPT_INVALIDATE", **{**usual, "entry_len": sizeof(entry), **fields})

    return provoke


_ENTRY = test_uapi.iommu_hwpt_invalidate_selftest
_CACHE = test_uapi.iommu_viommu_invalidate_selftest
_QUEUE, _VIOMMU, _INVALIDATE = "IOMMU_HW_QUEUE_ALLOC", "IOMMU_VIOMMU_ALLOC", "IOMMU_HWPT_INVALIDATE"
CASES = [
    Case("IOMMU_DESTROY", "EBUSY", "object hardware queue 9", _destroy_queue),
    Case("IOMMU_DESTROY", "EBUSY", "object vIOMMU 6", _destroy_parent),
    Case("IOMMU_DESTROY", "EBUSY", "object nested page table 7", _destroy_under_nested),
    Case("IOMMU_DESTROY", "EBUSY", "file a mapping of /dev/iommu at offset 0x1000", _destroy_mapped),
    Case("mmap", "ENXIO", "address 0x2000", _map_elsewhere),
    Case("IOMMU_IOAS_UNMAP", "EBUSY", "area 0x1000000-0x1000fff", _unmap_queue),
    Case(_QUEUE, "EEXIST", "object hardware queue 7", _queues({}, {})),
    Case(_QUEUE, "EINVAL", "field length", _queues({"length": 0})),
    Case(_QUEUE, "EINVAL", "field index", _queues({"index": 2})),
    Case(_QUEUE, "EIO", "field index", _queues({"index": 1})),
    Case(_QUEUE, "ENOENT", "address 0x1000000", lambda it: (viommu(it), _queue(it))),
    Case(_QUEUE, "EOPNOTSUPP", "field type", _queues({"type": 0})),
    Case(_QUEUE, "EOVERFLOW", "field length", _queues({"nesting_parent_iova": (1 << 64) - 1})),
    Case("IOMMU_VDEVICE_ALLOC", "EEXIST", "object vDEVICE 7", _vdevice_again),
    Case("IOMMU_VDEVICE_ALLOC", "ENOENT", "object 9", lambda it: _vdevice(it, viommu_id=9)),
    Case("IOMMU_VEVENTQ_ALLOC", "EEXIST", "object vEVENTQ 7", _events_again),
    Case("IOMMU_VEVENTQ_ALLOC", "EINVAL", "field veventq_depth", lambda it: _events(it, 0)),
    Case(_VIOMMU, "EINVAL", "object page table 7", _not_a_parent),
    Case(_VIOMMU, "ENOENT", "object 9", _viommu(dev_id=9)),
    Case(_VIOMMU, "ENOENT", "object 9", _viommu(hwpt_id=9)),
    Case(_VIOMMU, "EOPNOTSUPP", "field type", _viommu(type=0)),
    Case(_VIOMMU, "EOPNOTSUPP", "field type", _viommu(type=0xDEAD)),
    Case("IOMMU_TEST_CMD MOCK_DOMAIN_REPLACE", "ENOENT", "device iommufd_mock0", _without_vdevice),
    Case("read", "EINVAL", "field count", _read(7, event=False)),
    Case("read", "EINVAL", "field count", _read(8, event=True)),
    Case(_INVALIDATE, "ENOENT", "object 9", _invalidate(_ENTRY(), hwpt_id=9)),
    Case(_INVALIDATE, "EINVAL", "object page table 5", _invalidate(_ENTRY(), hwpt_id=5)),
    Case(_INVALIDATE, "EINVAL", "field entry_len", _invalidate(_ENTRY(), entry_len=4097)),
    Case(_INVALIDATE, "EINVAL", "field entry_len", _invalidate(_ENTRY(), entry_len=9)),
    Case(_INVALIDATE, "EINVAL", "field entry_num", _invalidate(_ENTRY(), entry_num=524289)),
    Case(_INVALIDATE, "EINVAL", "field data_uptr", _invalidate(_ENTRY(), data_uptr=0)),
    Case(_INVALIDATE, "EINVAL", "field data_type", _invalidate(_ENTRY(), data_type=0xDADBEEF)),
    Case(_INVALIDATE, "EINVAL", "field iotlb_id", _invalidate(_ENTRY(iotlb_id=4))),
    Case(_INVALIDATE, "EOPNOTSUPP", "field flags", _invalidate(_ENTRY(flags=0xFFFFFFFF))),
    Case(_INVALIDATE, "EINVAL", "field cache_id", _invalidate(_CACHE(cache_id=4), through="viommu")),
    Case(_INVALIDATE, "EINVAL", "field vdev_id", _invalidate(_CACHE(), through="viommu")),
    Case(_INVALIDATE, "EINVAL", "field data_type", _invalidate(_CACHE(), through="viommu", data_type=0xDADBEEF)),
]
