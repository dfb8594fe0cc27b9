"""The software machine: what `ioas run`, the Python API and the tests open device nodes on.

It answers `Host.open` for the nodes that a real machine would have under /dev, and holds everything that
stands behind them. Nothing of the real machine is touched; closing it leaves nothing behind.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import ENODEV, ENOENT

from ioas.errors import UsageError, refuse
from ioas.host import Caller, Capability, File
from ioas.soft.host.assembly import Assembly, assemble
from ioas.soft.host.binding import Binding
from ioas.soft.host.capabilities import parse_capabilities
from ioas.soft.host.description import MachineDescription, check_container, check_isolation, describe_device
from ioas.soft.host.fail_nth import FailNth, add_switches
from ioas.soft.host.files import OpenFiles
from ioas.soft.host.groups import VfioGroups
from ioas.soft.host.machine_file import load_machine
from ioas.soft.host.nodes import DeviceNodes, Node
from ioas.soft.host.virtual import VirtualFunctions
from ioas.soft.iommu import System
from ioas.soft.pci import Failure, Function, Tree, VfioNode, VirtualFunction, build_sysfs
from ioas.soft.vfio import IOMMU_DRIVERS, VfioDevice, Watcher
from ioas.soft.vfio.noiommu import can_probe

MISC_MAJOR = 10
IOMMU_NUMBER = (MISC_MAJOR, 258)
"""/dev/iommu is a misc device with a dynamic minor, which are above 255; here as on the reference machine."""
CONTAINER_NUMBER = (MISC_MAJOR, 196)
"""/dev/vfio/vfio: a misc device with a minor of its own (VFIO_MINOR)."""
CDEV_MAJOR = 248
"""/dev/vfio/devices/*: "vfio-dev" has a dynamic major; the minor is the index of the device."""

_DEFAULT_DEVICES = ("edu",)
_FAILURES_KEPT = 256


class SoftHost:
    """A software machine (implements `ioas.host.Host`).

    Example: ``SoftHost(["edu,addr=0000:05:00.0"])`` has /dev/iommu, and an edu as /dev/vfio/devices/vfio0.
    """

    system: System
    """Units, groups, memory and accounting of the machine."""
    devices: Mapping[str, VfioDevice]
    """The functions under vfio-pci, by BDF."""
    arrivals: list[Callable[[Function], None]]
    """Called with each virtual function that appears."""
    failures: deque[Failure]
    """Models that raised in their own code, oldest first (the last 256)."""
    tree: Tree
    """Sysfs as programs see it, from "/sys" down, and /dev."""
    grants: frozenset[Capability]
    """Capabilities that every caller has on this machine, whatever its process has (--cap)."""
    strict: bool
    """Refuse memory that would not stay pinned through munmap and fork (callers look at this)."""

    def __init__(
        self,
        devices: Sequence[str | Function] | None = None,
        *,
        machine: str | os.PathLike[str] | None = None,
        capabilities: Iterable[str] = (),
        iommufd_test: bool = False,
        strict: bool = False,
        isolation: str | None = None,
        container: str | None = None,
        no_iommu: bool = False,
    ) -> None:
        """Put a machine together.

        `devices` are descriptions as `--device` takes them ("edu", "edu,addr=0000:05:00.0,dma_mask=0xffffffff") or
        functions made by the caller. They stand beside those of the `machine` file (TOML, see
        `ioas.soft.host.machine_file`); without either there is one edu. `capabilities` are names as `--cap` takes them
        ("sys_rawio", "CAP_IPC_LOCK"). `iommufd_test` turns on IOMMU_TEST_CMD. `isolation` is "strict" (default) or
        "kernel", `container` says who serves /dev/vfio/vfio: "vfio" (default), "iommufd", or "none" for a machine
        without it; both override the machine file's. `no_iommu` makes a machine without an IOMMU, with VFIO in its
        unsafe mode, whatever the file says.

        Raises UsageError: unknown model, option, capability, isolation or container, or a busy BDF; MachineError (a
        UsageError) with file and line for a wrong machine file.
        """
        description = _describe(devices, machine)
        if no_iommu:
            description = description.without_iommu()
        self.grants = parse_capabilities(capabilities)
        self.strict = strict
        policy = description.isolation if isolation is None else check_isolation(isolation)
        self.system = System(policy, low_memory=description.without_translation)
        self._container = description.container if container is None else check_container(container)
        self.system.has_noiommu = self._container != "none"  # which CONFIG_VFIO_NOIOMMU depends on
        if description.unsafe_noiommu and not self.system.has_noiommu:
            raise UsageError('container "none": a kernel without containers has no no-IOMMU mode')
        self.system.unsafe_noiommu = description.unsafe_noiommu
        self._files = OpenFiles()
        self._watcher = Watcher()
        self._test = iommufd_test
        self._assembly: Assembly = assemble(self.system, description)
        self.arrivals = [self._follow]
        self.failures = deque(maxlen=_FAILURES_KEPT)
        for function in self.functions.values():
            self._follow(function)
        bound = self._bind_all()
        self.devices = bound
        self.tree = self._make_tree()
        self._nodes = self._make_nodes()
        groups = VfioGroups(self.tree, self._nodes, self._files)
        binding = Binding(self.tree, bound, self._files, self._nodes, groups, self._assembly.others)
        VirtualFunctions(self._assembly.topology, self.tree, binding, self._arrived)
        self._closed = False
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {', '.join(map(str, self.functions.values())) or 'no devices'}>"

    @property
    def functions(self) -> Mapping[str, Function]:
        """PCI functions by BDF, such as "0000:01:00.0"; endpoints that a program can open, not root ports."""
        return self._assembly.topology.functions

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Device nodes by absolute path, such as "/dev/iommu" and "/dev/vfio/devices/vfio0"."""
        return self._nodes.shown

    def open(self, caller: Caller, path: str, flags: int) -> File:
        """Open a device node (see `Host.open`).

        Raises KernelError: ENOENT for a path that is not in `nodes`, ENODEV on a closed machine.
        """
        opener = self._nodes.opener(path)
        if opener is None:
            raise refuse(ENOENT, "this machine has no such device node", "file", path)
        with self.system.lock:
            if self._closed:
                raise refuse(ENODEV, "the machine has been closed", "file", path)
            self.system.failures.act_for(caller.pid)
            return opener(caller, flags)

    def fail_nth(self, process: int) -> File | None:
        """What /proc/PID/fail-nth of a process is on this machine; None when it is the real one."""
        return FailNth(self.system, process) if self._test else None

    def close(self) -> None:
        """Close every file still open, stop the devices' threads, release everything. Idempotent.

        In a forked child nothing happens: the machine lives in the parent, and shares descriptors with the child.
        """
        if os.getpid() != self._pid:
            return
        with self.system.lock:
            self._closed = True
        self._files.close_all()
        self._watcher.close()
        self._assembly.topology.close()

    def leaks(self) -> dict[str, int]:
        """What is held now, by kind; empty when nothing is.

        "files": open device nodes; "frames": frames of pinned memory; "tables": frames of page tables; "eventfds":
        those of programs.
        """
        counts = {
            "files": len(self._files),
            "frames": self.system.memory.held_frames,
            "tables": self.system.memory.table_frames,
            "eventfds": self._watcher.count + sum(device.held_eventfds for device in self.devices.values()),
        }
        return {kind: count for kind, count in counts.items() if count}

    def __enter__(self) -> SoftHost:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _follow(self, function: Function) -> None:
        function.guard.listeners.append(self.failures.append)

    def _arrived(self, function: VirtualFunction) -> VfioDevice:
        """The device of a virtual function that has appeared."""
        for listener in self.arrivals:
            listener(function)
        return VfioDevice(self.system, function, 0, (CDEV_MAJOR, 0), self._watcher)

    def _bind_all(self) -> dict[str, VfioDevice]:
        """A VFIO device for every endpoint; those that vfio-pci has from the start have the first numbers."""
        others = self._assembly.others
        order = sorted(self.functions, key=lambda address: (address in others, address))
        return {
            address: VfioDevice(
                self.system, function, order.index(address), (CDEV_MAJOR, order.index(address)), self._watcher
            )
            for address, function in self.functions.items()
        }

    def _make_nodes(self) -> DeviceNodes:
        """The nodes that are no device's."""

        def open_iommufd(caller: Caller, flags: int) -> File:
            return self._open_iommufd(IOMMU_NUMBER, vfio=False)

        nodes = DeviceNodes(self.tree)
        nodes.add("/dev/iommu", IOMMU_NUMBER, open_iommufd)
        if self._container != "none":
            nodes.add("/dev/vfio/vfio", CONTAINER_NUMBER, self._open_container)
        return nodes

    def _open_container(self, caller: Caller, flags: int) -> File:
        if self._container == "iommufd":
            return self._open_iommufd(CONTAINER_NUMBER, vfio=True)
        return self._files.container(self.system, IOMMU_DRIVERS, CONTAINER_NUMBER)

    def _open_iommufd(self, number: tuple[int, int], *, vfio: bool) -> File:
        return self._files.context(self.system, number, test=self._test, vfio=vfio)

    def _make_tree(self) -> Tree:
        vfio = {
            address: VfioNode(device.node, *device.number)
            for address, device in self.devices.items()
            if address not in self._assembly.others and can_probe(self.system, device.function)
        }
        misc = {"iommu": IOMMU_NUMBER}
        if self._container != "none":
            misc["vfio/vfio"] = CONTAINER_NUMBER
        tree = build_sysfs(self._assembly.topology, vfio, misc)
        if self._container != "vfio":  # the kernel builds type 1 for containers of VFIO's own alone
            tree.remove("/sys/module/vfio_iommu_type1")
        if not self.system.has_noiommu:
            tree.remove("/sys/module/vfio/parameters")
        if self._test:
            add_switches(tree)
        return tree


def _describe(devices: Sequence[str | Function] | None, machine: str | os.PathLike[str] | None) -> MachineDescription:
    if isinstance(devices, str):
        raise UsageError(f"devices is a list of descriptions, not the text {devices!r}")
    description = MachineDescription() if machine is None else load_machine(machine)
    if devices is None:
        devices = _DEFAULT_DEVICES if machine is None else ()
    return description.with_devices(describe_device(device) for device in devices)
