#!/usr/bin/env python3
"""Say what an NVMe disk is, and test whether it keeps what is written to it: a program over `nvme_driver.py`.

    python3 nvme.py 0000:02:00.0 [--via iommufd|container] [--interrupts] [--blocks N] [--write] [--no-iommu]

Without --write the disk is only read. **With --write its first N blocks are overwritten with random data**; what stood
there is lost. The disk has to be bound to vfio-pci. Where no IOMMU stands in front of it (VFIO's no-IOMMU mode) its DMA
goes to physical addresses and nothing stops it: --no-iommu allows that.
"""

from __future__ import annotations

import argparse
import os
import sys

from nvme_driver import READ, WRITE, Disk, NvmeError, opened

import ioas
from ioas.api import DmaBuffer, Space
from ioas.api.host import Way
from ioas.errors import IoasError

WAYS: dict[str, Way] = {"iommufd": "cdev", "container": "group"}


def describe(disk: Disk) -> None:
    """Print what it is."""
    print(f'model "{disk.model}", serial "{disk.serial}", firmware "{disk.firmware}", NVMe {disk.version}')
    size = disk.blocks * disk.block_size / (1 << 20)
    most = disk.max_blocks * disk.block_size >> 10
    print(f"namespace 1: {disk.blocks} blocks of {disk.block_size} bytes ({size:g} MiB), {most} KiB a command at most")


def check(disk: Disk, space: Space, blocks: int, write: bool) -> None:
    """Fill `blocks` with random data, or read them; read them (again) by small commands, and compare.

    Raises NvmeError when the disk has not so many, or the data differ.
    """
    if not 0 < blocks <= disk.blocks:
        raise NvmeError(f"{blocks} blocks cannot be tested: the disk has {disk.blocks}")
    length = blocks * disk.block_size
    with space.alloc(length, writable=True) as expected, space.alloc(length, writable=True) as found:
        expected.view[:] = os.urandom(length)
        if write:
            commands = disk.transfer(WRITE, 0, blocks, expected, [disk.max_blocks])
            disk.flush()
        else:
            commands = disk.transfer(READ, 0, blocks, expected, [disk.max_blocks])
        print(f"{'wrote' if write else 'read'} {blocks} blocks by {commands} commands")
        found.view[:] = os.urandom(length)  # so that a read that does nothing is noticed
        commands = disk.transfer(READ, 0, blocks, found, small(disk))
        compare(expected, found, disk.block_size)
        print(f"read {blocks} blocks by {commands} commands: {'what was written' if write else 'the same again'}")


def small(disk: Disk) -> list[int]:
    """Sizes of commands that begin within pages and take one page, two, and a list of them."""
    page = 4096 // disk.block_size
    return [min(size, disk.max_blocks) for size in (1, page, 2 * page, 5 * page)]


def compare(expected: DmaBuffer, found: DmaBuffer, block_size: int) -> None:
    """Raises NvmeError that names the first block that differs."""
    for start in range(0, len(expected), block_size):
        if expected.view[start : start + block_size] != found.view[start : start + block_size]:
            raise NvmeError(f"block {start // block_size} differs from what it should be")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Say what an NVMe disk is, and test whether it keeps data.")
    parser.add_argument("bdf", help="the disk's PCI address, such as 0000:02:00.0")
    parser.add_argument("--via", choices=WAYS, help="the way to the device (default: iommufd where the kernel has it)")
    parser.add_argument("--interrupts", action="store_true", help="wait by MSI-X or MSI instead of looking")
    parser.add_argument("--blocks", type=int, default=2048, help="how many blocks to test (default: 2048)")
    parser.add_argument("--write", action="store_true", help="OVERWRITE these blocks; without it they are only read")
    parser.add_argument("--no-iommu", action="store_true", help="go on without an IOMMU: nothing stops the disk's DMA")
    return parser.parse_args()


def main() -> None:
    """Open the disk and test it."""
    asked = arguments()
    try:
        with ioas.KernelHost() as host, host.device(asked.bdf, WAYS.get(asked.via)) as device:
            if device.no_iommu and not asked.no_iommu:
                raise NvmeError(f"no IOMMU stands in front of {asked.bdf}, and --no-iommu was not given")
            how = "interrupts" if asked.interrupts else "looking"
            print(f"nvme {asked.bdf} is {device.path}, completions by {how}")
            space = device.space()
            with opened(device, space, asked.interrupts) as disk:
                describe(disk)
                check(disk, space, asked.blocks, asked.write)
    except (IoasError, NvmeError) as error:
        sys.exit(f"nvme: {error}")


if __name__ == "__main__":
    main()
