"""The software machine's /sys is that of Linux 7.3 with edu behind a root port; the reader reads both alike."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ioas.devices.edu import Edu
from ioas.errors import UsageError
from ioas.soft.iommu import System, amd_unit, vtd_unit
from ioas.soft.pci import (
    Bar,
    Function,
    Link,
    ManualTimers,
    Pcie,
    Rom,
    Text,
    Topology,
    Tree,
    VfioNode,
    build_sysfs,
    header,
)
from ioas.soft.pci.sysfs import add_vfio_group
from ioas.sysfs import DirectorySource, Resource, Sysfs

BDF = "0000:01:00.0"
DEVICE = f"/sys/bus/pci/devices/{BDF}"

# What 7.3.4 shows of edu behind a root port, bound to vfio-pci, without ACPI and power management: names and modes.
FILES_OF_EDU = {
    "ari_enabled": 0o444, "broken_parity_status": 0o644, "class": 0o444, "config": 0o644,
    "consistent_dma_mask_bits": 0o444, "d3cold_allowed": 0o644, "device": 0o444, "dma_mask_bits": 0o444,
    "driver_override": 0o644, "enable": 0o644, "irq": 0o444, "local_cpulist": 0o444, "local_cpus": 0o444,
    "modalias": 0o444, "msi_bus": 0o644, "power_state": 0o444, "remove": 0o220, "rescan": 0o200, "reset": 0o200,
    "reset_method": 0o644, "resource": 0o444, "resource0": 0o600, "revision": 0o444, "subsystem_device": 0o444,
    "subsystem_vendor": 0o444, "uevent": 0o644, "vendor": 0o444,
}  # fmt: skip
LINKS = {
    f"{DEVICE}": "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0",
    f"{DEVICE}/driver": "../../../../bus/pci/drivers/vfio-pci",
    f"{DEVICE}/iommu": "../../../virtual/iommu/dmar0",
    f"{DEVICE}/iommu_group": "../../../../kernel/iommu_groups/3",
    f"{DEVICE}/subsystem": "../../../../bus/pci",
    f"{DEVICE}/vfio-dev/vfio0/device": "../../../0000:01:00.0",
    f"{DEVICE}/vfio-dev/vfio0/subsystem": "../../../../../../class/vfio-dev",
    "/sys/bus/pci/devices/0000:00:01.0": "../../../devices/pci0000:00/0000:00:01.0",
    "/sys/bus/pci/devices/0000:00:01.0/driver": "../../../bus/pci/drivers/pcieport",
    f"/sys/bus/pci/drivers/vfio-pci/{BDF}": "../../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0",
    "/sys/bus/pci/drivers/vfio-pci/module": "../../../../module/vfio_pci",
    "/sys/module/vfio_pci/drivers/pci:vfio-pci": "../../../bus/pci/drivers/vfio-pci",
    f"/sys/kernel/iommu_groups/3/devices/{BDF}": "../../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0",
    "/sys/class/iommu/dmar0": "../../devices/virtual/iommu/dmar0",
    f"/sys/class/iommu/dmar0/devices/{BDF}": "../../../../pci0000:00/0000:00:01.0/0000:01:00.0",
    "/sys/class/vfio-dev/vfio0": "../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/vfio-dev/vfio0",
    "/sys/class/vfio/3": "../../devices/virtual/vfio/3",
    "/sys/class/pci_bus/0000:01": "../../devices/pci0000:00/0000:00:01.0/pci_bus/0000:01",
    "/sys/class/pci_bus/0000:01/device": "../../../0000:00:01.0",
    "/sys/dev/char/248:0": "../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/vfio-dev/vfio0",
    "/sys/dev/char/10:258": "../../devices/virtual/misc/iommu",
}
TEXTS = {
    f"{DEVICE}/vendor": "0x1234",
    f"{DEVICE}/device": "0x11e8",
    f"{DEVICE}/subsystem_vendor": "0x1af4",
    f"{DEVICE}/subsystem_device": "0x1100",
    f"{DEVICE}/class": "0x00ff00",
    f"{DEVICE}/revision": "0x10",
    f"{DEVICE}/modalias": "pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00",
    f"{DEVICE}/uevent": "DRIVER=vfio-pci\nPCI_CLASS=FF00\nPCI_ID=1234:11E8\nPCI_SUBSYS_ID=1AF4:1100\n"
    "PCI_SLOT_NAME=0000:01:00.0\nMODALIAS=pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00",
    f"{DEVICE}/driver_override": "vfio-pci",
    f"{DEVICE}/reset_method": "bus",
    f"{DEVICE}/enable": "0",
    f"{DEVICE}/vfio-dev/vfio0/dev": "248:0",
    f"{DEVICE}/vfio-dev/vfio0/uevent": "MAJOR=248\nMINOR=0\nDEVNAME=vfio/devices/vfio0",
    "/sys/class/vfio/3/uevent": "MAJOR=249\nMINOR=0\nDEVNAME=vfio/3",
    "/sys/class/misc/vfio/dev": "10:196",
    "/sys/class/misc/vfio/uevent": "MAJOR=10\nMINOR=196\nDEVNAME=vfio/vfio",
    "/sys/bus/pci/devices/0000:00:01.0/class": "0x060400",
    "/sys/bus/pci/devices/0000:00:01.0/current_link_speed": "16.0 GT/s PCIe",
    "/sys/bus/pci/devices/0000:00:01.0/secondary_bus_number": "1",
    "/sys/bus/pci/devices/0000:00:01.0/subsystem_vendor": "0x1b36",
    "/sys/bus/pci/devices/0000:00:01.0/driver_override": "(null)",
    "/sys/kernel/iommu_groups/3/reserved_regions": "0x00000000fee00000 0x00000000feefffff msi",
    "/sys/kernel/iommu_groups/3/type": "DMA",
    "/sys/class/iommu/dmar0/intel-iommu/domains_supported": "65536",
    "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode": "N",
    "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit": "65535",
}


class Pc:
    """Two edu: one under vfio-pci, one without a driver."""

    def __init__(self) -> None:
        self.system = System()
        self.topology = Topology(self.system, vtd_unit(self.system), ManualTimers())
        self.edu = Edu()
        self.topology.plug(self.edu)
        self.topology.plug(Edu())
        self.topology.settle()
        numbers = {"iommu": (10, 258), "vfio/vfio": (10, 196)}
        self.tree = build_sysfs(self.topology, {BDF: VfioNode("vfio0", 248, 0)}, numbers)
        add_vfio_group(self.tree, "3", (249, 0))


@pytest.fixture
def pc() -> Pc:
    return Pc()


def test_edus_directory_has_the_files_that_the_kernel_shows(pc: Pc) -> None:
    found = {name: node.mode for name, node in pc.tree.get(DEVICE).entries.items() if isinstance(node, Text)}
    found.pop("numa_node")  # only kernels with NUMA have it
    assert found == FILES_OF_EDU


@pytest.mark.parametrize(("path", "target"), LINKS.items())
def test_links_lead_where_the_kernels_do(pc: Pc, path: str, target: str) -> None:
    assert pc.tree.readlink(path).replace("iommu_groups/4", "iommu_groups/3") == target


@pytest.mark.parametrize(("path", "text"), TEXTS.items())
def test_texts_read_as_the_kernels_do(pc: Pc, path: str, text: str) -> None:
    assert pc.tree.read(path).decode() == text + "\n"


def test_every_link_leads_somewhere(pc: Pc) -> None:
    for path, node in pc.tree.walk():
        if isinstance(node, Link):
            pc.tree.get(path)


def test_resource_shows_bars_where_they_are(pc: Pc) -> None:
    lines = pc.tree.read(f"{DEVICE}/resource").decode().splitlines()
    assert (
        lines == ["0x00000000c0000000 0x00000000c00fffff 0x0000000000040200"] + [" ".join(["0x" + 16 * "0"] * 3)] * 12
    )
    pc.edu.config.write(header.BAR0, (0xD0000000).to_bytes(4, "little"))
    assert pc.tree.read(f"{DEVICE}/resource").startswith(b"0x00000000d0000000 0x00000000d00fffff")


def test_a_ports_resource_shows_its_windows(pc: Pc) -> None:
    lines = pc.tree.read("/sys/bus/pci/devices/0000:00:01.0/resource").decode().splitlines()
    assert len(lines) == 17
    assert lines[14] == "0x00000000c0000000 0x00000000c00fffff 0x0000000000000200"
    assert lines[13] == lines[15] == " ".join(["0x" + 16 * "0"] * 3), "closed"


def test_config_is_alive_and_has_the_functions_size(pc: Pc) -> None:
    assert len(pc.tree.read(f"{DEVICE}/config")) == 256
    assert len(pc.tree.read("/sys/bus/pci/devices/0000:00:01.0/config")) == 4096
    pc.edu.config.write(header.COMMAND, b"\x06\x00")
    assert pc.tree.read(f"{DEVICE}/config")[4:6] == b"\x06\x00"


def test_flags_of_every_kind_of_bar_are_the_kernels() -> None:
    class Windows(Function):
        ports = Bar(0, 32, "io")
        wide = Bar(2, 4096, "mem64")
        fast = Bar(4, 1 << 20, "mem64", prefetchable=True)
        rom = Rom(b"\x55\xaa")
        capabilities = (Pcie(),)

    system = System()
    topology = Topology(system, vtd_unit(system), ManualTimers())
    topology.plug(Windows())
    topology.settle()
    tree = build_sysfs(topology, {})
    device = Sysfs(tree).device(BDF)
    assert [resource.flags for resource in device.resources[:7]] == [0x40101, 0, 0x140204, 0, 0x14220C, 0, 0x46200]
    assert [resource.size for resource in device.resources[:7]] == [32, 0, 4096, 0, 1 << 20, 0, 2048]
    assert {"resource0", "resource2", "resource4", "resource4_wc", "rom"} <= set(tree.listdir(DEVICE))
    port = Sysfs(tree).device("0000:00:01.0").resources
    assert [resource.flags for resource in port[13:16]] == [0x101, 0x200, 0x102201]


def test_writing_reset_resets_and_driver_override_keeps_what_is_written(pc: Pc) -> None:
    pc.edu.interrupt()
    for nonsense in (b"", b"0", b"2\n", b"yes"):
        with pytest.raises(OSError, match="Invalid argument"):
            pc.tree.write(f"{DEVICE}/reset", nonsense)
    assert pc.edu.interrupts.asserted
    pc.tree.write(f"{DEVICE}/reset", b"1\n")
    assert not pc.edu.interrupts.asserted
    pc.tree.write(f"{DEVICE}/driver_override", b"nvme\n")
    assert pc.tree.read(f"{DEVICE}/driver_override") == b"nvme\n"
    pc.tree.write(f"{DEVICE}/driver_override", b"\n")
    assert pc.tree.read(f"{DEVICE}/driver_override") == b"(null)\n"


def test_a_device_that_nothing_resets_has_no_reset_file() -> None:
    system = System()
    topology = Topology(system, vtd_unit(system), ManualTimers())
    topology.plug(Edu(), "0000:00:05.0")
    topology.settle()
    names = build_sysfs(topology, {}).listdir("/sys/bus/pci/devices/0000:00:05.0")
    assert "reset" not in names
    assert "reset_method" not in names
    assert "driver" not in names


def test_an_amd_machine_shows_its_unit_as_amd_iommu() -> None:
    system = System()
    topology = Topology(system, amd_unit(system), ManualTimers())
    topology.settle()
    unit = Sysfs(build_sysfs(topology, {})).units()[0]
    assert unit.name == "ivhd0"
    assert set(unit.attributes) == {"amd-iommu/cap", "amd-iommu/features"}


def test_a_machine_without_iommu_has_empty_directories() -> None:
    topology = Topology(System(), None, ManualTimers())
    topology.plug(Edu())
    topology.settle()
    sysfs = Sysfs(build_sysfs(topology, {}))
    assert (sysfs.groups(), sysfs.units()) == ([], [])
    assert sysfs.device(BDF).iommu_group is None
    assert sysfs.device(BDF).iommu is None


@pytest.fixture(params=["memory", "disk"])
def sysfs(request: pytest.FixtureRequest, pc: Pc, tmp_path: Path) -> Sysfs:
    """The machine's tree, as it is and written to disk."""
    if request.param == "memory":
        return Sysfs(pc.tree)
    pc.tree.materialise(tmp_path)
    return Sysfs(DirectorySource(tmp_path))


