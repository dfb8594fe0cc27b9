"""Nested tables and vIOMMUs of the mock device of the kernel's selftests (selftest.c, 7.3)."""

from __future__ import annotations

from ctypes import sizeof
from errno import EEXIST, EINVAL, EIO, ENOMEM, EOPNOTSUPP
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommu import Domain, Geometry, Requester
from ioas.soft.iommufd.nested import UserDomain
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.userdata import UserArray, UserData
from ioas.soft.iommufd.viommu import Viommu, ViommuModel, get_virtual_id
from ioas.uapi.iommufd import IOMMU_HWPT_ALLOC_PASID
from ioas.uapi.iommufd_test import (
    IOMMU_HW_QUEUE_TYPE_SELFTEST,
    IOMMU_HWPT_DATA_SELFTEST,
    IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
    IOMMU_TEST_HW_QUEUE_MAX,
    IOMMU_TEST_INVALIDATE_FLAG_ALL,
    IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
    IOMMU_VIOMMU_TYPE_SELFTEST,
    MOCK_DEV_CACHE_ID_MAX,
    MOCK_DEV_CACHE_NUM,
    MOCK_NESTED_DOMAIN_IOTLB_ID_MAX,
    MOCK_NESTED_DOMAIN_IOTLB_NUM,
    iommu_hwpt_invalidate_selftest,
    iommu_hwpt_selftest,
    iommu_viommu_invalidate_selftest,
    iommu_viommu_selftest,
)

if TYPE_CHECKING:
    from ioas.soft.iommufd.mock_device import MockDevice
    from ioas.soft.iommufd.window import Window

_PIECE_MAX = 4 << 20
"""Bytes that the kernel can have in one piece (KMALLOC_MAX_SIZE)."""
_NO_APERTURE = Geometry(0, (1 << 64) - 1, True)


class MockNested(UserDomain):
    """A nested table that is nothing but some values, which invalidations clear."""

    def __init__(self, parent: Domain, value: int, viommu: Viommu | None) -> None:
        super().__init__(parent, _NO_APERTURE)
        self.values = [value] * MOCK_NESTED_DOMAIN_IOTLB_NUM
        self.viommu = viommu

    def admit(self, requester: Requester) -> None:
        """A table of a vIOMMU is for devices behind it. Raises KernelError(ENOENT)."""
        if self.viommu is not None:
            get_virtual_id(self.viommu, requester)

    def invalidate(self, array: UserArray) -> None:
        """Follows mock_domain_cache_invalidate_user."""
        if array.kind != IOMMU_HWPT_INVALIDATE_DATA_SELFTEST:
            raise refuse(EINVAL, f"data_type {array.kind:#x} is not the selftest's", "field", "data_type")
        for index in range(array.count):
            entry = array.entry(index, IOMMU_HWPT_INVALIDATE_DATA_SELFTEST, iommu_hwpt_invalidate_selftest, "iotlb_id")
            _check_entry(entry.flags, "iotlb_id", entry.iotlb_id, MOCK_NESTED_DOMAIN_IOTLB_ID_MAX)
            _clear(self.values, entry.flags, entry.iotlb_id)
            array.done += 1


