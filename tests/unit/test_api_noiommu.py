"""The Python API on a software machine without an IOMMU: what tests/kernel/test_host_devices.py asks of the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ioas
from ioas.api import Device, PhysicalSpace
from ioas.api.host import Way
from ioas.errors import NotFound, NotPermitted, NotSupported, OutOfMemory, UsageError
from ioas.testing.suite.edu import Edu

BDF = "0000:01:00.0"
PAGE, HUGE_PAGE = 4096, 2 << 20
FREE_HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")


@pytest.fixture
def host() -> Iterator[ioas.SoftHost]:
    with ioas.SoftHost(no_iommu=True, capabilities=["sys_rawio"]) as host:
        yield host


@pytest.fixture(params=["cdev", "group"])
def device(host: ioas.SoftHost, request: pytest.FixtureRequest) -> Iterator[Device]:
    way: Way = request.param
    with host.device(BDF, via=way) as device:
        yield device


def test_a_device_without_an_iommu_works_by_physical_addresses(host: ioas.SoftHost, device: Device) -> None:
    space = device.space()
    edu = Edu(device)
    assert (device.no_iommu, space.physical, host.tainted) == (True, True, 64)
    with space.alloc(2 * PAGE, writable=True, memory="anonymous") as buffer:
        buffer.view[:8] = b"one way!"
        edu.load(buffer.pages[0], 8)
        edu.store(buffer.pages[1], 8)
        assert buffer.view[PAGE : PAGE + 8] == b"one way!"
    assert not host.faults()


def test_pages_are_scattered_and_each_has_its_address(device: Device) -> None:
    with device.space().alloc(64 * PAGE, memory="anonymous") as scattered:
        assert len(set(scattered.pages)) == 64
        with pytest.raises(UsageError, match="not physically contiguous"):
            _ = scattered.iova


def test_a_huge_page_is_contiguous(device: Device) -> None:
    if not FREE_HUGE_PAGES.exists() or int(FREE_HUGE_PAGES.read_text()) < 1:
        pytest.skip("no huge page is free (/proc/sys/vm/nr_hugepages)")
    try:
        huge = device.space().alloc(64 * PAGE, memory="hugetlb")
    except OutOfMemory:
        pytest.skip("the last huge page has just been taken")
    with huge:
        assert huge.iova % HUGE_PAGE == 0
        assert list(huge.pages)[:64] == list(range(huge.iova, huge.iova + 64 * PAGE, PAGE))


def test_dma_after_closing_the_buffer_reaches_nothing(host: ioas.SoftHost, device: Device) -> None:
    space = device.space()
    edu = Edu(device)
    with space.alloc(PAGE, writable=True) as buffer:
        where, view = buffer.pages[0], buffer.view
        view[:4] = b"kept"
        keep = buffer.memory.buffer
    edu.store(where, 4)
    assert [(fault.iova, fault.reason) for fault in host.faults()] == [(where, "no memory")]
    assert keep[:4] == b"kept"


def test_a_container_without_an_iommu_maps_nothing_and_takes_no_wishes(host: ioas.SoftHost) -> None:
    with host.device(BDF, via="group") as device:
        space = device.space()
        assert isinstance(space, PhysicalSpace)
        with pytest.raises(UsageError, match="addresses are physical"):
            space.alloc(PAGE, iova=0x10_0000)
        with pytest.raises(NotFound):
            space.unmap(0x1000, PAGE)


def test_opening_takes_sys_rawio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ioas.host.local.LocalCaller.capable", lambda caller, capability: False)
    with ioas.SoftHost(no_iommu=True) as host:
        for way in ("cdev", "group"):
            with pytest.raises(NotPermitted, match="CAP_SYS_RAWIO"):
                host.device(BDF, via=way)


def test_physical_addresses_are_not_told_where_there_is_an_iommu() -> None:
    with (
        ioas.SoftHost(capabilities=["sys_rawio"]) as host,
        host.iommufd() as iommufd,
        host.device(BDF) as device,
    ):
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        assert (host.tainted, space.physical) == (0, False)
        with space.alloc(PAGE) as buffer, pytest.raises(NotSupported):
            space.physical_address(buffer.iova, PAGE)
