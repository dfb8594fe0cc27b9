"""A program that comes by groups and containers: descriptors in, structures in, errno out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ioas.host import File
from ioas.soft.host import SoftHost
from ioas.soft.pci import Function
from ioas.uapi import vfio
from ioas.uapi.base import Struct
from tests.support.caller import FakeCaller

S = TypeVar("S", bound=Struct)
BDF = "0000:01:00.0"
READ, WRITE, VADDR = vfio.VFIO_DMA_MAP_FLAG_READ, vfio.VFIO_DMA_MAP_FLAG_WRITE, vfio.VFIO_DMA_MAP_FLAG_VADDR
READ_WRITE = READ | WRITE
ALL, LOSE = vfio.VFIO_DMA_UNMAP_FLAG_ALL, vfio.VFIO_DMA_UNMAP_FLAG_VADDR


class GroupClient:
    """One program's view of a machine; every file that it opens gets a descriptor, as in a real one."""

    def __init__(self, host: SoftHost, caller: FakeCaller) -> None:
        self.host = host
        self.caller = caller
        self.fds: list[int] = []

    def open(self, path: str) -> int:
        """The path, opened for reading and writing."""
        return self.install(self.host.open(self.caller, path, os.O_RDWR))

    def group_of(self, bdf: str = BDF) -> str:
        """The node of a device's group."""
        requester = self.host.functions[bdf].requester
        assert requester.group is not None
        return f"/dev/vfio/{'' if requester.unit is not None else 'noiommu-'}{requester.group.id}"

    def install(self, file: File) -> int:
        self.fds.append(self.caller.install(file))
        return self.fds[-1]

    def close(self, *fds: int) -> None:
        """Close descriptors, or all."""
        for fd in fds or tuple(self.fds):
            self.fds.remove(fd)
            self.caller.files.pop(fd).close()

    def file(self, fd: int) -> File:
        return self.caller.file(fd)

    def ioctl(self, fd: int, request: int, argument: int | bytearray = 0) -> int:
        return self.file(fd).ioctl(self.caller, request, argument)

    def call(self, fd: int, request: int, command: S) -> S:
        """An ioctl with a structure, as it came back."""
        data = bytearray(bytes(command))
        self.ioctl(fd, request, data)
        return type(command).from_buffer_copy(data)

    def status(self, group: int) -> int:
        """The flags of GET_STATUS."""
        return self.call(group, vfio.VFIO_GROUP_GET_STATUS, vfio.vfio_group_status(argsz=8)).flags

    def set_container(self, group: int, container: int) -> None:
        self.ioctl(group, vfio.VFIO_GROUP_SET_CONTAINER, bytearray(container.to_bytes(4, "little", signed=True)))

    def unset_container(self, group: int) -> None:
        self.ioctl(group, vfio.VFIO_GROUP_UNSET_CONTAINER)

    def device(self, group: int, name: str = BDF) -> int:
        """GET_DEVICE_FD."""
        fd = self.ioctl(group, vfio.VFIO_GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"))
        self.fds.append(fd)
        return fd

    def container(self, kind: int = vfio.VFIO_TYPE1v2_IOMMU, *bdfs: str) -> int:
        """A container with the groups of `bdfs`, and a driver."""
        container = self.open("/dev/vfio/vfio")
        for bdf in bdfs or (BDF,):
            self.set_container(self.open(self.group_of(bdf)), container)
        self.ioctl(container, vfio.VFIO_SET_IOMMU, kind)
        return container

    def map(self, container: int, vaddr: int, size: int, iova: int, flags: int = READ_WRITE) -> None:
        """MAP_DMA."""
        command = vfio.vfio_iommu_type1_dma_map(argsz=32, flags=flags, vaddr=vaddr, iova=iova, size=size)
        self.call(container, vfio.VFIO_IOMMU_MAP_DMA, command)

    def unmap(self, container: int, iova: int, size: int, flags: int = 0) -> int:
        """UNMAP_DMA; how many bytes it says were removed."""
        command = vfio.vfio_iommu_type1_dma_unmap(argsz=24, flags=flags, iova=iova, size=size)
        return self.call(container, vfio.VFIO_IOMMU_UNMAP_DMA, command).size

    def info(self, container: int, argsz: int = 256) -> tuple[vfio.vfio_iommu_type1_info, dict[int, bytes]]:
        """GET_INFO: the structure, and the body of each capability by its id, as they follow each other."""
        data = bytearray(argsz.to_bytes(4, "little") + bytes(max(argsz, 24) - 4))
        self.ioctl(container, vfio.VFIO_IOMMU_GET_INFO, data)
        info = vfio.vfio_iommu_type1_info.from_buffer_copy(data)
        found, at = {}, info.cap_offset
        while at:
            header = vfio.vfio_info_cap_header.from_buffer_copy(data, at)
            found[header.id] = bytes(data[at + 8 : header.next or info.argsz])
            at = header.next
        return info, found

    def ranges(self, container: int) -> Sequence[tuple[int, int]]:
        """Where the container says that can be mapped."""
        body = self.info(container)[1][vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE]
        count = int.from_bytes(body[:4], "little")
        numbers = [int.from_bytes(body[at : at + 8], "little") for at in range(8, 8 + 16 * count, 8)]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def available(self, container: int) -> int:
        """How many mappings the container says are left."""
        return int.from_bytes(self.info(container)[1][vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL][:4], "little")

    def bind(self, cdev: int, iommufd: int) -> None:
        """VFIO_DEVICE_BIND_IOMMUFD."""
        self.call(cdev, vfio.VFIO_DEVICE_BIND_IOMMUFD, vfio.vfio_device_bind_iommufd(argsz=24, iommufd=iommufd))


@contextmanager
def program(*devices: str | Function, **options: str | bool) -> Iterator[GroupClient]:
    """A program on a machine of its own (by default with one edu); nothing may be held when everything is closed."""
    caller = FakeCaller()
    host = SoftHost(devices or None, **options)  # type: ignore[arg-type]  # by name, each of its own type
    client = GroupClient(host, caller)
    try:
        yield client
        client.close()
        leaked = host.leaks()
    finally:
        host.close()
    assert not leaked