class MockViommu(ViommuModel):
    """A vIOMMU that clears the mock caches of its devices, and shows two pages of memory."""

    def __init__(self) -> None:
        self._window: Window | None = None
        self._queues: dict[int, Object] = {}

    @property
    def mapped_at(self) -> int | None:
        """The window's offset, while a program maps it."""
        return self._window.offset if self._window is not None and self._window.mapped else None

    def start(self, data: UserData | None) -> None:
        """Follows mock_viommu_init: with data there is a window, whose first word is the user's."""
        if data is None:
            return
        asked = data.take(IOMMU_VIOMMU_TYPE_SELFTEST, iommu_viommu_selftest, "out_data")
        window = self.viommu.context.windows.open(self.viommu, 2 * PAGE_SIZE)
        window.write(0, asked.in_data.to_bytes(4, "little"))
        asked.out_data = asked.in_data
        asked.out_mmap_length, asked.out_mmap_offset = window.length, window.offset
        try:
            data.give(asked)
        except KernelError:
            window.close()
            raise
        self._window = window

    def stop(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()

    def make_nested(self, flags: int, data: UserData) -> MockNested:
        """Follows mock_viommu_alloc_domain_nested."""
        return make_mock_nested(self.viommu.table.domain, flags, data, self.viommu)

    def invalidate(self, array: UserArray) -> None:
        """Follows mock_viommu_cache_invalidate: the entries are read all at once, into memory that is in one piece."""
        kind = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST
        if not array.count and array.kind == kind:
            return
        if array.count * sizeof(iommu_viommu_invalidate_selftest) > _PIECE_MAX:
            array.done = array.count  # which the kernel does not change then
            raise refuse(ENOMEM, f"{array.count} entries take more than {_PIECE_MAX} bytes", "limit", _PIECE_MAX)
        for entry in array.entries(kind, iommu_viommu_invalidate_selftest):
            _check_entry(entry.flags, "cache_id", entry.cache_id, MOCK_DEV_CACHE_ID_MAX)
            vdevice = self.viommu.vdevices.get(entry.vdev_id)
            if vdevice is None:
                raise refuse(EINVAL, f"{self.viommu} has no vDEVICE {entry.vdev_id:#x}", "field", "vdev_id")
            device: MockDevice = vdevice.device  # type: ignore[assignment]  # a mock unit has no others
            _clear(device.cache, entry.flags, entry.cache_id)
            array.done += 1

    def queue_slots(self, kind: int) -> MockViommu | None:
        """Itself."""
        return self if kind == IOMMU_HW_QUEUE_TYPE_SELFTEST else None

    def take(self, index: int, queue: Object) -> Object | None:
        """Follows mock_hw_queue_init_phys: queues stand one upon the other. Raises KernelError: EINVAL, EEXIST, EIO."""
        if index >= IOMMU_TEST_HW_QUEUE_MAX:
            raise refuse(EINVAL, f"queue {index} is not one of {IOMMU_TEST_HW_QUEUE_MAX}", "field", "index")
        if index in self._queues:
            raise refuse(EEXIST, f"queue {index} is {self._queues[index]}", "object", self._queues[index])
        below = self._queues.get(index - 1)
        if index and below is None:
            raise refuse(EIO, f"queue {index} comes after queue {index - 1}, which is not there", "field", "index")
        if below is not None:
            below.users += 1
        self._queues[index] = queue
        return below

    def give(self, index: int, below: Object | None) -> None:
        """Follows mock_hw_queue_destroy."""
        del self._queues[index]
        if below is not None:
            below.users -= 1


def make_mock_nested(parent: Domain, flags: int, data: UserData, viommu: Viommu | None = None) -> MockNested:
    """Follows mock_domain_alloc_nested. Raises KernelError: EOPNOTSUPP, EINVAL, EFAULT."""
    if flags & ~IOMMU_HWPT_ALLOC_PASID:
        raise refuse(EOPNOTSUPP, f"flags {flags:#x} are not all known", "field", "flags")
    if data.kind != IOMMU_HWPT_DATA_SELFTEST:
        raise refuse(EOPNOTSUPP, f"data_type {data.kind:#x} is not the selftest's", "field", "data_type")
    asked = data.take(IOMMU_HWPT_DATA_SELFTEST, iommu_hwpt_selftest, "iotlb")
    return MockNested(parent, asked.iotlb, viommu)


def _check_entry(flags: int, field: str, number: int, last: int) -> None:
    if flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL:
        raise refuse(EOPNOTSUPP, f"flags {flags:#x} are not all known", "field", "flags")
    if number > last:
        raise refuse(EINVAL, f"{field} {number} is above {last}", "field", field)


def _clear(values: list[int], flags: int, number: int) -> None:
    if flags & IOMMU_TEST_INVALIDATE_FLAG_ALL:
        values[:] = [0] * MOCK_DEV_CACHE_NUM
    else:
        values[number] = 0
