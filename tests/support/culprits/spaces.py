"""Refusals of I/O address spaces, options and containers. IOAS 1 is the first object."""

from __future__ import annotations

from ioas.uapi import iommufd as uapi, vfio as vfio_uapi
from tests.support.caller import FakeCaller, FakeFile
from tests.support.culprits.case import Case, container, do
from tests.support.iommufd import MOCK, PAGE, RW, Iommufd
from tests.unit.test_iommufd_dmabuf import get as get_dma_buf, revoke

LOW = 16 * PAGE


def _map(
    iommufd: Iommufd, length: int = 2 * PAGE, at: int | None = LOW, offset: int = 0, flags: int = RW, ioas: int = 1
) -> int:
    return iommufd.map(ioas, iommufd.caller.memory.map(8) + offset, length, at, flags)


def _mapped(iommufd: Iommufd, length: int = 2 * PAGE, at: int = LOW) -> int:
    """IOAS 1 with some memory; the id."""
    ioas = iommufd.alloc()
    _map(iommufd, length, at)
    return ioas


def _mocked(iommufd: Iommufd) -> int:
    """IOAS 1 with a mock device: test object 2, device 3, page table 4."""
    ioas = iommufd.alloc()
    iommufd.mock(ioas)
    return ioas


def _map_file(iommufd: Iommufd, fd: int, start: int = 0, length: int = 4 * PAGE, flags: int = RW) -> int:
    return iommufd.map_file(1, fd, start, length, flags=flags)


def _full(iommufd: Iommufd) -> int:
    """Nothing is left for automatic placement, which keeps clear of the last page."""
    iommufd.alloc()
    iommufd.reserve(1, 0, -PAGE % (1 << 64))
    return _map(iommufd, 5 * PAGE, None)


def _nearly_full(iommufd: Iommufd) -> int:
    """Three pages are left at 0x10000."""
    iommufd.alloc()
    iommufd.reserve(1, 0, LOW)
    iommufd.reserve(1, LOW + 3 * PAGE, -(LOW + 3 * PAGE) % (1 << 64))
    return _map(iommufd, 5 * PAGE, None)


def _promised(iommufd: Iommufd) -> None:
    iommufd.alloc()
    iommufd.allow(1, [(LOW, LOW + PAGE - 1)])
    iommufd.reserve(1, LOW, PAGE)


def _reserved(iommufd: Iommufd) -> None:
    iommufd.alloc()
    iommufd.reserve(1, LOW, PAGE)
    iommufd.allow(1, [(0, LOW + 1)])


def _outside(iommufd: Iommufd) -> None:
    _mocked(iommufd)
    iommufd.allow(1, [(PAGE, LOW)])


def _small_pages(iommufd: Iommufd) -> None:
    iommufd.alloc()
    iommufd.option(uapi.IOMMU_OPTION_HUGE_PAGES, uapi.IOMMU_OPTION_OP_SET, 0, 1)
    _map(iommufd, PAGE, LOW, offset=2048)


def _misaligned_area(iommufd: Iommufd) -> None:
    iommufd.alloc()
    _map(iommufd, 2048, LOW + 2048, offset=2048)
    iommufd.option(uapi.IOMMU_OPTION_HUGE_PAGES, uapi.IOMMU_OPTION_OP_SET, 0, 1)


def _change_process(iommufd: Iommufd) -> None:
    _mapped(iommufd)
    iommufd.call(uapi.IOMMU_IOAS_CHANGE_PROCESS, uapi.iommu_ioas_change_process())


def _file(iommufd: Iommufd, pages: int = 0) -> int:
    return iommufd.caller.install(FakeFile(pages))


def _file_under_device(iommufd: Iommufd) -> None:
    _mocked(iommufd)
    _map_file(iommufd, _file(iommufd, 16), length=8 * PAGE + 1)


def _of_no_length(iommufd: Iommufd) -> None:
    iommufd.alloc()
    _map_file(iommufd, _file(iommufd), length=0)


def _beyond_dma_buf(iommufd: Iommufd) -> None:
    iommufd.alloc()
    get_dma_buf(iommufd, 4 * PAGE)
    _map_file(iommufd, get_dma_buf(iommufd, 4 * PAGE), start=PAGE)


def _taken_back(iommufd: Iommufd) -> None:
    iommufd.alloc()
    get_dma_buf(iommufd)
    fd = get_dma_buf(iommufd)
    revoke(iommufd, fd)
    _map_file(iommufd, fd, length=PAGE)


def _part(iommufd: Iommufd) -> None:
    iommufd.unmap(_mapped(iommufd), LOW, PAGE)


