"""Checks of the IOMMU: is there one, does it isolate interrupts, does it have the addresses that are wanted."""

from __future__ import annotations

from ioas.inspect.case import Case, Finding
from ioas.inspect.inventory import has_first_stage

_OFF = ("intel_iommu=off", "amd_iommu=off", "iommu=off", "iommu.off=1")
_NO_REMAPPING = ("intremap=off", "nointremap")
_TABLES = {"DMAR": "Intel VT-d", "IVRS": "AMD-Vi"}
_OPTIONS = {"DMAR": "INTEL_IOMMU", "IVRS": "AMD_IOMMU"}
_REMAPPING_UNITS = ("VT-d", "AMD-Vi")
"""IOMMUs that remap interrupts themselves, which /proc/interrupts shows as "IR-"; elsewhere others do."""
_ACPI = "/sys/firmware/acpi/tables"
_RELAXED = ("direct-relaxable",)
"""Regions that the kernel lets user space map over (iommufd and VFIO, 7.3: IOMMU_RESV_DIRECT_RELAXABLE)."""


def iommu(case: Case) -> Finding | None:
    """Is there an IOMMU in front of the device?"""
    if case.purpose == "noiommu":
        return None
    if case.group is not None:
        unit = case.unit
        behind = f"{unit.name} ({unit.kind})" if unit is not None else "an IOMMU"
        return Finding("ok", f"{behind} is in front of it, group {case.group.number}")
    if any(unit.devices for unit in case.machine.sysfs.units()):  # the mock of iommufd's selftests has none
        return Finding(
            "no",
            "the machine has an IOMMU, but none is in front of this device",
            f"device {case.bdf}",
            "use another slot, or a device that the firmware's tables do not leave out",
            check=f"ls -l {case.path}/iommu_group",
        )
    return _why_no_iommu(case)


def _why_no_iommu(case: Case) -> Finding:
    words = case.machine.command_line
    if off := [word for word in words if word in _OFF]:
        return Finding(
            "no",
            "the IOMMU is turned off on the kernel's command line",
            f"setting {off[0]}",
            f"remove {off[0]} from the kernel's command line and boot again",
            check="cat /proc/cmdline",
        )
    tables = case.machine.sysfs.names(_ACPI)
    described = [table for table in _TABLES if table in tables]
    if not described:
        return Finding(
            "no",
            "no IOMMU: the firmware describes none",
            "firmware setting of VT-d, AMD-Vi or IOMMU",
            "turn it on in the firmware's setup; in a virtual machine, give it an IOMMU (QEMU: -device intel-iommu)",
            check=f"ls {_ACPI} | grep -e DMAR -e IVRS",
        )
    return _unused(case, described[0])


def _unused(case: Case, table: str) -> Finding:
    """The firmware describes an IOMMU and the kernel does not use it."""
    option = _OPTIONS[table]
    there = f"the firmware describes {_TABLES[table]}"
    if case.machine.option(option) == "n":
        return Finding(
            "no",
            f"{there}, and this kernel is built without it",
            f"kernel option CONFIG_{option}",
            "use a kernel that has it",
            check=f"grep {option} /boot/config-$(uname -r)",
        )
    word = "intel_iommu=on" if table == "DMAR" else "amd_iommu=on"
    return Finding(
        "no",
        f"{there}, and the kernel does not use it",
        f"setting {word} is missing",
        f"add {word} to the kernel's command line and boot again",
        check="cat /proc/cmdline",
    )


def interrupts(case: Case) -> Finding | None:
    """Can the device send interrupts that are not its own? iommufd and VFIO refuse it then (EPERM)."""
    if case.group is None or case.unit is None:
        return None
    lines = (case.machine.text("/proc/interrupts") or "").splitlines()
    remapped = any(" IR-" in line for line in lines)
    # The kernel remaps for all IOMMUs of a kind or for none (intel_prepare_irq_remapping, 7.3).
    if remapped or (all(unit.interrupt_remapping for unit in case.alike) and not lines):
        return Finding("ok", "interrupts are remapped")
    if case.unit.kind not in _REMAPPING_UNITS or (case.unit.interrupt_remapping is None and not lines):
        return Finding("unknown", "nothing tells whether interrupts are remapped")
    return _unsafe_interrupts(case)


