"""PCI devices, IOMMU groups, units, drivers and VFIO devices, as a sysfs tree shows them.

What is not there, or is not what it should be, is None or empty: kernels differ, and a device may be gone between two
reads. Formats are those of drivers/pci/pci-sysfs.c and drivers/iommu/iommu.c (Linux 7.3).
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ioas.errors import UsageError
from ioas.sysfs.source import DirectorySource, Source

_GONE = (errno.ENOENT, errno.ENODEV, errno.EINVAL, errno.ENOTDIR)


class Resource(NamedTuple):
    """A line of `resource`: bus addresses `start` to `last`, IORESOURCE flags."""

    start: int
    last: int
    flags: int

    @property
    def size(self) -> int:
        """Bytes; 0 for an empty line."""
        return self.last - self.start + 1 if self.last else 0


class Region(NamedTuple):
    """A line of a group's reserved_regions: IOVAs `start` to `last`, and the kind ("msi", "direct", ...)."""

    start: int
    last: int
    kind: str


@dataclass(frozen=True, slots=True)
class Driver:
    """A PCI driver and the BDFs bound to it."""

    name: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IommuGroup:
    """An IOMMU group: number, members' BDFs, reserved regions, type of its default domain ("DMA", "identity", ...)."""

    number: int
    devices: tuple[str, ...]
    reserved: tuple[Region, ...]
    type: str | None


@dataclass(frozen=True, slots=True)
class IommuUnit:
    """An IOMMU: name ("dmar0"), the BDFs behind it, its attributes by name ("intel-iommu/cap")."""

    name: str
    devices: tuple[str, ...]
    attributes: dict[str, str]


class PciDevice:
    """One PCI function; every property reads the tree anew."""

    def __init__(self, tree: Sysfs, bdf: str) -> None:
        self._tree = tree
        self.bdf = bdf
        self.path = f"/sys/bus/pci/devices/{bdf}"

    def __repr__(self) -> str:
        return f"PciDevice({self.bdf})"

    def text(self, name: str) -> str | None:
        """An attribute without its final newline; None when the device lacks it."""
        return self._tree.text(f"{self.path}/{name}")

    def _number(self, name: str) -> int | None:
        return _number(self.text(name), 0)

    @property
    def vendor(self) -> int | None:
        """Vendor ID."""
        return self._number("vendor")

    @property
    def device(self) -> int | None:
        """Device ID."""
        return self._number("device")

    @property
    def subsystem(self) -> tuple[int | None, int | None]:
        """Subsystem vendor and subsystem IDs."""
        return self._number("subsystem_vendor"), self._number("subsystem_device")

    @property
    def revision(self) -> int | None:
        """Revision ID."""
        return self._number("revision")

    @property
    def class_code(self) -> int | None:
        """Base class, subclass and programming interface: 24 bits."""
        return self._number("class")

    @property
    def numa_node(self) -> int | None:
        """The NUMA node; None when the kernel does not say, or says -1."""
        node = self._number("numa_node")
        return None if node is None or node < 0 else node

    @property
    def config(self) -> bytes:
        """Configuration space as far as the reader may see it: 64, 256 or 4096 bytes."""
        return self._tree.contents(f"{self.path}/config") or b""

    @property
    def resources(self) -> Sequence[Resource]:
        """The lines of `resource`: BARs 0 to 5, the ROM, then what the kernel adds."""
        lines = [line.split() for line in (self.text("resource") or "").splitlines()]
        numbers = [[_number(word, 16) or 0 for word in words] for words in lines]
        return tuple(Resource(*line) if len(line) == 3 else Resource(0, 0, 0) for line in numbers)

    @property
    def driver(self) -> str | None:
        """The driver it is bound to."""
        return self._tree.link_name(f"{self.path}/driver")

    @property
    def driver_override(self) -> str | None:
        """The only driver that may bind to it, if one was set."""
        text = self.text("driver_override")
        return None if text in (None, "", "(null)") else text

    @property
    def iommu_group(self) -> int | None:
        """The number of its group."""
        return _number(self._tree.link_name(f"{self.path}/iommu_group"), 10)

    @property
    def iommu(self) -> str | None:
        """The name of its IOMMU."""
        return self._tree.link_name(f"{self.path}/iommu")

    @property
    def reset_methods(self) -> Sequence[str]:
        """How the kernel can reset it, best first."""
        return tuple((self.text("reset_method") or "").split())

    @property
    def vfio_device(self) -> str | None:
        """The name of its VFIO device ("vfio0"), under which /dev/vfio/devices has it."""
        names = self._tree.names(f"{self.path}/vfio-dev")
        return next((name for name in names if "vfio" in name), None)

    @property
    def parent(self) -> str | None:
        """The BDF of the bridge above it; None on a root bus."""
        path = self._tree.link(self.path)
        above = posixpath.basename(posixpath.dirname(path)) if path is not None else ""
        return above if above.count(":") == 2 else None