def _holey_copy(iommufd: Iommufd) -> None:
    iommufd.copy(_mapped(iommufd), LOW, 4 * PAGE, 1)


def _ranges(iommufd: Iommufd) -> None:
    iommufd.ranges(iommufd.alloc(), room=0)


def _memoryless_process(iommufd: Iommufd) -> None:
    """Memory of a process that has gone by the time a device is attached."""
    iommufd.alloc()
    other = FakeCaller()
    iommufd.map(1, other.memory.map(1, at=0x7000_0000_0000), PAGE, MOCK, caller=other)
    other.memory.alive = False
    iommufd.mock(1)


def _set_container(iommufd: Iommufd) -> None:
    do(iommufd, "VFIO_IOAS", op=uapi.IOMMU_VFIO_IOAS_SET, ioas_id=iommufd.alloc())


def _map_dma(iommufd: Iommufd, **fields: int) -> int:
    struct = vfio_uapi.vfio_iommu_type1_dma_map(**{"argsz": 32, "flags": 3, "iova": MOCK, "size": PAGE, **fields})
    return container(iommufd, vfio_uapi.VFIO_IOMMU_MAP_DMA, struct)


def _unmap_dma(iommufd: Iommufd, **fields: int) -> int:
    struct = vfio_uapi.vfio_iommu_type1_dma_unmap(**{"argsz": 24, "iova": MOCK, "size": PAGE, **fields})
    return container(iommufd, vfio_uapi.VFIO_IOMMU_UNMAP_DMA, struct)


def _unmap_half(iommufd: Iommufd) -> None:
    _set_container(iommufd)
    _map_dma(iommufd, vaddr=iommufd.caller.memory.map(2), size=2 * PAGE)
    _unmap_dma(iommufd)


_INFO = vfio_uapi.vfio_iommu_type1_info
_NOBODY = "object container"
_DMA_ALL = vfio_uapi.VFIO_DMA_UNMAP_FLAG_ALL

