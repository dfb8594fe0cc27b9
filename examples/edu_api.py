#!/usr/bin/env python3
"""A driver for QEMU's edu device with ioas's Python API, on a software machine or on the running kernel.

    python3 edu_api.py [--kernel] [--group] [BDF]

With --kernel the device is one that is bound to vfio-pci, behind an IOMMU; with --group it is opened by its group, and
a container maps memory for it. The driver is the same.

The device (QEMU, docs/specs/edu.rst) computes factorials, has a buffer of 4 KiB and a DMA engine with 28 address bits
that copies between its buffer and memory, and interrupts when it is done. `edu.c` and `edu.py` do the same by system
calls, on a real machine or under ``ioas run``.
"""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from ioas.api import ContainerSpace, Device, Ioas, Irq, KernelHost, Memory, Region, SoftHost
from ioas.errors import IoasError

Host = SoftHost | KernelHost
Space = Ioas | ContainerSpace

# Registers of edu, in BAR 0.
IDENTIFICATION, LIVENESS, FACTORIAL, STATUS = 0x00, 0x04, 0x08, 0x20
INTERRUPT_STATUS, INTERRUPT_ACKNOWLEDGE = 0x24, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
STATUS_COMPUTING = 1
DMA_START, DMA_TO_MEMORY, DMA_INTERRUPT = 1, 2, 4
DEVICE_BUFFER = 0x40000

LENGTH = 4096
IOVA = 0x100000  # the device has 28 address bits, so it cannot be left to the host where the buffer goes


def dma(registers: Region, irq: Irq, source: int, destination: int, direction: int) -> None:
    """Let the device copy `LENGTH` bytes, and wait for its interrupt."""
    registers.write64(DMA_SOURCE, source)
    registers.write64(DMA_DESTINATION, destination)
    registers.write64(DMA_COUNT, LENGTH)
    registers.write64(DMA_COMMAND, DMA_START | direction | DMA_INTERRUPT)
    irq.wait(timeout=5)
    registers.write32(INTERRUPT_ACKNOWLEDGE, registers.read32(INTERRUPT_STATUS))


def factorial(registers: Region, number: int) -> int:
    """Let the device compute."""
    registers.write32(FACTORIAL, number)
    while registers.read32(STATUS) & STATUS_COMPUTING:
        time.sleep(0.001)
    return registers.read32(FACTORIAL)


def by_cdev(host: Host, bdf: str, stack: ExitStack) -> tuple[Device, Space]:
    """The device by its own node, and an address space that an iommufd has for it."""
    iommufd, device = stack.enter_context(host.iommufd()), stack.enter_context(host.device(bdf, via="cdev"))
    device.bind(iommufd)
    space = iommufd.ioas()
    device.attach(space)
    return device, space


def by_group(host: Host, bdf: str, stack: ExitStack) -> tuple[Device, Space]:
    """The device by its group, and the address space of a container that the group is put into."""
    container, device = stack.enter_context(host.container()), stack.enter_context(host.device(bdf, via="group"))
    device.bind(container)
    return device, container.ioas()


def main(host: Host, bdf: str, open_device: Callable[[Host, str, ExitStack], tuple[Device, Space]]) -> None:
    """Show what the device can do, and what the IOMMU does not let it do."""
    message = b"Hello from user space"
    with host, ExitStack() as stack:
        device, space = open_device(host, bdf, stack)
        print(f"edu {bdf} is {device.path}")
        device.bus_master = True
        registers = device.bar(0)
        print(f"identification {registers.read32(IDENTIFICATION):#010x}")
        print(f"10! = {factorial(registers, 10)}")

        with device.irq("msi") as irq, Memory(LENGTH) as memory:
            with space.map(memory, iova=IOVA):
                memory.view[: len(message)] = message
                dma(registers, irq, IOVA, DEVICE_BUFFER, 0)
                print(f'memory to device by DMA: "{message.decode()}", interrupt received')
                memory.view[:] = bytes(LENGTH)
                dma(registers, irq, DEVICE_BUFFER, IOVA, DMA_TO_MEMORY)
                if memory.view[: len(message)] != message:
                    sys.exit("edu: the data came back changed")
                print(f'device to memory by DMA: "{message.decode()}", interrupt received')

            # The memory is not mapped any more. Let the device write there all the same.
            memory.view[:] = bytes(LENGTH)
            dma(registers, irq, DEVICE_BUFFER, IOVA, DMA_TO_MEMORY)
            if memory.view != bytes(LENGTH):
                sys.exit("edu: the device wrote where it may not")
            print("device to memory after unmapping: stopped by the IOMMU, memory unchanged")
            if isinstance(host, SoftHost):  # a real IOMMU tells the kernel's log
                (fault,) = host.faults()
                print(f"the IOMMU says: {fault.reason} at {fault.iova:#x}")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    place = words[0] if words else "0000:01:00.0"
    way = by_group if "--group" in sys.argv else by_cdev
    try:
        main(KernelHost() if "--kernel" in sys.argv else SoftHost(devices=[f"edu,addr={place}"]), place, way)
    except IoasError as error:
        sys.exit(f"edu: {error}")
