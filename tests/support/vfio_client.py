"""A small VFIO client for tests: an open cdev on a software machine, structures in, errno out."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pytest

from ioas.errors import KernelError
from ioas.host import File
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost
from ioas.soft.pci import Function
from ioas.uapi import iommufd, vfio
from ioas.uapi.base import Struct

S = TypeVar("S", bound=Struct)
CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX << 40
NONE, BOOL, EVENTFD = vfio.VFIO_IRQ_SET_DATA_NONE, vfio.VFIO_IRQ_SET_DATA_BOOL, vfio.VFIO_IRQ_SET_DATA_EVENTFD
MASK, UNMASK, TRIGGER = (
    vfio.VFIO_IRQ_SET_ACTION_MASK,
    vfio.VFIO_IRQ_SET_ACTION_UNMASK,
    vfio.VFIO_IRQ_SET_ACTION_TRIGGER,
)
INTX, MSI, MSIX, ERR, REQ = range(5)


@contextmanager
def refused(number: int) -> Iterator[pytest.ExceptionInfo[KernelError]]:
    """The block is refused with this errno, and with a reason."""
    with pytest.raises(KernelError) as info:
        yield info
    assert errno.errorcode[info.value.errno or 0] == errno.errorcode[number]
    assert info.value.refusal.reason


class Client:
    """One program's view: a caller, an iommufd, a device file."""

    def __init__(self, host: SoftHost, caller: LocalCaller, cdev: str = "/dev/vfio/devices/vfio0") -> None:
        self.host = host
        self.caller = caller
        self.iommufd = self.open("/dev/iommu")
        self.iommu_fd = caller.install(self.iommufd)
        self.device = self.open(cdev)

    def open(self, path: str, flags: int = os.O_RDWR) -> File:
        return self.host.open(self.caller, path, flags)

    def call(self, request: int, argument: S, file: File | None = None, tail: bytes = b"") -> S:
        """An ioctl on the device, or on `file`; the structure as it came back."""
        data = bytearray(bytes(argument) + tail)
        (file or self.device).ioctl(self.caller, request, data)
        return type(argument).from_buffer_copy(data)

    def bind(self, file: File | None = None, fd: int | None = None) -> int:
        """BIND_IOMMUFD; the device's id."""
        request = vfio.vfio_device_bind_iommufd(argsz=24, iommufd=self.iommu_fd if fd is None else fd)
        return self.call(vfio.VFIO_DEVICE_BIND_IOMMUFD, request, file).out_devid

    def ioas(self) -> int:
        """A new IOAS; its id."""
        return self.call(iommufd.IOMMU_IOAS_ALLOC, iommufd.iommu_ioas_alloc(size=12), self.iommufd).out_ioas_id

    def attach(self, pt_id: int, flags: int = 0, pasid: int = 0) -> int:
        """ATTACH_IOMMUFD_PT; the id of the page table in use."""
        request = vfio.vfio_device_attach_iommufd_pt(argsz=16, flags=flags, pt_id=pt_id, pasid=pasid)
        return self.call(vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, request).pt_id

    def detach(self, flags: int = 0, pasid: int = 0) -> None:
        """DETACH_IOMMUFD_PT."""
        request = vfio.vfio_device_detach_iommufd_pt(argsz=12, flags=flags, pasid=pasid)
        self.call(vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, request)

    def map(self, ioas: int, address: int, length: int, iova: int) -> None:
        """IOAS_MAP, fixed, readable and writeable."""
        self.call(
            iommufd.IOMMU_IOAS_MAP,
            iommufd.iommu_ioas_map(size=40, flags=7, ioas_id=ioas, user_va=address, length=length, iova=iova),
            self.iommufd,
        )

    def region(self, index: int, argsz: int = 32, room: int = 0) -> tuple[vfio.vfio_region_info, bytes]:
        """GET_REGION_INFO, with what was written into `room` bytes behind the structure."""
        data = bytearray(bytes(vfio.vfio_region_info(argsz=argsz, index=index)) + bytes(room))
        self.device.ioctl(self.caller, vfio.VFIO_DEVICE_GET_REGION_INFO, data)
        return vfio.vfio_region_info.from_buffer_copy(data), bytes(data[32:])

    def irq_info(self, index: int, argsz: int = 16) -> vfio.vfio_irq_info:
        """GET_IRQ_INFO."""
        return self.call(vfio.VFIO_DEVICE_GET_IRQ_INFO, vfio.vfio_irq_info(argsz=argsz, index=index))

    def set_irqs(
        self, flags: int, index: int, start: int = 0, count: int = 1, data: bytes = b"", argsz: int | None = None
    ) -> None:
        """SET_IRQS."""
        size = 20 + len(data) if argsz is None else argsz
        header = vfio.vfio_irq_set(argsz=size, flags=flags, index=index, start=start, count=count)
        self.device.ioctl(self.caller, vfio.VFIO_DEVICE_SET_IRQS, bytearray(bytes(header) + data))

    def trigger(self, index: int, *fds: int, start: int = 0) -> None:
        """SET_IRQS with eventfds."""
        self.set_irqs(EVENTFD | TRIGGER, index, start, len(fds), struct.pack(f"{len(fds)}i", *fds))

    def disable(self, index: int) -> None:
        """SET_IRQS that turns an index off."""
        self.set_irqs(NONE | TRIGGER, index, count=0)

    def read(self, offset: int, length: int, file: File | None = None) -> bytes:
        return (file or self.device).read(self.caller, length, offset)

    def write(self, offset: int, data: bytes) -> int:
        return self.device.write(self.caller, data, offset)

    def config(self, offset: int, width: int) -> int:
        """A register of configuration space."""
        return int.from_bytes(self.read(CONFIG + offset, width), "little")

    def set_config(self, offset: int, width: int, value: int) -> None:
        self.write(CONFIG + offset, value.to_bytes(width, "little"))

    def bar(self, offset: int, width: int = 4) -> int:
        """A register of BAR 0."""
        return int.from_bytes(self.read(offset, width), "little")

    def set_bar(self, offset: int, value: int, width: int = 4) -> None:
        self.write(offset, value.to_bytes(width, "little"))


def counter(fd: int) -> int:
    """What an eventfd has counted since the last time; it must have been made with EFD_NONBLOCK."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def eventfds(count: int) -> Sequence[int]:
    """New eventfds that do not block."""
    return [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]


@contextmanager
def running(*devices: str | Function, **options: bool) -> Iterator[Client]:
    """A client on a machine of its own (by default with one edu); nothing may be held when everything is closed."""
    caller = LocalCaller()
    host = SoftHost(devices or None, **options)
    client = Client(host, caller)
    try:
        yield client
        client.device.close()
        os.close(client.iommu_fd)
        caller.before_call()
        leaked = host.leaks()
    finally:
        host.close()
        caller.close()
    assert not leaked


@contextmanager
def bound(*devices: str | Function, **options: bool) -> Iterator[Client]:
    """As `running`, with the device bound, bus mastering on and memory decoding on."""
    with running(*devices, **options) as client:
        client.bind()
        client.set_config(4, 2, 6)
        yield client
