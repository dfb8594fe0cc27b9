"""A program that comes by groups and containers: descriptors in, structures in, errno out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from ioas.host import File
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost
from ioas.soft.pci import Function
from ioas.uapi import vfio
from ioas.uapi.base import Struct

S = TypeVar("S", bound=Struct)
BDF = "0000:01:00.0"


class GroupClient:
    """One program's view of a machine; every file that it opens gets a descriptor, as in a real one."""

    def __init__(self, host: SoftHost, caller: LocalCaller) -> None:
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
        return f"/dev/vfio/{requester.group.id}"

    def install(self, file: File) -> int:
        self.fds.append(self.caller.install(file))
        return self.fds[-1]

    def close(self, *fds: int) -> None:
        """Close descriptors, or all."""
        for fd in fds or tuple(self.fds):
            self.fds.remove(fd)
            os.close(fd)
        self.caller.before_call()

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

    def bind(self, cdev: int, iommufd: int) -> None:
        """VFIO_DEVICE_BIND_IOMMUFD."""
        self.call(cdev, vfio.VFIO_DEVICE_BIND_IOMMUFD, vfio.vfio_device_bind_iommufd(argsz=24, iommufd=iommufd))


@contextmanager
def program(*devices: str | Function, **options: str | bool) -> Iterator[GroupClient]:
    """A program on a machine of its own (by default with one edu); nothing may be held when everything is closed."""
    caller = LocalCaller()
    host = SoftHost(devices or None, **options)  # type: ignore[arg-type]  # by name, each of its own type
    client = GroupClient(host, caller)
    try:
        yield client
        client.close()
        leaked = host.leaks()
    finally:
        host.close()
        caller.close()
    assert not leaked