CASES = [
    Case("IOMMU_DESTROY", "EFAULT", "address 0x0", lambda it: it.context.ioctl(it.caller, uapi.IOMMU_DESTROY, 0)),
    Case("IOMMU_DESTROY", "ENOENT", "object 9", lambda it: it.destroy(9)),
    Case("IOMMU_DESTROY", "EBUSY", "object page table 4", lambda it: it.destroy(_mocked(it))),
    Case("0x3b7f", "ENOTTY", "request 0x3b7f", lambda it: it.context.ioctl(it.caller, 0x3B7F, 0)),
    Case("IOMMU_IOAS_ALLOW_IOVAS", "ENOENT", "object 9", lambda it: it.allow(9, [])),
    Case("IOMMU_IOAS_ALLOW_IOVAS", "EADDRINUSE", "region 0x10000-0x10fff (reserved by a test)", _reserved),
    Case(
        "IOMMU_IOAS_ALLOW_IOVAS",
        "EADDRINUSE",
        "region 0x0-0xffffff (outside the aperture 0x1000000-0x7fffffff of mock0 before iommufd_mock0)",
        _outside,
    ),
    Case("IOMMU_IOAS_IOVA_RANGES", "ENOENT", "object 9", lambda it: it.ranges(9)),
    Case("IOMMU_IOAS_IOVA_RANGES", "EMSGSIZE", "field num_iovas", _ranges),
    Case("IOMMU_IOAS_CHANGE_PROCESS", "EINVAL", "area 0x10000-0x11fff of IOAS 1", _change_process),
    Case("IOMMU_IOAS_COPY", "EINVAL", "field flags", lambda it: it.copy(it.alloc(), 0, PAGE, 1, flags=0)),
    Case("IOMMU_IOAS_COPY", "ENOENT", "address 0x12000", _holey_copy),
    Case("IOMMU_IOAS_MAP", "EINVAL", "field flags", lambda it: it.map(it.alloc(), 0, PAGE, flags=0)),
    Case("IOMMU_IOAS_MAP", "EEXIST", "area 0x10000-0x11fff", lambda it: _map(it, ioas=_mapped(it))),
    Case("IOMMU_IOAS_MAP", "EFAULT", "address 0x7000000", lambda it: it.map(_mocked(it), 0x700_0000, PAGE, MOCK)),
    Case("IOMMU_IOAS_MAP", "EINVAL", "field length", lambda it: _map(it, 1, MOCK, ioas=_mocked(it))),
    Case("IOMMU_IOAS_MAP", "EINVAL", "field user_va", _small_pages),
    Case("IOMMU_IOAS_MAP", "ENOSPC", "limit no gap", _full),
    Case("IOMMU_IOAS_MAP", "ENOSPC", "limit gap 0x10000-0x12fff", _nearly_full),
    Case("IOMMU_IOAS_MAP_FILE", "EINVAL", "field flags", lambda it: _map_file(it, 3, it.alloc(), flags=0)),
    Case("IOMMU_IOAS_MAP_FILE", "EINVAL", "field length", _of_no_length),
    Case("IOMMU_IOAS_MAP_FILE", "EINVAL", "field length", _file_under_device),
    Case("IOMMU_IOAS_MAP_FILE", "EINVAL", "file 4", _beyond_dma_buf),
    Case("IOMMU_IOAS_MAP_FILE", "ENODEV", "file 4", _taken_back),
    Case("IOMMU_IOAS_UNMAP", "ENOENT", "object 9", lambda it: it.unmap(9)),
    Case("IOMMU_IOAS_UNMAP", "ENOENT", "address 0x10000", lambda it: it.unmap(it.alloc(), LOW, PAGE)),
    Case("IOMMU_IOAS_UNMAP", "ENOENT", "area 0x10000-0x11fff", _part),
    Case("IOMMU_OPTION", "ENOENT", "object 9", lambda it: it.option(uapi.IOMMU_OPTION_HUGE_PAGES, 1, 0, 9)),
    Case("IOMMU_OPTION", "EADDRINUSE", "area 0x10800-0x10fff", _misaligned_area),
    Case("IOMMU_OPTION", "EBUSY", "object IOAS 1", lambda it: it.option(0, 0, it.alloc())),
    Case("IOMMU_OPTION", "EINVAL", "field val64", lambda it: it.option(0, 0, 2)),
    Case("IOMMU_OPTION", "EINVAL", "field val64", lambda it: it.option(1, 0, 2, it.alloc())),
    Case("IOMMU_TEST_CMD ADD_RESERVED", "EADDRINUSE", "region 0x10000-0x10fff", _promised),
    Case("IOMMU_TEST_CMD MOCK_DOMAIN", "ENOENT", "object 9", lambda it: it.mock(9)),
    Case("IOMMU_TEST_CMD MOCK_DOMAIN", "EFAULT", "address 0x700000000000", _memoryless_process),
    Case("IOMMU_VFIO_IOAS", "ENODEV", _NOBODY, lambda it: do(it, "VFIO_IOAS", op=uapi.IOMMU_VFIO_IOAS_GET)),
    Case("IOMMU_VFIO_IOAS", "ENOENT", "object 9", lambda it: do(it, "VFIO_IOAS", op=1, ioas_id=9)),
    Case("VFIO_SET_IOMMU", "ENODEV", _NOBODY, lambda it: it.context.ioctl(it.caller, vfio_uapi.VFIO_SET_IOMMU, 1)),
    Case(
        "VFIO_IOMMU_GET_INFO",
        "EINVAL",
        "field argsz",
        lambda it: container(it, vfio_uapi.VFIO_IOMMU_GET_INFO, _INFO(argsz=1)),
    ),
    Case(
        "VFIO_IOMMU_GET_INFO",
        "ENODEV",
        _NOBODY,
        lambda it: container(it, vfio_uapi.VFIO_IOMMU_GET_INFO, _INFO(argsz=64)),
    ),
    Case("VFIO_IOMMU_MAP_DMA", "EINVAL", "field argsz", lambda it: _map_dma(it, argsz=1)),
    Case("VFIO_IOMMU_MAP_DMA", "EINVAL", "field flags", lambda it: _map_dma(it, flags=1 << 31)),
    Case("VFIO_IOMMU_MAP_DMA", "ENODEV", _NOBODY, _map_dma),
    Case("VFIO_IOMMU_UNMAP_DMA", "EINVAL", "field argsz", lambda it: _unmap_dma(it, argsz=1)),
    Case("VFIO_IOMMU_UNMAP_DMA", "EINVAL", "field flags", lambda it: _unmap_dma(it, flags=1 << 31)),
    Case(
        "VFIO_IOMMU_UNMAP_DMA", "EINVAL", "field iova", lambda it: (_set_container(it), _unmap_dma(it, flags=_DMA_ALL))
    ),
    Case("VFIO_IOMMU_UNMAP_DMA", "ENODEV", _NOBODY, _unmap_dma),
    Case("VFIO_IOMMU_UNMAP_DMA", "ENOENT", "area 0x1000000-0x1001fff", _unmap_half),
]
