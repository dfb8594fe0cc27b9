"""What a program can get wrong with the API: told as an error of its own, and never as another call than was meant."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy
import pytest

from ioas.api import SoftHost
from ioas.errors import BadAddress, BadFile, InvalidArgument, KernelError, NotFound, OutOfMemory, UsageError
from ioas.host import PAGE_SIZE
from ioas.uapi.iommufd import IOMMU_IOAS_MAP_WRITEABLE, IOMMU_IOAS_UNMAP, iommu_ioas_unmap
from tests.support.models import Rich
from tests.support.room import BDF, IOVA, Room, opened, raise_interrupt

BEYOND = 1 << 64


@pytest.fixture
def room() -> Iterator[Room]:
    with opened() as room:
        yield room


def page() -> mmap.mmap:
    return mmap.mmap(-1, PAGE_SIZE)


WRONG_NUMBERS: dict[str, Callable[[Room], object]] = {
    "map": lambda room: room.space.map(page(), iova=BEYOND + IOVA),
    "map, negative": lambda room: room.space.map(page(), iova=-PAGE_SIZE),
    "alloc": lambda room: room.space.alloc(-1),
    "unmap": lambda room: room.space.unmap(BEYOND + IOVA, PAGE_SIZE),
    "unmap, length": lambda room: room.space.unmap(IOVA, BEYOND + PAGE_SIZE),
    "allow": lambda room: room.space.allow([(0, BEYOND + 1)]),
    "map_file": lambda room: room.space.map_file(0, PAGE_SIZE, -PAGE_SIZE),
    "destroy": lambda room: room.iommufd.destroy((1 << 32) + room.space.id),
    "attach": lambda room: room.device.attach(room.space, pasid=1 << 32),
    "region": lambda room: room.device.region(1 << 32),
    "option": lambda room: room.iommufd.set_option(0, -1),
    "write32": lambda room: room.registers.write32(4, -1),
    "write16": lambda room: room.device.config.write16(4, 1 << 16),
    "read": lambda room: room.registers.read(0, -4),
    "file read": lambda room: room.device.read(4, -1),
    "file write": lambda room: room.device.write(b"", -(1 << 40)),
}


@pytest.mark.parametrize("name", WRONG_NUMBERS)
def test_a_number_that_does_not_fit_is_refused_and_not_cut_off(room: Room, name: str) -> None:
    with room.space.alloc(PAGE_SIZE, iova=IOVA) as dma:
        with pytest.raises(UsageError):
            WRONG_NUMBERS[name](room)
        assert dma.mapping.mapped
        assert room.space.ranges()


def test_python_s_read_only_memory_is_not_written_by_a_device(room: Room) -> None:
    memory = page()
    view = memoryview(memory).toreadonly()
    with pytest.raises(BadAddress, match="read-only"):
        room.space.map(view, writable=True)
    with room.space.map(view) as mapping:
        assert not mapping.flags & IOMMU_IOAS_MAP_WRITEABLE
    view.release()
    memory.close()


@pytest.mark.parametrize("length", [1 << 50, 1 << 63])
def test_memory_that_cannot_be_had_is_enomem(room: Room, length: int) -> None:
    with pytest.raises(OutOfMemory, match=f"{length:#x} bytes"):
        room.space.alloc(length)


def test_interrupts_that_a_device_lacks_are_refused_by_their_kind(room: Room) -> None:
    with pytest.raises(InvalidArgument, match=r"0 interrupts of index 2 \(MSI-X\)"):
        room.device.irq("msix")


def test_numpys_integers_are_integers(room: Room) -> None:
    with room.space.alloc(PAGE_SIZE, iova=numpy.uint64(IOVA)) as dma:
        assert dma.iova == IOVA
    room.registers.write32(numpy.int64(4), numpy.uint32(5))
    assert room.registers.read32(4) == 0xFFFF_FFFA
    with pytest.raises(TypeError):
        room.space.alloc(PAGE_SIZE, iova=4096.0)


@pytest.mark.parametrize("data", [bytearray(b"\5\0\0\0"), memoryview(b"\5\0\0\0"), numpy.array([5], "<u4")])
def test_a_region_is_written_from_any_buffer(room: Room, data: object) -> None:
    room.registers.write(4, data)
    assert room.registers.read32(4) == 0xFFFF_FFFA
    assert room.device.write(data, room.registers.base + 4) == 4
    with pytest.raises(UsageError, match="outside"):
        room.registers.write(room.registers.size - 2, data)


def test_a_number_of_another_iommufd_is_not_taken_for_one_of_ours(room: Room) -> None:
    with room.host.iommufd() as other, SoftHost() as elsewhere:
        strange = other.ioas()
        source = strange.map(page())
        for misuse in (
            lambda: room.device.attach(strange),
            lambda: room.space.copy(source),
            lambda: other.hwpt(room.device, strange),
            lambda: room.iommufd.hwpt(room.device, strange),
        ):
            with pytest.raises(UsageError, match="belong"):
                misuse()
        with elsewhere.device(BDF) as unbound, pytest.raises(UsageError, match="belong"):
            room.iommufd.hwpt(unbound, room.space)


def test_what_is_closed_is_not_attached_by_a_number_that_means_something_else_by_now(room: Room) -> None:
    space = room.iommufd.ioas()
    space.close()
    fresh = room.iommufd.ioas()
    assert fresh.id == space.id
    with pytest.raises(UsageError, match="closed"):
        room.device.attach(space)
    table = room.iommufd.hwpt(room.device, fresh)
    table.close()
    with pytest.raises(UsageError, match="closed"):
        room.device.attach(table)
    source = room.space.map(page(), iova=IOVA)
    source.close()
    with room.space.alloc(PAGE_SIZE, iova=IOVA), pytest.raises(NotFound):
        fresh.copy(source)


def test_a_closed_device_has_no_id() -> None:
    with SoftHost() as host, host.iommufd() as iommufd:
        device = host.device(BDF)
        device.bind(iommufd)
        device.close()
        for use in (lambda: device.id, device.hw_info):
            with pytest.raises(UsageError, match="closed"):
                use()


def test_a_mapping_that_was_unmapped_by_a_call_of_its_own_is_closed_without_complaint(room: Room) -> None:
    memory = page()
    mapping = room.space.map(memory, iova=IOVA)
    room.iommufd.ioctl(IOMMU_IOAS_UNMAP, iommu_ioas_unmap(24, room.space.id, IOVA, PAGE_SIZE))
    again = room.space.map(page(), iova=IOVA)
    memory.close()
    room.iommufd.ioctl(IOMMU_IOAS_UNMAP, iommu_ioas_unmap(24, room.space.id, IOVA, PAGE_SIZE))
    again.close()
    mapping.close()
    assert not again.mapped


def test_an_unknown_kind_of_interrupt_is_a_usage_error(room: Room) -> None:
    with pytest.raises(UsageError, match="kinds are"):
        room.device.irq_info("nmi")


def test_a_timeout_below_zero_has_passed(room: Room) -> None:
    with room.device.irq("msi") as irq:
        with pytest.raises(TimeoutError):
            irq.wait(timeout=-1)
        raise_interrupt(room)
        assert irq.wait(timeout=-1) == 1


def test_of_two_threads_that_wait_for_one_interrupt_one_gets_it(room: Room) -> None:
    got: list[object] = []

    def wait() -> None:
        try:
            got.append(irq.wait(timeout=0.5))
        except BaseException as error:
            got.append(type(error))

    with room.device.irq("msi") as irq:
        for _ in range(20):
            threads = [threading.Thread(target=wait) for _ in range(2)]
            for thread in threads:
                thread.start()
            irq.trigger()
            irq.trigger()
            for thread in threads:
                thread.join()
            assert set(got) <= {1, 2, TimeoutError}
            got.clear()


def test_two_tasks_cannot_wait_for_one_interrupt(room: Room) -> None:
    async def both() -> None:
        with room.device.irq("msi") as irq:
            first = asyncio.create_task(irq.wait_async())
            await asyncio.sleep(0)
            with pytest.raises(UsageError, match="another task"):
                await irq.wait_async()
            irq.trigger()
            assert await asyncio.wait_for(first, 10) == 1

    asyncio.run(both())


def test_interrupts_that_others_have_disabled_are_closed_without_complaint(room: Room) -> None:
    first, second = room.device.irqs("msi", 1), room.device.irqs("msi", 1)
    second.close()
    first.close()
    with pytest.raises(UsageError, match="closed"):
        first[0].fileno()


def test_a_descriptor_closed_behind_the_objects_back_is_told_and_leaves_nothing() -> None:
    host = SoftHost()
    iommufd, device = host.iommufd(), host.device(BDF)
    device.bind(iommufd)
    os.close(device.fileno())
    with pytest.raises(BadFile):
        device.close()
    assert host.machine.leaks() == {"files": 1}
    os.close(iommufd.fileno())
    with pytest.raises(BadFile):
        host.close()
    assert host.machine.leaks() == host.caller.held() == {}
    host.close()


def test_a_device_model_of_ones_own_is_a_device() -> None:
    with SoftHost(devices=[Rich(), "edu"]) as host:
        assert host.devices() == ["0000:01:00.0", "0000:02:00.0"]
        assert repr(host) == "<SoftHost with 0000:01:00.0, 0000:02:00.0>"
        assert not host.closed
    assert host.closed
    host.close()
    with pytest.raises(KernelError, match="closed"):
        host.iommufd()


def test_a_file_keeps_its_machine_running_and_an_unclosed_machine_is_warned_of() -> None:
    iommufd = SoftHost().iommufd()
    iommufd.session.itself = iommufd.session  # so that it goes when garbage is collected
    gc.collect()
    assert iommufd.ioas().ranges()
    iommufd.close()
    del iommufd
    with pytest.warns(ResourceWarning, match=r"unclosed <SoftHost with edu 0000:01:00\.0>"):
        gc.collect()


FORKS = """
import os, sys
from ioas import SoftHost
from tests.support.room import raise_interrupt, Room

def parent(irq, room):
    status = os.waitstatus_to_exitcode(os.wait()[1])
    raise_interrupt(room)
    print("fired", irq.wait(10), "status", status)

with SoftHost() as host, host.iommufd() as iommufd, host.device("0000:01:00.0") as device:
    device.bind(iommufd)
    device.bus_master = True
    with device.irq("msi") as irq:
        if os.fork() == 0:
            host.close()
            sys.exit(0)
        parent(irq, Room(host, iommufd, device, None, device.bar(0)))
    duplicate = os.dup(device.fileno())
os.close(duplicate)
print("leaks", host.machine.leaks())
"""


def test_a_forked_child_closes_its_own_descriptors_and_nothing_of_the_machine() -> None:
    command = [sys.executable, "-W", "error", "-c", FORKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=os.getcwd())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["fired 1 status 0", "leaks {}"]
