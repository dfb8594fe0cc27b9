"""How long `ioas ls` takes on a machine of 4,000 virtual functions, each in a group of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.report import Line
from ioas.soft.pci import Text, Tree

COUNT, ROUNDS = 4000, 5
BUDGET_MS = 1000
# What `ioas ls` does, on a copy of /sys; with the interpreter's start.
PROGRAM = """
import sys
from ioas.inspect import Machine, take
from ioas.inspect.screens import inventory_trees, show
from ioas.sysfs import DirectorySource
machine = Machine(DirectorySource(sys.argv[1]))
show(inventory_trees(take(machine)), machine)
"""
FILES = {"vendor": "0x8086", "device": "0x10ca", "class": "0x020000", "reset_method": "flr bus"}


def measure() -> Iterator[Line]:
    """One line. The tree stands in memory where the machine has /dev/shm, as /sys does."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as directory:
        _tree().materialise(Path(directory))
        times = [_run(directory) for _ in range(ROUNDS)]
    yield Line(f"ioas ls of {COUNT:,} virtual functions", statistics.median(times) * 1e3, "ms", BUDGET_MS)


def _run(directory: str) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, directory], capture_output=True, text=True, check=True)
    elapsed = time.perf_counter() - start
    if done.stdout.count("\n") != COUNT + 1:
        raise RuntimeError(f"{COUNT} functions made {done.stdout.count(chr(10))} lines")
    return elapsed


def _tree() -> Tree:
    """The part of /sys that is read of `COUNT` functions behind one VT-d unit, bound to vfio-pci."""
    tree = Tree()
    unit = "/sys/devices/virtual/iommu/dmar0"
    _add(tree, unit, {"intel-iommu/cap": "d2008c222f0686", "intel-iommu/ecap": "f00f4a"})
    tree.link("/sys/class/iommu/dmar0", unit)
    for number in range(COUNT):
        bdf = f"0000:{number >> 8:02x}:{number >> 3 & 31:02x}.{number & 7}"
        path, group = f"/sys/devices/pci0000:00/{bdf}", f"/sys/kernel/iommu_groups/{number}"
        _add(tree, path, {**FILES, f"vfio-dev/vfio{number}/dev": f"511:{number}"})
        _add(tree, group, {"type": "DMA", "reserved_regions": "0x00000000fee00000 0x00000000feefffff msi"})
        tree.link(f"/sys/bus/pci/devices/{bdf}", path)
        tree.link(f"{group}/devices/{bdf}", path)
        for name, target in (("iommu", unit), ("iommu_group", group), ("driver", "/sys/bus/pci/drivers/vfio-pci")):
            tree.link(f"{path}/{name}", target)
    return tree


def _add(tree: Tree, directory: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        tree.add(f"{directory}/{name}", Text(f"{text}\n".encode()))