def _unsafe_interrupts(case: Case) -> Finding:
    off = [word for word in case.machine.command_line if word in _NO_REMAPPING]
    lacking = ", ".join(unit.name for unit in case.alike if not unit.interrupt_remapping)
    culprit = f"setting {off[0]}" if off else f"unit {lacking}" if lacking else "IOMMU"
    allowed = [
        module
        for module in ("iommufd", "vfio_iommu_type1")
        if case.machine.parameter(module, "allow_unsafe_interrupts") == "Y"
    ]
    text = "interrupts are not remapped: the device could send any interrupt to this machine"
    if allowed:
        return Finding("warning", f"{text}, which {' and '.join(allowed)} has been told to accept", culprit)
    remedy = (
        f"remove {off[0]} from the kernel's command line and boot again"
        if off
        else (
            "turn interrupt remapping on in the firmware; if whoever uses the device is trusted, allow it nevertheless"
        )
    )
    accept = "echo Y > /sys/module/iommufd/parameters/allow_unsafe_interrupts"
    return Finding("no", text, culprit, remedy, () if off else (accept,), "grep IR- /proc/interrupts")


def reserved(case: Case) -> Finding | None:
    """Is a region reserved where the program wants to map? Does firmware want one mapped at all times?"""
    if case.group is None:
        return None
    for region in case.group.reserved:
        if region.kind == "direct":
            return Finding(
                "no",
                f"firmware wants {region.start:#x} to {region.last:#x} mapped one to one for group {case.group.number}"
                " at all times, and user space's tables would not: the kernel gives it out to nobody",
                f"reserved region {region.start:#x} to {region.last:#x} of group {case.group.number}",
                "turn off in the firmware's setup what uses the device there (its own driver, management, USB or video"
                " before boot), or ask the vendor for firmware that does without",
                check=f"cat /sys/kernel/iommu_groups/{case.group.number}/reserved_regions",
            )
    if case.wanted.iova is None:
        return None
    start, last = case.wanted.iova
    for region in case.group.reserved:
        if region.kind not in _RELAXED and region.start <= last and start <= region.last:
            return Finding(
                "no",
                f"IOVA {start:#x} to {last:#x} cannot be mapped: a part is reserved ({region.kind})",
                f"reserved region {region.start:#x} to {region.last:#x} of group {case.group.number}",
                "map elsewhere; IOMMU_IOAS_IOVA_RANGES tells where",
                check=f"cat /sys/kernel/iommu_groups/{case.group.number}/reserved_regions",
            )
    return Finding("ok", f"nothing is reserved from IOVA {start:#x} to {last:#x}")


def aperture(case: Case) -> Finding | None:
    """Does the IOMMU translate as many bits as wanted?"""
    if case.unit is None or case.unit.bits is None:
        return None
    bits = case.unit.bits
    last = case.wanted.iova[1] if case.wanted.iova is not None else (case.wanted.memory or 1) - 1
    first_stage = any(has_first_stage(unit) for unit in case.machine.sysfs.units() if unit.name == case.unit.name)
    if last >> bits - first_stage == 0:
        return Finding("ok", f"IOVA has {bits} bits" + (", in first stages one less" if first_stage else ""))
    if last >> bits == 0:
        return Finding(
            "warning",
            f"IOVA {last:#x} is beyond the {bits - 1} bits of first stages, which Linux 7.3 makes by default in"
            " scalable mode; older kernels use all bits",
            f"unit {case.unit.name}",
            "use lower addresses, or intel_iommu=sm_off on the kernel's command line",
            check=f"cat /sys/class/iommu/{case.unit.name}/intel-iommu/ecap",
        )
    return Finding(
        "no",
        f"IOVA {last:#x} is beyond the {bits} bits that the IOMMU translates",
        f"unit {case.unit.name}",
        "use lower addresses; for QEMU: -cpu host,host-phys-bits=on,host-phys-bits-limit=" + str(bits),
        check=f"cat /sys/class/iommu/{case.unit.name}/intel-iommu/cap",
    )
