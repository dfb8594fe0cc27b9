#!/usr/bin/env python3
"""A driver for QEMU's edu device with ioas's Python API, on a software machine.

    python3 edu_api.py

The device (QEMU, docs/specs/edu.rst) computes factorials, has a buffer of 4 KiB and a DMA engine with 28 address bits
that copies between its buffer and memory, and interrupts when it is done. `edu.c` and `edu.py` do the same by system
calls, on a real machine or under ``ioas run``.
"""

import sys
import time

import ioas
from ioas.api import Irq, Region

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


def main(bdf: str) -> None:
    """Show what the device can do, and what the IOMMU does not let it do."""
    message = b"Hello from user space"
    with ioas.SoftHost(devices=[f"edu,addr={bdf}"]) as host, host.iommufd() as iommufd, host.device(bdf) as device:
        print(f"edu {bdf} is {device.path}")
        device.bind(iommufd)
        space = iommufd.ioas()
        device.attach(space)
        device.bus_master = True
        registers = device.bar(0)
        print(f"identification {registers.read32(IDENTIFICATION):#010x}")
        print(f"10! = {factorial(registers, 10)}")

        with device.irq("msi") as irq:
            with space.alloc(LENGTH, writable=True, iova=IOVA) as buffer:
                buffer.view[: len(message)] = message
                dma(registers, irq, buffer.iova, DEVICE_BUFFER, 0)
                print(f'memory to device by DMA: "{message.decode()}", interrupt received')
                buffer.view[:] = bytes(LENGTH)
                dma(registers, irq, DEVICE_BUFFER, buffer.iova, DMA_TO_MEMORY)
                if buffer.view[: len(message)] != message:
                    sys.exit("edu: the data came back changed")
                print(f'device to memory by DMA: "{message.decode()}", interrupt received')

            # The buffer is closed, so nothing is mapped any more. Let the device write there all the same.
            dma(registers, irq, DEVICE_BUFFER, IOVA, DMA_TO_MEMORY)
            (fault,) = host.faults()
            print(f"device to memory after unmapping: stopped by the IOMMU, {fault.reason} at {fault.iova:#x}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "0000:01:00.0")
