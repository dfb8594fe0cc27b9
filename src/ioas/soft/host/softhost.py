"""The software machine: what `ioas run`, the Python API and the tests open device nodes on.

It answers `Host.open` for the nodes that a real machine would have under /dev, and holds everything that
stands behind them. Nothing of the real machine is touched; closing it leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ioas.host import Caller, Capability, File

if TYPE_CHECKING:
    from ioas.soft.iommu import System
    from ioas.soft.pci import Function, Tree


class Node(NamedTuple):
    """A character device node: what stat(2) shows of it."""

    major: int
    minor: int
    mode: int
    """Permission bits, such as 0o666 (without S_IFCHR)."""


class SoftHost:
    """A software machine (implements `ioas.host.Host`)."""

    system: System
    """Units, groups, memory and accounting of the machine."""
    functions: Mapping[str, Function]
    """PCI functions by BDF, such as "0000:01:00.0"; endpoints that a program can open, not root ports."""
    tree: Tree
    """Sysfs as programs see it, from "/sys" down, and /dev."""
    nodes: Mapping[str, Node]
    """Device nodes by absolute path, such as "/dev/iommu" and "/dev/vfio/devices/vfio0"."""
    grants: frozenset[Capability]
    """Capabilities that every caller has on this machine, whatever its process has (--cap)."""
    strict: bool
    """Refuse memory that would not stay pinned through munmap and fork (callers look at this)."""

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        *,
        machine: str | os.PathLike[str] | None = None,
        capabilities: Iterable[str] = (),
        iommufd_test: bool = False,
        strict: bool = False,
        isolation: str | None = None,
    ) -> None:
        """Put a machine together and start its devices.

        `devices` are descriptions as `--device` takes them ("edu", "edu,addr=0000:05:00.0,dma_mask=0xffffffff");
        they stand beside those of the `machine` file (TOML, see `ioas.soft.host.machine_file`). Without either
        there is one edu. `capabilities` are names as `--cap` takes them ("sys_rawio", "CAP_IPC_LOCK").
        `iommufd_test` turns on IOMMU_TEST_CMD. `isolation` is "strict" (default) or "kernel" and overrides the
        machine file's.

        Raises UsageError: unknown model, option, capability or isolation, or a busy BDF; MachineError (a
        UsageError) with file and line for a wrong machine file.
        """
        raise NotImplementedError

    def open(self, caller: Caller, path: str, flags: int) -> File:
        """Open a device node (see `Host.open`). Raises KernelError(ENOENT) for a path that is not in `nodes`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close every file still open, stop the devices' threads, release everything. Idempotent."""
        raise NotImplementedError

    def leaks(self) -> dict[str, int]:
        """What is held now, by kind ("files", "frames", "pins", "eventfds", "threads"); empty when nothing is."""
        raise NotImplementedError

    def __enter__(self) -> SoftHost:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
