"""Checks of the device and the kernel: vfio-pci, who drives the device and its group, resets."""

from __future__ import annotations

from collections.abc import Sequence

from ioas.inspect.acs import why_together
from ioas.inspect.case import Case, Finding, bind_commands
from ioas.inspect.needs import needed_for
from ioas.sysfs import PciDevice

_HARMLESS = ("pcieport", "pci-stub")
"""Drivers besides VFIO's that do no DMA of their own (7.3: driver_managed_dma), so that a group may keep them."""


def vfio_pci(case: Case) -> Finding | None:
    """Does the kernel have vfio-pci?"""
    if case.machine.sysfs.names("/sys/bus/pci/drivers/vfio-pci") or case.bound:
        return Finding("ok", "the kernel has vfio-pci")
    built = case.machine.option("VFIO_PCI") or _module_file(case)
    if built == "n":
        return Finding(
            "no",
            "this kernel is built without vfio-pci",
            "kernel option CONFIG_VFIO_PCI",
            "use a kernel that has it (distributions' do)",
            check="modinfo vfio-pci",
        )
    text = "vfio-pci is not loaded" if built else "vfio-pci is not loaded, and nothing tells whether the kernel has it"
    return Finding("no", text, "module vfio-pci", "load it", ("modprobe vfio-pci",), "ls /sys/bus/pci/drivers/vfio-pci")


def _module_file(case: Case) -> str | None:
    """Whether depmod's list has vfio-pci: "m", "n", or None when there is no list."""
    modules = case.machine.text(f"/lib/modules/{case.machine.release}/modules.dep")
    return None if modules is None else "m" if "/vfio-pci.ko" in modules else "n"


def driver(case: Case) -> Finding | None:
    """Does VFIO have the device?"""
    held = case.function.driver
    if case.function.is_bridge:
        return Finding(
            "no",
            "it is a bridge, and vfio-pci takes only what stands behind bridges",
            f"device {case.bdf}",
            "ask for a device behind it",
            check="ioas ls",
        )
    if case.bound:
        return Finding("ok", f"its driver is {held}")
    look = f"ls -l {case.path}/driver"
    if needs := needed_for(case.machine, case.bdf):
        text = f"it is held by driver {held}, and this machine needs it: {' and '.join(needs)}"
        return Finding("no", text, f"driver {held}", "use another device, or take this one out of use first", (), look)
    text = f"it is held by driver {held}" if held is not None else "no driver has it"
    culprit = f"driver {held}" if held is not None else f"device {case.bdf}"
    remedy = "give it to vfio-pci" + (f"; whatever uses it through {held} loses it" if held is not None else "")
    return Finding("no", text, culprit, remedy, bind_commands(case.bdf, held), look)


def vf_token(case: Case) -> Finding | None:
    """Has VFIO the physical function of this virtual one too? Then only who its owner trusts may open it.

    Follows vfio_pci_core_match_token_uuid (drivers/vfio/pci/vfio_pci_core.c, 7.3).
    """
    physical = physical_in_vfio(case)
    if physical is None:
        return None
    return Finding(
        "warning",
        f"its physical function {physical} belongs to VFIO: who opens this one must show the token that its owner set",
        f"device {physical}",
        "give both the same UUID (QEMU's vf-token=UUID), or leave the physical function to its own driver",
        check=f"ls -l {case.path}/physfn/driver",
    )


def physical_in_vfio(case: Case) -> str | None:
    """The physical function of a virtual one that vfio-pci has, where it has that as well."""
    physical = case.machine.sysfs.link_name(f"{case.path}/physfn")
    if physical is None or not case.bound:
        return None
    return physical if PciDevice(case.machine.sysfs, physical).driver == "vfio-pci" else None


def group(case: Case) -> Finding | None:
    """Is the whole group free of kernel drivers? DMA of its members cannot be told apart."""
    if case.group is None:
        return None
    held = [sibling for sibling in case.siblings if not _free(sibling)]
    if held:
        return _shared(case, held)
    if not case.siblings:
        return Finding("ok", f"it is alone in group {case.group.number}")
    names = ", ".join(f"{one.bdf} ({one.driver or 'no driver'})" for one in case.siblings)
    return Finding("ok", f"the rest of group {case.group.number} may stay as it is: {names}")


def _free(device: PciDevice) -> bool:
    name = device.driver
    return name is None or name in _HARMLESS or "vfio" in name


def _shared(case: Case, held: Sequence[PciDevice]) -> Finding:
    names = " and ".join(f"{one.bdf} (driver {one.driver})" for one in held)
    blamed = why_together(case.machine.sysfs, case.device, held[0])
    culprit, why = blamed if blamed is not None else (f"device {held[0].bdf}", None)
    text = f"it shares group {case.function.group} with {names}" + (f": {why}" if why is not None else "")
    remedy = "give the whole group to vfio-pci, or put the device into a slot that has a group of its own"
    commands = tuple(command for one in held for command in bind_commands(one.bdf, one.driver))
    return Finding("no", text, culprit, remedy, commands, f"ls -l {case.path}/iommu_group/devices/*/driver")


def reset(case: Case) -> Finding | None:
    """Can the device be reset between users?"""
    methods = case.function.resets
    if methods:
        return Finding("ok", f"it can be reset ({', '.join(methods)})")
    if case.device.text("reset") is not None or "reset" in case.machine.sysfs.names(case.path):
        return Finding("ok", "it can be reset")
    return Finding(
        "warning",
        "it cannot be reset: the next user finds what the last one left, and a hung device stays hung",
        f"device {case.bdf}",
        "start from a freshly booted machine if it does not work",
        check=f"ls {case.path}/reset",
    )
