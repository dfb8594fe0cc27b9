"""Machines for the doctor: one for each classic refusal, with what has to be said of it, and healthy ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ioas.inspect import Node, Purpose
from ioas.inspect.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, AclEntry
from tests.inspect.describe import ALICE, CAP_39, DISK, ECAP_REMAPS, NETWORK, NO_ACS, PORTS, Pc


class Refusal(NamedTuple):
    """What is wrong with a machine, and what the doctor has to say: the check, the culprit, words of the remedy."""

    change: Callable[[Pc], object]
    check: str
    culprit: str
    remedy: str
    wanted: dict[str, object] = {}  # noqa: RUF012  # a default, which nobody changes
    purpose: Purpose = "driver"
    verdict: str = "no"


def off_in_firmware(pc: Pc) -> None:
    pc.no_iommu()
    pc.remove("/sys/firmware/acpi/tables/DMAR")
    pc.text("/sys/firmware/acpi/tables/APIC", "")


def only_the_mock_of_selftests(pc: Pc) -> None:
    off_in_firmware(pc)
    pc.link("/sys/class/iommu/iommufd_selftest_iommu.0", "/sys/devices/platform/iommufd_selftest_iommu.0")


def off_on_the_command_line(pc: Pc) -> None:
    pc.no_iommu()
    pc.text("/proc/cmdline", "root=/dev/sda1 intel_iommu=off quiet")


def not_turned_on(pc: Pc) -> None:
    pc.no_iommu()
    pc.text("/proc/cmdline", "root=/dev/sda1")


def not_built_in(pc: Pc) -> None:
    pc.no_iommu()
    pc.text("/proc/cmdline", "root=/dev/sda1")
    pc.option("VFIO_PCI=m")


def outside_of_every_unit(pc: Pc) -> None:
    for name in ("iommu_group", "iommu"):
        pc.remove(f"{pc.path(DISK)}/{name}")


def bound_sibling(pc: Pc) -> None:
    pc.function("0000:01:00.1", 0x040300, below=PORTS[DISK], driver="snd_hda_intel", group=3, config=NO_ACS)


def switch_without_acs(pc: Pc) -> None:
    pc.text(f"{pc.path(PORTS[DISK])}/config", NO_ACS)
    pc.function("0000:05:00.0", 0x020000, below=PORTS[DISK], driver="igb", group=3)


def remapping_off(pc: Pc) -> None:
    pc.text("/proc/interrupts", "  25:  0  PCI-MSI-0000:00:01.0  0-edge  PCIe PME")
    pc.text("/proc/cmdline", "intel_iommu=on intremap=off")


def remapping_absent(pc: Pc) -> None:
    pc.text("/proc/interrupts", "  25:  0  PCI-MSI-0000:00:01.0  0-edge  PCIe PME")
    pc.unit("dmar0", 0x2F << 16, 0)


def remapping_waived(pc: Pc) -> None:
    remapping_absent(pc)
    pc.text("/sys/module/iommufd/parameters/allow_unsafe_interrupts", "Y")


def no_reset(pc: Pc) -> None:
    for name in ("reset", "reset_method"):
        pc.remove(f"{pc.path(DISK)}/{name}")


def reserved_by_firmware(pc: Pc) -> None:
    lines = "0x0000000000000000 0x0000000000ffffff direct-relaxable\n0x000000007d000000 0x000000007fffffff reserved"
    pc.text("/sys/kernel/iommu_groups/3/reserved_regions", lines)


def mapped_by_firmware(pc: Pc) -> None:
    pc.text("/sys/kernel/iommu_groups/3/reserved_regions", "0x000000007d000000 0x000000007fffffff direct")


def ordinary_user(pc: Pc) -> None:
    pc.user = ALICE


def user_with_nodes(pc: Pc) -> None:
    pc.user = ALICE
    pc.nodes["/dev/vfio/devices/vfio0"] = Node(0o600, 1000, 1000)


def few_huge_pages(pc: Pc) -> None:
    pc.text("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "16")


def narrow_unit(pc: Pc) -> None:
    pc.unit("dmar0", CAP_39, ECAP_REMAPS)


def vfio_not_built(pc: Pc) -> None:
    pc.driver(DISK, "nvme")
    pc.remove("/sys/bus/pci/drivers/vfio-pci")
    pc.option("INTEL_IOMMU=y")


def vfio_not_loaded(pc: Pc) -> None:
    pc.driver(DISK, "nvme")
    pc.remove("/sys/bus/pci/drivers/vfio-pci")


def vfio_not_installed(pc: Pc) -> None:
    vfio_not_loaded(pc)
    pc.remove("/boot")
    pc.text("/lib/modules/7.3.4/modules.dep", "kernel/drivers/net/igb.ko:")


def held_by_its_driver(pc: Pc) -> None:
    pc.driver(DISK, "nvme")


def boot_disk(pc: Pc) -> None:
    pc.driver(DISK, "nvme")
    pc.link("/sys/class/block/nvme0n1p2", f"{pc.path(DISK)}/nvme/nvme0/nvme0n1/nvme0n1p2")
    pc.text("/proc/mounts", "proc /proc proc rw 0 0\n/dev/nvme0n1p2 / ext4 rw 0 0")


def disk_below_a_volume(pc: Pc) -> None:
    boot_disk(pc)
    pc.link("/sys/class/block/dm-0/slaves/nvme0n1p2", "/sys/devices/elsewhere")
    pc.link("/dev/mapper/root", "/dev/dm-0")
    pc.text("/proc/mounts", "/dev/mapper/root / ext4 rw 0 0")


def in_use(pc: Pc) -> None:
    pc.open_by["/dev/vfio/devices/vfio0"] = ["qemu-system-x86 (pid 4711)"]


def group_in_use(pc: Pc) -> None:
    pc.open_by["/dev/vfio/3"] = ["testpmd (pid 99)"]


def without_nodes(pc: Pc) -> None:
    pc.nodes.clear()


def no_iommu_with_mode_off(pc: Pc) -> None:
    pc.no_iommu()


def no_iommu_without_the_mode(pc: Pc) -> None:
    pc.no_iommu()
    pc.remove("/sys/module/vfio")


def no_iommu_without_privilege(pc: Pc) -> None:
    pc.no_iommu()
    pc.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
    pc.user = ALICE


def tdx_guest(pc: Pc) -> None:
    pc.text("/proc/cpuinfo", "processor : 0\nflags : fpu vme hypervisor tdx_guest\n\nprocessor : 1")


def sev_snp_guest(pc: Pc) -> None:
    pc.text("/sys/devices/system/cpu/sev/vmpl", "0")


def secure_execution_guest(pc: Pc) -> None:
    pc.text("/sys/firmware/uv/prot_virt_guest", "1")


def bypassable_unit(pc: Pc) -> None:
    pc.bypass["dmar0"] = "strict"


def bypassable_unit_accepted(pc: Pc) -> None:
    pc.bypass["dmar0"] = "kernel"


def listed_without_permission(pc: Pc) -> None:
    """The user is named in the list, which gives more than its mask lets through."""
    pc.user = ALICE
    acl = (AclEntry(USER_OBJ, 0, 6), AclEntry(USER, 1000, 6), AclEntry(MASK, 0, 4), AclEntry(OTHER, 0, 0))
    pc.nodes["/dev/vfio/devices/vfio0"] = Node(0o640, 0, 0, acl)


def crashed_before(pc: Pc) -> None:
    pc.text("/proc/sys/kernel/tainted", str(1 << 7 | 1 << 12))


def used_without_iommu(pc: Pc) -> None:
    pc.text("/proc/sys/kernel/tainted", str(1 << 6))


def virtual_function_of_vfio(pc: Pc) -> None:
    pc.link(f"{pc.path(DISK)}/physfn", pc.path(NETWORK))
    pc.driver(NETWORK, "vfio-pci")


REFUSALS = [
    Refusal(virtual_function_of_vfio, "VF token", f"device {NETWORK}", "vf-token=UUID", verdict="warning"),
    Refusal(tdx_guest, "confidential", "confidential guest (Intel TDX)", "without memory encryption"),
    Refusal(sev_snp_guest, "confidential", "confidential guest (AMD SEV-SNP)", "without memory encryption"),
    Refusal(
        secure_execution_guest, "confidential", "confidential guest (IBM Secure Execution)", "without memory encryption"
    ),
    Refusal(bypassable_unit, "isolation", "unit dmar0", "force_aperture = true"),
    Refusal(bypassable_unit_accepted, "isolation", "unit dmar0", "", verdict="warning"),
    Refusal(listed_without_permission, "device nodes", "file /dev/vfio/devices/vfio0", "give it to the user"),
    Refusal(crashed_before, "taint", "kernel taint D", "boot again", verdict="warning"),
    Refusal(used_without_iommu, "taint", "kernel taint U", "boot again", verdict="warning"),
    Refusal(off_in_firmware, "IOMMU", "firmware setting of VT-d, AMD-Vi or IOMMU", "firmware's setup"),
    Refusal(only_the_mock_of_selftests, "IOMMU", "firmware setting of VT-d, AMD-Vi or IOMMU", "firmware's setup"),
    Refusal(off_on_the_command_line, "IOMMU", "setting intel_iommu=off", "remove intel_iommu=off"),
    Refusal(not_turned_on, "IOMMU", "setting intel_iommu=on is missing", "add intel_iommu=on"),
    Refusal(not_built_in, "IOMMU", "kernel option CONFIG_INTEL_IOMMU", "use a kernel that has it"),
    Refusal(outside_of_every_unit, "IOMMU", f"device {DISK}", "another slot"),
    Refusal(bound_sibling, "group", "device 0000:01:00.1", "the whole group"),
    Refusal(switch_without_acs, "group", f"port {PORTS[DISK]}", "another slot|the whole group"),
    Refusal(remapping_off, "interrupts", "setting intremap=off", "remove intremap=off"),
    Refusal(remapping_absent, "interrupts", "unit dmar0", "turn interrupt remapping on"),
    Refusal(remapping_waived, "interrupts", "unit dmar0", "", verdict="warning"),
    Refusal(no_reset, "reset", f"device {DISK}", "freshly booted", verdict="warning"),
    Refusal(
        mapped_by_firmware,
        "reserved IOVA",
        "reserved region 0x7d000000 to 0x7fffffff of group 3",
        "ask the vendor for firmware",
    ),
    Refusal(
        reserved_by_firmware,
        "reserved IOVA",
        "reserved region 0x7d000000 to 0x7fffffff of group 3",
        "map elsewhere",
        {"iova": (0x7F000000, 0x80FFFFFF)},
    ),
    Refusal(user_with_nodes, "pinned memory", "limit RLIMIT_MEMLOCK", "raise it", {"memory": 4 << 30}),
    Refusal(user_with_nodes, "pinned memory", "limit RLIMIT_MEMLOCK", "raise it", verdict="warning"),
    Refusal(
        few_huge_pages,
        "huge pages",
        "file /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "reserve them",
        {"hugepages": 1 << 30},
    ),
    Refusal(ordinary_user, "device nodes", "file /dev/vfio/devices/vfio0", "give it to the user"),
    Refusal(without_nodes, "device nodes", "file /dev/vfio/devices/vfio0", "container"),
    Refusal(narrow_unit, "aperture", "unit dmar0", "lower addresses", {"iova": (1 << 39, (1 << 39) + 4095)}),
    Refusal(narrow_unit, "aperture", "unit dmar0", "host-phys-bits-limit=39", {"memory": 1 << 40}, "vm"),
    Refusal(vfio_not_built, "vfio-pci", "kernel option CONFIG_VFIO_PCI", "use a kernel"),
    Refusal(vfio_not_installed, "vfio-pci", "kernel option CONFIG_VFIO_PCI", "use a kernel"),
    Refusal(vfio_not_loaded, "vfio-pci", "module vfio-pci", "load it"),
    Refusal(held_by_its_driver, "driver", "driver nvme", "give it to vfio-pci"),
    Refusal(boot_disk, "driver", "driver nvme", "use another device"),
    Refusal(disk_below_a_volume, "driver", "driver nvme", "use another device"),
    Refusal(in_use, "other users", "program qemu-system-x86 (pid 4711)", "end that program"),
    Refusal(group_in_use, "other users", "program testpmd (pid 99)", "end that program"),
    Refusal(lambda pc: None, "no-IOMMU mode", "group 3", "use the IOMMU", {}, "noiommu"),
    Refusal(
        no_iommu_with_mode_off,
        "no-IOMMU mode",
        "setting vfio.enable_unsafe_noiommu_mode",
        "turn it on",
        {},
        "noiommu",
    ),
    Refusal(
        no_iommu_without_the_mode, "no-IOMMU mode", "kernel option CONFIG_VFIO_NOIOMMU", "load vfio", {}, "noiommu"
    ),
    Refusal(no_iommu_without_privilege, "no-IOMMU mode", "capability CAP_SYS_RAWIO", "as root", {}, "noiommu"),
]


def healthy(pc: Pc) -> None:
    """Nothing is wrong."""


def only_a_bridge_in_the_way(pc: Pc) -> None:
    pc.group(PORTS[DISK], 3)


def sibling_without_a_driver(pc: Pc) -> None:
    pc.function("0000:01:00.1", 0x040300, below=PORTS[DISK], group=3)


def whole_group_with_vfio(pc: Pc) -> None:
    bound_sibling(pc)
    pc.vfio("0000:01:00.1", 1)


def pass_through_by_default(pc: Pc) -> None:
    pc.text("/proc/cmdline", "iommu=pt intel_iommu=on")
    pc.text("/sys/kernel/iommu_groups/3/type", "identity")


def user_who_was_given_everything(pc: Pc) -> None:
    user_with_nodes(pc)
    pc.user = ALICE._replace(memlock=16 << 30)


def user_on_the_list(pc: Pc) -> None:
    """The nodes are root's; an access control list lets the user in, as udev's "uaccess" does."""
    pc.user = ALICE._replace(memlock=16 << 30)
    acl = (AclEntry(USER_OBJ, 0, 6), AclEntry(USER, 1000, 6), AclEntry(MASK, 0, 6), AclEntry(OTHER, 0, 0))
    pc.nodes["/dev/vfio/devices/vfio0"] = Node(0o660, 0, 0, acl)


def group_on_the_list(pc: Pc) -> None:
    pc.user = ALICE._replace(memlock=16 << 30, gids=frozenset({1000, 36}))
    acl = (AclEntry(USER_OBJ, 0, 6), AclEntry(GROUP_OBJ, 0, 0), AclEntry(GROUP, 36, 6), AclEntry(MASK, 0, 6))
    pc.nodes["/dev/vfio/devices/vfio0"] = Node(0o660, 0, 0, acl)


def virtual_function_of_a_driver(pc: Pc) -> None:
    pc.link(f"{pc.path(DISK)}/physfn", pc.path(NETWORK))
    pc.driver(NETWORK, "igb")


def tainted_by_a_module(pc: Pc) -> None:
    pc.text("/proc/sys/kernel/tainted", str(1 << 12 | 1 << 13))


def host_of_confidential_guests(pc: Pc) -> None:
    pc.text("/proc/cpuinfo", "flags : fpu sev sev_es sev_snp tdx_host_platform")


def relaxable_region(pc: Pc) -> None:
    reserved_by_firmware(pc)


def group_alone(pc: Pc) -> None:
    """A kernel without device cdevs."""
    pc.remove(f"{pc.path(DISK)}/vfio-dev")
    del pc.nodes["/dev/iommu"], pc.nodes["/dev/vfio/devices/vfio0"]


def driver_made_for_the_device(pc: Pc) -> None:
    pc.driver(DISK, "mlx5_vfio_pci")


def neighbour_in_use(pc: Pc) -> None:
    """The other device has a driver, a route and a file system: none of it is this one's."""
    pc.driver(NETWORK, "igb")
    pc.link("/sys/class/net/eth0", f"{pc.path(NETWORK)}/net/eth0")
    pc.text("/proc/net/route", "Iface\tDestination\neth0\t00000000\t0102A8C0")


HEALTHY = [
    healthy,
    only_a_bridge_in_the_way,
    sibling_without_a_driver,
    whole_group_with_vfio,
    pass_through_by_default,
    user_who_was_given_everything,
    user_on_the_list,
    group_on_the_list,
    virtual_function_of_a_driver,
    tainted_by_a_module,
    host_of_confidential_guests,
    relaxable_region,
    group_alone,
    driver_made_for_the_device,
    neighbour_in_use,
]
