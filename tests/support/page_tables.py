"""What the API does with page tables that the kernel's mock devices alone can have: the same on both hosts."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ioas.api import FaultQueue, Hwpt, Ioas, Iommufd, Memory
from ioas.api.host import BaseHost
from ioas.errors import Busy, InvalidArgument, NotSupported
from ioas.uapi.iommufd import IOMMU_PGFAULT_FLAGS_LAST_PAGE, IOMMU_PGFAULT_PERM_WRITE
from ioas.uapi.iommufd_test import (
    IOMMU_TEST_CMD,
    IOMMU_TEST_OP_DIRTY,
    IOMMU_TEST_OP_MOCK_DOMAIN,
    IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
    IOMMU_TEST_OP_TRIGGER_IOPF,
    MOCK_APERTURE_START,
    iommu_test_cmd,
)

PAGE = 4096
PAGES = 8


class MockDevice:
    """A device that CONFIG_IOMMUFD_TEST makes, attached to an IOAS (implements `ioas.api.iommufd.BoundDevice`)."""

    def __init__(self, iommufd: Iommufd, space: Ioas) -> None:
        self.iommufd = iommufd
        command = iommu_test_cmd(ctypes.sizeof(iommu_test_cmd), IOMMU_TEST_OP_MOCK_DOMAIN, space.id)
        iommufd.ioctl(IOMMU_TEST_CMD, command)
        self.id = command.mock_domain.out_idev_id
        self._device = command.mock_domain.out_stdev_id

    def attach(self, target: Ioas | Hwpt) -> None:
        command = iommu_test_cmd(ctypes.sizeof(iommu_test_cmd), IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, self._device)
        command.mock_domain_replace.pt_id = target.id
        self.iommufd.ioctl(IOMMU_TEST_CMD, command)

    def ask_for_page(self, address: int, group: int) -> None:
        command = iommu_test_cmd(ctypes.sizeof(iommu_test_cmd), IOMMU_TEST_OP_TRIGGER_IOPF)
        fault = command.trigger_iopf
        fault.dev_id, fault.pasid, fault.grpid = self.id, 0, group
        fault.perm, fault.addr = IOMMU_PGFAULT_PERM_WRITE, address
        self.iommufd.ioctl(IOMMU_TEST_CMD, command)


@contextmanager
def mock(host: BaseHost) -> Iterator[tuple[MockDevice, Ioas]]:
    """A mock device, and the IOAS that it is attached to."""
    with host.iommufd() as iommufd:
        space = iommufd.ioas()
        yield MockDevice(iommufd, space), space


def write_by_dma(table: Hwpt, pages: set[int]) -> None:
    """Let a mock IOMMU say that these pages, from the aperture's start, were written."""
    bitmap = (ctypes.c_uint64 * 1)(sum(1 << page for page in pages))
    command = iommu_test_cmd(ctypes.sizeof(iommu_test_cmd), IOMMU_TEST_OP_DIRTY, table.id)
    dirty = command.dirty
    dirty.iova, dirty.length, dirty.page_size = MOCK_APERTURE_START, PAGES * PAGE, PAGE
    dirty.uptr = ctypes.addressof(bitmap)
    table.iommufd.ioctl(IOMMU_TEST_CMD, command)


def check_dirty_pages(host: BaseHost) -> None:
    with mock(host) as (device, space), device.iommufd.hwpt(device, space, dirty=True) as table:
        space.huge_pages = False  # pages that share a table entry would be dirty together
        space.map(Memory(PAGES * PAGE), iova=MOCK_APERTURE_START)
        area = MOCK_APERTURE_START, PAGES * PAGE
        table.track_dirty(True)
        assert table.dirty(*area) == b"\0"
        write_by_dma(table, {0, 3, 7})
        assert table.dirty(*area, clear=False) == table.dirty(*area) == bytes([0b1000_1001])
        assert table.dirty(*area) == b"\0"
        table.track_dirty(False)
        with device.iommufd.hwpt(device, space) as plain, pytest.raises(NotSupported):
            plain.track_dirty(True)


def check_page_requests(host: BaseHost) -> None:
    with mock(host) as (device, space):
        queue: FaultQueue = device.iommufd.fault_queue()
        table = device.iommufd.hwpt(device, space, faults=queue)
        device.attach(table)
        assert queue.pending() == []
        with pytest.raises(TimeoutError):
            queue.wait(0.01)
        device.ask_for_page(0x1234000, group=5)
        (request,) = queue.wait(10)
        assert (request.addr, request.grpid, request.perm) == (0x1234000, 5, IOMMU_PGFAULT_PERM_WRITE)
        assert request.flags & IOMMU_PGFAULT_FLAGS_LAST_PAGE
        assert request.dev_id == device.id
        queue.respond(request.cookie, resolved=True)
        with pytest.raises(InvalidArgument):
            queue.respond(request.cookie, resolved=True)
        assert queue.pending() == []
        device.attach(space)
        table.close()
        queue.close()
        second = device.iommufd.fault_queue()
        with device.iommufd.hwpt(device, space, faults=second), pytest.raises(Busy):
            second.close()
