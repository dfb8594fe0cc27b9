"""The guest: which machine QEMU makes, and on what terms it sees the host.

A q35 machine with Intel's IOMMU and, each behind a root port and so in a group of its own, the three devices at
0000:01:00.0 (edu), 0000:02:00.0 (nvme, with a disk in memory) and 0000:03:00.0 (igb). The host's files are exported
read-only; `outputs` alone can be written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ioas.errors import UsageError
from tools.reference import init

PORTS = ("control", "out", "err")
# The device models, as QEMU names them, with their ids.
DEVICES = {"edu": "1234:11e8", "nvme,drive=disk,serial=ioas": "1b36:0010", "igb,netdev=net": "8086:10c9"}
BACKENDS = ("-netdev", "user,id=net,restrict=on")
DISK_BYTES = 64 << 20
LINE_BYTES = 2048  # the kernel's COMMAND_LINE_SIZE on x86
INSIDE = "IOAS_GUEST"
"""The variable that holds the variant's name in the guest."""


@dataclass(frozen=True)
class Variant:
    """One kind of guest: its kernel in kernel.toml, what QEMU and the kernel's command line get."""

    about: str
    kernel: str
    qemu: tuple[str, ...]
    arguments: str


IOMMU = ("-device", "intel-iommu,intremap=on,caching-mode=on")
SMALL = ("-device", "intel-iommu,intremap=off,caching-mode=on,aw-bits=39")
WIDE = ("-global", "edu.dma_mask=0xffffffffffffffff")
"""Without an IOMMU the device has to reach whatever page the kernel gives: 28 address lines are 256 MiB."""
VARIANTS = {
    "iommu": Variant("an Intel IOMMU; VFIO serves /dev/vfio/vfio", "default", IOMMU, "intel_iommu=on"),
    "noiommu": Variant("no IOMMU; VFIO's unsafe mode is on", "default", WIDE, "vfio.enable_unsafe_noiommu_mode=1"),
    "iommufd-container": Variant("an Intel IOMMU; iommufd serves /dev/vfio/vfio", "container", IOMMU, "intel_iommu=on"),
    "small-iommu": Variant("one of 39 bits that does not remap interrupts", "default", SMALL, "intel_iommu=on"),
}


@dataclass(frozen=True)
class Guest:
    """A guest to be: `variant` of `VARIANTS`, `outputs` the host's directories that it may write, `memory` in MiB.

    `devices`: those behind the root ports, as QEMU names them, with their ids; `backends`: words that they need.
    """

    variant: str
    kernel: Path
    qemu: tuple[str, ...]
    outputs: tuple[Path, ...] = ()
    memory: int = 2048
    processors: int = 1
    """QEMU's emulation of several has stood still at times, without a word."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    devices: Mapping[str, str] = field(default_factory=lambda: DEVICES)
    backends: tuple[str, ...] = BACKENDS

    def __post_init__(self) -> None:
        for output in self.outputs:
            if not output.is_dir():
                raise UsageError(f"{output} is no directory: nothing can be written there by the guest")

    def command(self, ports: Sequence[int], disk: int) -> list[str]:
        """QEMU's command line; `ports` are connected sockets for `PORTS`, `disk` is the file behind nvme."""
        machine = ["-M", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi", "-cpu", "max"]
        machine += ["-smp", str(self.processors), "-m", str(self.memory)]
        quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
        return [
            *self.qemu, *machine, *quiet, *VARIANTS[self.variant].qemu, *self._devices(disk), *_ports(ports),
            *self._files(), "-kernel", str(self.kernel), "-append", self._arguments(),
        ]  # fmt: skip

    def job(self, argv: Sequence[str], cwd: Path) -> init.Job:
        """What the guest's first process is to do."""
        return init.Job(
            argv=list(argv),
            env={**self.environment, INSIDE: self.variant, "TMPDIR": init.TEMPORARY},
            cwd=str(cwd),
            devices=list(self.devices.values()),
            shares={f"output{number}": str(path.resolve()) for number, path in enumerate(self.outputs)},
        )

    def _devices(self, disk: int) -> list[str]:
        words = ["-drive", f"if=none,id=disk,format=raw,file.locking=off,file=/proc/self/fd/{disk}", *self.backends]
        for number, model in enumerate(self.devices, 1):
            words += ["-device", f"pcie-root-port,id=port{number},chassis={number},addr={number}.0"]
            words += ["-device", f"{model},bus=port{number}"]
        return words

    def _files(self) -> list[str]:
        words = _export("root", Path("/"), "readonly=on")
        for number, path in enumerate(self.outputs):
            words += _export(f"output{number}", path.resolve())
        return words

    def _arguments(self) -> str:
        root = f"root=root rootfstype=9p rootflags=trans=virtio,version=9p2000.L,msize={init.MSIZE},cache=loose ro"
        # A busy host lets the boot-time test of the timer fail, which Linux answers with a panic.
        # Without it the kernel leaves errors of PCI Express to firmware, which has none to tell.
        trouble = "panic=-1 oops=panic no_timer_check pcie_ports=native quiet"
        python = os.path.realpath(sys.executable)
        first = f'init="{python}" -- -I -S -B "{Path(init.__file__).resolve()}"'
        line = f"console=ttyS0 {VARIANTS[self.variant].arguments} {trouble} {root} {first}"
        if len(os.fsencode(line)) >= LINE_BYTES or '"' in python + init.__file__:
            raise UsageError(f"a kernel command line cannot hold the paths of {python} and {init.__file__}")
        return line


def _export(tag: str, path: Path, *options: str) -> list[str]:
    where = str(path).replace(",", ",,")  # QEMU's own escape
    backend = ",".join(["local", f"id={tag}", f"path={where}", "security_model=none", "multidevs=remap", *options])
    return ["-fsdev", backend, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _ports(sockets: Sequence[int]) -> list[str]:
    words = ["-device", "virtio-serial-pci"]
    for name, descriptor in zip(PORTS, sockets, strict=True):
        words += ["-chardev", f"socket,id={name},fd={descriptor}"]
        words += ["-device", f"virtserialport,chardev={name},name={name}"]
    return words
