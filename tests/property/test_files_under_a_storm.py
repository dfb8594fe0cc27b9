"""Whatever several threads throw at every file of a machine, nothing but KernelError comes out, and nothing is left.

Calls are half plausible (fields from small pools, so that devices get bound, mapped memory moved, interrupts set up)
and half noise. Device models copy memory and interrupt meanwhile, and files are closed under the calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import random
import threading
from typing import Any, ClassVar

import pytest

from ioas.errors import KernelError, UsageError
from ioas.host import File
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost
from ioas.soft.iommufd.commands import COMMANDS as IOMMUFD
from ioas.soft.pci import Bar, Capability, Function, Msi, Msix, Pcie, PowerManagement
from ioas.soft.vfio import Cdev, Container, DeviceFile, GroupFile
from ioas.soft.vfio.commands import CDEV_COMMANDS as VFIO
from ioas.uapi import iommufd, vfio
from ioas.uapi.base import Struct
from tests.support.models import Rich, Unresettable
from tests.support.vfio_client import CONFIG

CALLS = 4000
IOVAS = (0, 0x1000, 0x100000, 0x102000, 0x104000, 0xFEE00000, (1 << 48) - 4096, (1 << 64) - 4096)
LENGTHS = (0, 1, 4096, 8192, 8192, 32768, (1 << 64) - 1)
VALUES = (*range(10), 0xFFFF_FFFF, 1 << 31, 1 << 63, (1 << 64) - 1)


class Mover(Function):
    """Copies memory from one IOVA to another and interrupts."""

    model: ClassVar[str] = "mover"
    interrupt_pin: ClassVar[int] = 1
    capabilities: ClassVar[tuple[Capability, ...]] = (
        PowerManagement(no_soft_reset=False),
        Msi(4, masking=True),
        Msix(8, 4),
        Pcie(flr=True),
    )
    registers = Bar(0, 4096)
    table = Bar(4, 4096)
    source = registers.register(0x00, width=8)
    target = registers.register(0x08, width=8)
    go = registers.register(0x10)

    @go.on_write
    def _go(self, value: int) -> None:
        self.after(0, lambda: self._move(value))

    def _move(self, value: int) -> None:
        data = self.dma.read(self.source, value & 0x3FFF)
        if data is not None:
            self.dma.write(self.target, data)
        self.interrupt(value & 7)
        self.deassert()


class Storm:
    """A machine, a program's memory and descriptors, and the files that it has open."""

    def __init__(self) -> None:
        self.host = SoftHost(["edu", Rich(), Mover(), Mover(), Unresettable()])
        self.caller = LocalCaller()
        self.memory = mmap.mmap(-1, 1 << 16)
        self.memfd = os.memfd_create("storm")
        os.truncate(self.memfd, 1 << 16)
        self.shared = mmap.mmap(self.memfd, 1 << 16)
        self.addresses = [self.caller.register(buffer) for buffer in (self.memory, self.shared)]
        self.events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
        self.files: dict[int, File] = {}
        self.wrong: list[BaseException] = []

    def run(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(CALLS):
            try:
                self.step(chance)
            except KernelError as error:
                if not error.refusal.reason or error.refusal.culprit is None:
                    self.wrong.append(error)
            except UsageError:
                pass  # a buffer where the call takes a number: in one process that can be told
            except BaseException as error:
                self.wrong.append(error)

    def step(self, chance: random.Random) -> None:
        dice = chance.random()
        open_now = list(self.files.items())
        if len(open_now) < 8 or (dice < 0.01 and len(open_now) < 16):
            few = sum(not isinstance(file, Cdev) for _, file in open_now) < 2  # so that objects meet in one
            path = "/dev/iommu" if few else chance.choice(list(self.host.nodes))
            file = self.host.open(self.caller, path, os.O_RDWR)
            self.files[self.caller.install(file)] = file
            return
        fd, file = chance.choice(open_now)
        self.caller.before_call()
        if dice < 0.02:
            if self.files.pop(fd, None) is not None:
                self.caller.close_fd(fd)
        elif dice < 0.15 and isinstance(file, DeviceFile):
            self.move(file, chance)
        elif dice < 0.15 and isinstance(file, GroupFile):
            self.join(file, chance)
        elif dice < 0.15:
            self.prepare(fd, file, chance)
        elif dice < 0.2:
            file.read(self.caller, chance.choice((0, 1, 4, 8, 300)), self.offset(chance))
        elif dice < 0.25:
            file.write(self.caller, self.data(chance), self.offset(chance))
        elif dice < 0.3:
            file.ioctl(self.caller, chance.choice((chance.getrandbits(32), *IOMMUFD, *VFIO)), self.noise(chance))
        else:
            self.command(file, chance)

    def prepare(self, fd: int, context: File, chance: random.Random) -> None:
        """Everything that a transfer needs, as far as it is not refused: a device bound, attached, memory mapped."""
        devices = [file for file in list(self.files.values()) if isinstance(file, Cdev)]
        space = iommufd.iommu_ioas_alloc(size=12)
        context.ioctl(self.caller, iommufd.IOMMU_IOAS_ALLOC, space)
        for iova in IOVAS[2:5]:
            memory = chance.choice(self.addresses) + chance.randrange(4) * 4096
            mapping = iommufd.iommu_ioas_map(40, 7, space.out_ioas_id, 0, memory, 8192, iova)
            context.ioctl(self.caller, iommufd.IOMMU_IOAS_MAP, mapping)
        for device in devices:
            with contextlib.suppress(KernelError):
                bind = vfio.vfio_device_bind_iommufd(argsz=24, iommufd=fd)
                device.ioctl(self.caller, vfio.VFIO_DEVICE_BIND_IOMMUFD, bind)
            with contextlib.suppress(KernelError):
                attach = vfio.vfio_device_attach_iommufd_pt(argsz=12, pt_id=space.out_ioas_id)
                device.ioctl(self.caller, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach)

    def join(self, group: GroupFile, chance: random.Random) -> None:
        """The same by a group: a container, or an iommufd in its place, memory mapped, a device given out."""
        containers = [fd for fd, file in list(self.files.items()) if not isinstance(file, DeviceFile | GroupFile)]
        fd = chance.choice([*containers, 99])
        with contextlib.suppress(KernelError):
            group.ioctl(self.caller, vfio.VFIO_GROUP_SET_CONTAINER, bytearray(fd.to_bytes(4, "little")))
        with contextlib.suppress(KernelError):
            self.caller.file(fd).ioctl(self.caller, vfio.VFIO_SET_IOMMU, chance.choice((1, 3)))
        for iova in IOVAS[2:5]:
            mapping = vfio.vfio_iommu_type1_dma_map(32, 3, chance.choice(self.addresses), iova, 8192)
            with contextlib.suppress(KernelError):
                self.caller.file(fd).ioctl(self.caller, vfio.VFIO_IOMMU_MAP_DMA, mapping)
        name = bytearray(chance.choice(list(self.host.functions)).encode() + b"\0")
        device = group.ioctl(self.caller, vfio.VFIO_GROUP_GET_DEVICE_FD, name)
        self.files[device] = self.caller.file(device)

    def move(self, file: File, chance: random.Random) -> None:
        """Turn bus mastering and memory decoding on, and a mover starts to move."""
        file.write(self.caller, b"\6\0", CONFIG + 4)
        for register, value in ((0, chance.choice(IOVAS[2:5])), (8, chance.choice(IOVAS[2:5]))):
            file.write(self.caller, value.to_bytes(8, "little"), register)
        file.write(self.caller, chance.randrange(1 << 14).to_bytes(4, "little"), 0x10)

    def offset(self, chance: random.Random) -> int | None:
        if chance.random() < 0.1:
            return None
        registers = (0, 4, 8, 0x10, 0x10, 0x34, 0x44, 0x98, 0x100, 0xFFF, 1 << 20)
        return chance.choice((0, 0, CONFIG, chance.randrange(10) << 40)) + chance.choice(registers)

    def data(self, chance: random.Random) -> bytes:
        """Something to write: the enable bits of the command register, an IOVA for the mover, a number, noise."""
        number = chance.choice((6, chance.choice(IOVAS), chance.randrange(1 << 14), chance.getrandbits(64)))
        return number.to_bytes(8, "little")[: chance.choice((1, 2, 4, 8, 8))]

    def noise(self, chance: random.Random) -> Any:
        length = chance.randrange(64)
        return chance.choice((0, (1 << 64) - 1, *self.addresses, bytearray(chance.randbytes(length))))

    def command(self, file: File, chance: random.Random) -> None:
        """A request that the file knows with its own structure, fields from the pools."""
        tables = {DeviceFile: _OF_DEVICES, GroupFile: _OF_GROUPS, Container: _OF_CONTAINERS}
        known = next((table for kind, table in tables.items() if isinstance(file, kind)), _OF_IOMMUFD)
        request, kind = chance.choice(known)
        if kind is None:
            file.ioctl(self.caller, request, 0)
            return
        command = kind()
        for name, ctype, *_ in kind._fields_:
            if issubclass(ctype, ctypes._SimpleCData):
                setattr(command, name, self.field(name, kind, chance))
        tail = b""
        if kind is vfio.vfio_irq_set:
            tail = b"".join(
                chance.choice([*self.events, 99]).to_bytes(4, "little") for _ in range(min(command.count, 8))
            )
        if kind in _WITH_BITMAP:
            tail = _WITH_BITMAP[kind]
        if hasattr(command, "argsz"):
            command.argsz = ctypes.sizeof(kind) + len(tail)
        argument = bytearray(bytes(command) + tail)
        file.ioctl(self.caller, request, argument)
        if kind is iommufd.iommu_fault_alloc:
            fd = kind.from_buffer_copy(argument).out_fault_fd
            self.files[fd] = self.caller.file(fd)

    def field(self, name: str, kind: type[Struct], chance: random.Random) -> int:
        if name == "size":
            return chance.choice(LENGTHS) if hasattr(kind, "argsz") else ctypes.sizeof(kind)
        if "reserved" in name or name == "pad":
            return 0
        pools: dict[str, tuple[int, ...]] = {
            "iova": IOVAS,
            "length": LENGTHS,
            "vaddr": (*self.addresses, self.addresses[0] + 8192, 0),
            "user_va": (*self.addresses, self.addresses[0] + 8192, 0),
            "fd": (*self.events, self.memfd, self.memfd, -1),
            "iommufd": tuple(self.files),
            "flags": _FLAGS.get(kind, (0, 0, 0, 1, 2)),
            "index": (0, 1, 1, 2, 2, 3, 4),
            "start": (0, 0, 0, 1),
            "count": (0, 1, 1, 4),
            "ioas_id": (1, 1, 2, 3),
            "pt_id": (1, 1, 2, 3),
        }
        pool = pools.get(name.removeprefix("src_").removeprefix("dst_"), ())
        return chance.choice(pool) if pool and chance.random() < 0.95 else chance.choice(VALUES)

    def close(self) -> None:
        for fd in list(self.files):
            self.caller.close_fd(fd)
        memory = self.caller.memory
        left = (
            self.host.leaks(),
            memory.pinned_pages + memory.locked_pages,
            self.host.system.accounting.locked(os.getuid()),
        )
        owners = [group.owner for group in self.host.system.groups.values()]
        for address in self.addresses:
            self.caller.unregister(address)
        held = self.caller.held()
        self.host.close()
        self.caller.close()
        for fd in (self.memfd, *self.events):
            os.close(fd)
        self.shared.close()
        self.memory.close()
        assert left == ({}, 0, 0)
        assert not any(owners)
        assert held == {}


_OFTEN = {
    iommufd.IOMMU_IOAS_ALLOC: 3,
    iommufd.IOMMU_IOAS_MAP: 20,
    iommufd.IOMMU_IOAS_UNMAP: 3,
    iommufd.IOMMU_IOAS_MAP_FILE: 10,
    vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT: 10,
    vfio.VFIO_DEVICE_SET_IRQS: 12,
}
_FLAGS: dict[type[Struct], tuple[int, ...]] = {
    iommufd.iommu_ioas_map: (7, 7, 6, 5, 3),
    iommufd.iommu_ioas_map_file: (7, 7, 6, 5, 3),
    iommufd.iommu_ioas_copy: (7, 6, 5),
    vfio.vfio_irq_set: (0x24, 0x24, 0x24, 0x21, 0x14, 0x11, 0x09),
    vfio.vfio_device_bind_iommufd: (0,),
    vfio.vfio_device_ioeventfd: (1, 2, 4, 8),
}


def _often(table: dict[int, Any]) -> list[tuple[int, Any]]:
    return [(request, command.struct) for request, command in table.items() for _ in range(_OFTEN.get(request, 1))]


_OF_IOMMUFD = _often(IOMMUFD)
_OF_GROUPS: list[tuple[int, Any]] = [
    (vfio.VFIO_GROUP_GET_STATUS, vfio.vfio_group_status),
    (vfio.VFIO_GROUP_UNSET_CONTAINER, None),
]
_OF_CONTAINERS: list[tuple[int, Any]] = [
    *[(vfio.VFIO_IOMMU_MAP_DMA, vfio.vfio_iommu_type1_dma_map)] * 6,
    *[(vfio.VFIO_IOMMU_UNMAP_DMA, vfio.vfio_iommu_type1_dma_unmap)] * 4,
    (vfio.VFIO_IOMMU_GET_INFO, vfio.vfio_iommu_type1_info),
    (vfio.VFIO_IOMMU_DIRTY_PAGES, vfio.vfio_iommu_type1_dirty_bitmap),
    (vfio.VFIO_CHECK_EXTENSION, None),
]
_WITH_BITMAP: dict[type[Struct], bytes] = {
    vfio.vfio_iommu_type1_dma_unmap: bytes(vfio.vfio_bitmap(pgsize=4096, size=8)),
    vfio.vfio_iommu_type1_dirty_bitmap: bytes(vfio.vfio_iommu_type1_dirty_bitmap_get(iova=IOVAS[2], size=1 << 15)),
}
"""What follows a structure where its flags want a bitmap; its address is 0, which is nobody's."""
_OF_DEVICES = [*_often(VFIO), *[(vfio.VFIO_DEVICE_BIND_IOMMUFD, vfio.vfio_device_bind_iommufd)] * 6]


@pytest.mark.parametrize("seed", range(2))
def test_only_refusals_come_out_and_nothing_is_left(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    storm = Storm()
    threads = [threading.Thread(target=storm.run, args=(3 * seed + number,)) for number in range(3)]
    with caplog.at_level(logging.ERROR):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        storm.close()
    assert storm.wrong == []
    assert caplog.records == []
