"""Devices that reach one another, and what the kernel tells of a device: errors, and that it wants it back."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ioas
from ioas.api import Device
from ioas.errors import NoDevice
from ioas.testing.suite.edu import BUFFER, DMA_TO_MEMORY, IOVA, PATIENCE, Edu
from ioas.uapi import iommufd as uapi, vfio
from tests.support.kernel_host import IGB, address, edu_address

NVME = (0x1B36, 0x0010)
QUEUE_SIZES = 0x24
"""NVMe's AQA: takes what is written while the controller is off."""
PAGE = 4096
COMMAND, MEMORY, MASTER = 4, 2, 4
COMPLETION_TIMEOUT, MALFORMED = 1 << 14, 1 << 18
"""Bits of AER's uncorrectable status: one that is not fatal, and one that is."""
DRIVER = Path("/sys/bus/pci/drivers/vfio-pci")


@pytest.fixture
def host() -> Iterator[ioas.KernelHost]:
    with ioas.KernelHost() as host:
        yield host


def export(device: Device, start: int, length: int, index: int = 0) -> int:
    """VFIO_DEVICE_FEATURE_DMA_BUF: a descriptor."""
    flags = vfio.VFIO_DEVICE_FEATURE_DMA_BUF | vfio.VFIO_DEVICE_FEATURE_GET
    request = struct.pack("IIIIIIQQ", 40, flags, index, 0, 0, 1, start, length)
    return device.ioctl(vfio.VFIO_DEVICE_FEATURE, bytearray(request))


def map_file(context: ioas.api.Iommufd, space: int, fd: int, length: int, iova: int) -> None:
    fields = {"flags": 7, "ioas_id": space, "fd": fd, "start": 0, "length": length, "iova": iova}
    context.ioctl(uapi.IOMMU_IOAS_MAP_FILE, bytearray(bytes(uapi.iommu_ioas_map_file(size=40, **fields))))


def test_dma_of_one_device_reaches_the_bar_of_another_until_that_cannot_answer(host: ioas.KernelHost) -> None:
    with (
        host.iommufd() as context,
        host.device(edu_address(host)) as first,
        host.device(address(host, NVME)) as second,
    ):
        first.bind(context)
        second.bind(context)
        space = context.ioas()
        first.attach(space)
        edu = Edu(first)
        with space.alloc(PAGE, writable=True) as page:
            edu.load(page.iova, 8)
        second.config.write16(COMMAND, MEMORY)
        fd = export(second, 0, PAGE)
        map_file(context, space.id, fd, PAGE, IOVA)
        with space.alloc(PAGE, iova=IOVA + PAGE, writable=True) as page:
            for value in (0x00070007, 0x001F001F):
                page.view[:4] = struct.pack("<I", value)
                edu.load(page.iova, 4)
                edu.start(BUFFER, IOVA + QUEUE_SIZES, 4, DMA_TO_MEMORY)
                edu.finish()
                assert second.bar(0).read32(QUEUE_SIZES) == value
            edu.load(IOVA + QUEUE_SIZES, 4)
            edu.store(page.iova, 4)
            assert page.view[:4] == struct.pack("<I", 0x001F001F)
        second.config.write16(COMMAND, 0)
        second.config.write16(COMMAND, MEMORY)
        edu.start(BUFFER, IOVA + QUEUE_SIZES, 4, DMA_TO_MEMORY)
        edu.finish()
        second.close()
        with pytest.raises(NoDevice):
            map_file(context, space.id, fd, PAGE, IOVA + 16 * PAGE)


def inject(bdf: str, status: int) -> None:
    """Let the kernel believe that the function has reported an error (aer_inject)."""
    domain, bus, rest = bdf.split(":")
    device, function = rest.split(".")
    where = (int(bus, 16), int(device, 16), int(function, 16))
    Path("/dev/aer_inject").write_bytes(struct.pack("BBBxIIIIIII", *where, status, 0, 0, 0, 0, 0, int(domain, 16)))


def test_an_error_that_is_not_fatal_is_told_and_the_device_goes_on(host: ioas.KernelHost) -> None:
    with host.device(address(host, IGB)) as device:
        device.space()
        with device.irq("err") as errors:
            device.config.write16(COMMAND, MEMORY)
            inject(device.bdf, COMPLETION_TIMEOUT)
            assert errors.wait(PATIENCE) == 1
            assert device.config.read16(COMMAND) & MEMORY


def test_a_fatal_error_is_told_and_configuration_is_lost(host: ioas.KernelHost) -> None:
    with host.device(address(host, IGB)) as device:
        device.space()
        with device.irq("err") as errors:
            device.config.write16(COMMAND, MEMORY | MASTER)
            inject(device.bdf, MALFORMED)
            assert errors.wait(PATIENCE) == 1
            end = time.monotonic() + PATIENCE
            while device.config.read16(COMMAND) & MASTER:
                assert time.monotonic() < end, "the bus has not been reset"


def test_a_driver_that_wants_its_device_back_asks_for_it(host: ioas.KernelHost) -> None:
    device = host.device(edu_address(host))
    bdf = device.bdf
    device.space()
    with device.irq("req") as requests:
        writer = threading.Thread(target=(DRIVER / "unbind").write_text, args=(bdf,))
        writer.start()
        assert requests.wait(PATIENCE) == 1
        assert writer.is_alive()
    device.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert not (DRIVER / bdf).exists()
    (DRIVER / "bind").write_text(bdf)
    assert (DRIVER / bdf).exists()