def test_the_reader_tells_what_a_device_is(sysfs: Sysfs) -> None:
    device = sysfs.device(BDF)
    assert (device.vendor, device.device, device.class_code, device.revision) == (0x1234, 0x11E8, 0x00FF00, 0x10)
    assert device.subsystem == (0x1AF4, 0x1100)
    assert device.config[:4] == bytes.fromhex("3412e811")
    assert device.resources[0] == Resource(0xC0000000, 0xC00FFFFF, 0x40200)
    assert device.resources[0].size == 1 << 20
    assert device.numa_node is None


def test_the_reader_tells_where_a_device_belongs(sysfs: Sysfs) -> None:
    device, other = sysfs.device(BDF), sysfs.device("0000:02:00.0")
    assert (device.driver, device.driver_override, device.vfio_device) == ("vfio-pci", "vfio-pci", "vfio0")
    assert (other.driver, other.driver_override, other.vfio_device) == (None, None, None)
    assert (device.iommu, device.iommu_group, device.parent) == ("dmar0", 3, "0000:00:01.0")
    assert sysfs.device("0000:00:01.0").parent is None
    assert tuple(device.reset_methods) == ("bus",)


def test_the_reader_lists_devices_groups_units_and_drivers(sysfs: Sysfs) -> None:
    everything = ["0000:00:00.0", "0000:00:01.0", "0000:00:02.0", BDF, "0000:02:00.0"]
    assert [device.bdf for device in sysfs.devices()] == everything
    assert [group.devices for group in sysfs.groups()] == [(bdf,) for bdf in everything]
    assert sysfs.group(3).reserved == ((0xFEE00000, 0xFEEFFFFF, "msi"),)
    assert sysfs.group(3).type == "DMA"
    [unit] = sysfs.units()
    assert (unit.name, unit.devices) == ("dmar0", tuple(everything))
    assert int(unit.attributes["intel-iommu/cap"], 16) >> 16 & 0x3F == 47, "48-bit addresses"
    drivers = {driver.name: driver.devices for driver in sysfs.drivers()}
    assert drivers == {"vfio-pci": (BDF,), "pcieport": ("0000:00:01.0", "0000:00:02.0")}