class Sysfs:
    """A tree, by what stands in it. ``Sysfs()`` reads the running kernel's."""

    def __init__(self, source: Source | None = None) -> None:
        self._source: Source = source if source is not None else DirectorySource()

    def contents(self, path: str) -> bytes | None:
        """A file's contents; None when it is not there or has nothing to say. Raises OSError for other reasons."""
        try:
            return self._source.read(path)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def text(self, path: str) -> str | None:
        """A file's text without its final newline; None as for `contents`."""
        found = self.contents(path)
        return found.decode(errors="replace").removesuffix("\n") if found is not None else None

    def names(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted; empty when it is not there."""
        try:
            return sorted(self._source.listdir(path))
        except OSError as error:
            if error.errno in _GONE:
                return ()
            raise

    def link(self, path: str) -> str | None:
        """A link's target; None when there is no link."""
        try:
            return self._source.readlink(path)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def link_name(self, path: str) -> str | None:
        """The last part of a link's target."""
        target = self.link(path)
        return posixpath.basename(target) if target is not None else None

    def devices(self) -> Sequence[PciDevice]:
        """All PCI functions, by address."""
        return [PciDevice(self, name) for name in self.names("/sys/bus/pci/devices")]

    def device(self, bdf: str) -> PciDevice:
        """One PCI function. Raises UsageError when there is none at `bdf`."""
        if bdf not in self.names("/sys/bus/pci/devices"):
            raise UsageError(f"there is no PCI device {bdf!r}")
        return PciDevice(self, bdf)

    def groups(self) -> Sequence[IommuGroup]:
        """All IOMMU groups, by number."""
        numbers = [_number(name, 10) for name in self.names("/sys/kernel/iommu_groups")]
        return [self.group(number) for number in sorted(number for number in numbers if number is not None)]

    def group(self, number: int) -> IommuGroup:
        """One IOMMU group; empty when there is none of that number."""
        path = f"/sys/kernel/iommu_groups/{number}"
        lines = (self.text(f"{path}/reserved_regions") or "").splitlines()
        regions = tuple(region for region in map(_region, lines) if region is not None)
        return IommuGroup(number, tuple(self.names(f"{path}/devices")), regions, self.text(f"{path}/type"))

    def units(self) -> Sequence[IommuUnit]:
        """All IOMMUs, by name."""
        return [self._unit(name) for name in self.names("/sys/class/iommu")]

    def _unit(self, name: str) -> IommuUnit:
        path = f"/sys/class/iommu/{name}"
        attributes: dict[str, str] = {}
        for kind in ("intel-iommu", "amd-iommu"):
            for attribute in self.names(f"{path}/{kind}"):
                if (text := self.text(f"{path}/{kind}/{attribute}")) is not None:
                    attributes[f"{kind}/{attribute}"] = text
        return IommuUnit(name, tuple(self.names(f"{path}/devices")), attributes)

    def drivers(self) -> Sequence[Driver]:
        """All PCI drivers, by name."""
        found = []
        for name in self.names("/sys/bus/pci/drivers"):
            bound = [entry for entry in self.names(f"/sys/bus/pci/drivers/{name}") if entry.count(":") == 2]
            found.append(Driver(name, tuple(bound)))
        return found


def _number(text: str | None, base: int) -> int | None:
    try:
        return int(text, base) if text is not None else None
    except ValueError:
        return None


def _region(line: str) -> Region | None:
    words = line.split()
    if len(words) != 3:
        return None
    start, last = _number(words[0], 16), _number(words[1], 16)
    return Region(start, last, words[2]) if start is not None and last is not None else None
