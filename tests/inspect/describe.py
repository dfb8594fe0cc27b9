"""Machines for the doctor, described by what their files say: a healthy PC, and what is wrong with each of the others.

The PC is an Intel one of the usual kind: VT-d on, a disk and a network card behind root ports of their own, vfio-pci
loaded, everything read by root. A test changes what its machine has that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ioas.inspect import ROOT, Machine, Node, User
from ioas.soft.pci import Link, Text, Tree

DISK, NETWORK = "0000:01:00.0", "0000:02:00.0"
PORTS = {DISK: "0000:00:01.0", NETWORK: "0000:00:02.0"}
CAP_48, CAP_39 = 0x2F << 16 | 0b100 << 8, 0x26 << 16 | 0b010 << 8
ECAP_REMAPS = 1 << 3
ACS = bytes(0x100) + (0x000D | 1 << 16).to_bytes(4, "little") + bytes([0, 0, 0x1D, 0]) + bytes(0xEF8)
NO_ACS = bytes(0x1000)
ALICE = User(1000, frozenset({1000}), 8 << 20, frozenset())


class Pc:
    """A machine to be changed, and then looked at by `machine`."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.user = ROOT
        self.nodes = {"/dev/iommu": Node(0o666, 0, 0), "/dev/vfio/vfio": Node(0o666, 0, 0)}
        self.open_by: dict[str, Sequence[str]] = {}
        self.bypass: dict[str, str] = {}
        self._add_kernel()
        self.unit("dmar0", CAP_48, ECAP_REMAPS)
        for number, (bdf, port) in enumerate(PORTS.items()):
            self.function(port, 0x060400, driver="pcieport", group=number + 1, config=ACS)
            self.function(bdf, 0x010802 if bdf == DISK else 0x020000, below=port, group=number + 3, resets="flr bus")
        self.vfio(DISK)

    def _add_kernel(self) -> None:
        self.text("/proc/sys/kernel/osrelease", "7.3.4")
        self.text("/proc/cmdline", "root=/dev/sda1 intel_iommu=on")
        self.text("/proc/interrupts", "  25:  0  IR-PCI-MSI-0000:00:01.0  0-edge  PCIe PME")
        self.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N")
        self.text("/sys/module/iommufd/parameters/allow_unsafe_interrupts", "N")
        self.text("/sys/firmware/acpi/tables/DMAR", "")
        for name in ("bind", "unbind"):
            self.text(f"/sys/bus/pci/drivers/vfio-pci/{name}", "")
        self.option("VFIO_PCI=m", "INTEL_IOMMU=y", "VFIO_NOIOMMU=y")

    def machine(self) -> Machine:
        """The machine as it is now."""
        held = self.open_by
        return Machine(self.tree, self.nodes.get, self.user, lambda path: held.get(path, ()), bypass=self.bypass.get)

    def text(self, path: str, contents: str | bytes) -> None:
        """Let a file have these contents."""
        self.remove(path)
        self.tree.add(path, Text(contents if isinstance(contents, bytes) else f"{contents}\n".encode()))

    def texts(self, directory: str, contents: Mapping[str, str]) -> None:
        """Let files of a directory have these contents."""
        for name, text in contents.items():
            self.text(f"{directory}/{name}", text)

    def link(self, path: str, target: str) -> None:
        """Let a link lead to an absolute path."""
        self.remove(path)
        self.tree.link(path, target)

    def remove(self, path: str) -> None:
        """Take a file, link or directory away, if it is there."""
        try:
            self.tree.get(path, follow=False)
        except OSError:
            return
        self.tree.remove(path)

    def option(self, *lines: str) -> None:
        """Let the kernel be built with these options alone."""
        self.text("/boot/config-7.3.4", "\n".join(f"CONFIG_{line}" for line in lines))

    def unit(self, name: str, cap: int, ecap: int) -> None:
        """A VT-d unit."""
        self.texts(f"/sys/devices/virtual/iommu/{name}/intel-iommu", {"cap": f"{cap:x}", "ecap": f"{ecap:x}"})
        self.link(f"/sys/class/iommu/{name}", f"/sys/devices/virtual/iommu/{name}")

    def function(
        self,
        bdf: str,
        class_code: int,
        *,
        below: str | None = None,
        driver: str | None = None,
        group: int | None = None,
        resets: str = "",
        config: bytes = bytes(0x1000),
    ) -> None:
        """A PCI function, below a port or on the root bus."""
        above = self.path(below) if below is not None else "/sys/devices/pci0000:00"
        path = f"{above}/{bdf}"
        self.texts(path, {"vendor": "0x8086", "device": "0x1234", "class": f"{class_code:#08x}"})
        self.text(f"{path}/config", config)
        if resets:
            self.texts(path, {"reset_method": resets, "reset": ""})
        self.link(f"/sys/bus/pci/devices/{bdf}", path)
        self.driver(bdf, driver)
        if group is not None:
            self.link(f"{path}/iommu", "/sys/devices/virtual/iommu/dmar0")
            self.link(f"/sys/devices/virtual/iommu/dmar0/devices/{bdf}", path)
            self.group(bdf, group)

    def path(self, bdf: str) -> str:
        """The directory of a function below /sys/devices."""
        return self.tree.realpath(f"/sys/bus/pci/devices/{bdf}")

    def driver(self, bdf: str, name: str | None) -> None:
        """Let a function be driven by `name`."""
        path = self.path(bdf)
        for one in self.tree.listdir("/sys/bus/pci/drivers"):
            self.remove(f"/sys/bus/pci/drivers/{one}/{bdf}")
        self.remove(f"{path}/driver")
        if name is not None:
            self.link(f"{path}/driver", f"/sys/bus/pci/drivers/{name}")
            self.link(f"/sys/bus/pci/drivers/{name}/{bdf}", path)

    def vfio(self, bdf: str, index: int = 0) -> None:
        """Let vfio-pci have a function, with its nodes."""
        self.driver(bdf, "vfio-pci")
        self.text(f"{self.path(bdf)}/vfio-dev/vfio{index}/dev", f"511:{index}")
        group = self.tree.readlink(f"{self.path(bdf)}/iommu_group").rpartition("/")[2]
        self.nodes[f"/dev/vfio/devices/vfio{index}"] = self.nodes[f"/dev/vfio/{group}"] = Node(0o600, 0, 0)

    def group(self, bdf: str, number: int) -> None:
        """Move a function into a group."""
        directory = f"/sys/kernel/iommu_groups/{number}"
        link = f"{self.path(bdf)}/iommu_group"
        if self._has(link):
            old = self.tree.readlink(link).rpartition("/")[2]
            self.remove(f"/sys/kernel/iommu_groups/{old}/devices/{bdf}")
            if not self.tree.listdir(f"/sys/kernel/iommu_groups/{old}/devices"):
                self.remove(f"/sys/kernel/iommu_groups/{old}")
        self.texts(directory, {"type": "DMA", "reserved_regions": "0x00000000fee00000 0x00000000feefffff msi"})
        self.link(f"{directory}/devices/{bdf}", self.path(bdf))
        self.link(link, directory)

    def no_iommu(self) -> None:
        """Let there be no IOMMU at all."""
        self.remove("/sys/class/iommu")
        self.remove("/sys/kernel/iommu_groups")
        for bdf in (*PORTS, *PORTS.values()):
            self.remove(f"{self.path(bdf)}/iommu_group")
            self.remove(f"{self.path(bdf)}/iommu")
        self.remove(f"{self.path(DISK)}/vfio-dev")
        self.driver(DISK, "nvme")

    def _has(self, path: str) -> bool:
        try:
            return isinstance(self.tree.get(path, follow=False), Link)
        except OSError:
            return False