def test_what_is_not_there_is_none_or_empty(sysfs: Sysfs) -> None:
    assert sysfs.text("/sys/nowhere") is None
    assert sysfs.names("/sys/nowhere") == ()
    assert sysfs.group(99).devices == ()
    with pytest.raises(UsageError, match=r"'0000:09:00.0'"):
        sysfs.device("0000:09:00.0")


def test_an_empty_tree_is_a_machine_without_anything() -> None:
    sysfs = Sysfs(Tree())
    assert (sysfs.devices(), sysfs.groups(), sysfs.units(), sysfs.drivers()) == ([], [], [], [])


def test_the_running_kernels_tree_can_be_read() -> None:
    for device in Sysfs().devices():
        assert device.vendor is not None
        assert device.resources


def test_realpath_walks_work_on_disk(pc: Pc, tmp_path: Path) -> None:
    pc.tree.materialise(tmp_path)
    real = os.path.realpath(tmp_path / DEVICE.lstrip("/"))
    assert real == str(tmp_path / "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0")
    group = os.path.realpath(os.path.join(real, "iommu_group"))
    assert os.path.basename(group) == "3"
    assert stat.S_IMODE(os.stat(os.path.join(real, "resource0")).st_mode) == 0o600
    assert os.stat(os.path.join(real, "resource0")).st_size == 1 << 20
