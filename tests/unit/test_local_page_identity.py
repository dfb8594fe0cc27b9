"""In process, too, which page is which is what the kernel's frame numbers say (as tests/run/test_page_identity.py)."""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable
from ctypes import sizeof
from typing import NoReturn

import ioas
from ioas.errors import InvalidArgument
from ioas.uapi import iommufd_test as uapi

PAGE = 4096
IOVA = uapi.MOCK_APERTURE_START


def frames(address: int, pages: int) -> list[int]:
    """The kernel's frame numbers; 0 where it does not tell."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = array("Q", os.pread(pagemap.fileno(), 8 * pages, address // PAGE * 8))
    return [entry & (1 << 55) - 1 if entry >> 63 else 0 for entry in entries]


def kinds() -> dict[str, mmap.mmap]:
    """Memory that is nobody else's, and some that is the same twice."""
    fd = os.memfd_create("identity")
    os.truncate(fd, 4 * PAGE)
    shared, private = mmap.MAP_SHARED, mmap.MAP_PRIVATE
    found = {
        "memfd": mmap.mmap(fd, 4 * PAGE, shared),
        "from its second page": mmap.mmap(fd, 2 * PAGE, shared, offset=PAGE),
        "a copy of it": mmap.mmap(fd, 4 * PAGE, private),
        "shared": mmap.mmap(-1, 2 * PAGE, shared),
        "private": mmap.mmap(-1, 2 * PAGE, private),
    }
    os.close(fd)
    for memory in found.values():
        for at in range(0, len(memory), PAGE):
            memory[at] = at // PAGE + 1
    return found


def test_pages_are_the_same_where_their_frames_are(require: Callable[[str, str], NoReturn]) -> None:
    with ioas.SoftHost(iommufd_test=True, capabilities=["ipc_lock"]) as host, host.iommufd() as iommufd:
        space = iommufd.ioas()
        command = uapi.iommu_test_cmd(size=sizeof(uapi.iommu_test_cmd), op=uapi.IOMMU_TEST_OP_MOCK_DOMAIN, id=space.id)
        iommufd.ioctl(uapi.IOMMU_TEST_CMD, command)
        table = command.mock_domain.out_hwpt_id
        addresses, mapped = [], {}
        for memory in kinds().values():
            dma = space.map(memory, iova=IOVA + PAGE * 16 * len(addresses))
            address = iommufd.session.caller.register(memory)
            for page, frame in enumerate(frames(address, len(memory) // PAGE)):
                addresses.append(address + page * PAGE)
                mapped[dma.iova + page * PAGE] = frame
        if not all(mapped.values()):
            require("root", "/proc/self/pagemap shows frame numbers to CAP_SYS_ADMIN alone")
        for address in addresses:
            (frame,) = frames(address, 1)
            for iova, other in mapped.items():
                assert _same(iommufd, table, iova, address) is (frame == other), (hex(iova), hex(address))
        assert len(set(mapped.values())) == 12 < len(mapped)


def _same(iommufd: ioas.Iommufd, table: int, iova: int, address: int) -> bool:
    command = uapi.iommu_test_cmd(size=sizeof(uapi.iommu_test_cmd), op=uapi.IOMMU_TEST_OP_MD_CHECK_MAP, id=table)
    command.check_map.iova, command.check_map.length, command.check_map.uptr = iova, PAGE, address
    try:
        iommufd.ioctl(uapi.IOMMU_TEST_CMD, command)
    except InvalidArgument:
        return False
    return True
