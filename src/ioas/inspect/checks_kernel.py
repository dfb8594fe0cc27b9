"""Checks of what the whole machine is: a confidential guest, one whose IOMMU can be passed by, a kernel in trouble."""

from __future__ import annotations

from ioas.inspect.case import Case, Finding

_CPUINFO = "/proc/cpuinfo"
_SNP = "/sys/devices/system/cpu/sev/vmpl"
_SECURE_EXECUTION = "/sys/firmware/uv/prot_virt_guest"
_TAINTED = "/proc/sys/kernel/tainted"

_TAINTS = {
    0: ("P", "a proprietary module"),
    1: ("F", "a module that was forced in"),
    2: ("S", "a processor out of its specification"),
    3: ("R", "a module that was forced out"),
    4: ("M", "a machine check"),
    5: ("B", "a bad page"),
    6: ("U", "user space, as by DMA without an IOMMU"),
    7: ("D", "a crash of a part of it"),
    8: ("A", "a replaced ACPI table"),
    9: ("W", "a warning"),
    10: ("C", "a staging driver"),
    11: ("I", "a fault of the firmware"),
    12: ("O", "a module from outside of the kernel"),
    13: ("E", "a module without signature"),
    14: ("L", "a processor that hung"),
    15: ("K", "a live patch"),
    16: ("X", "its distribution"),
    17: ("T", "random structure layouts"),
    18: ("N", "tests"),
    19: ("J", "firmware commands of user space"),
}
"""By bit: letter and cause (include/linux/panic.h, kernel/panic.c, Documentation/admin-guide/tainted-kernels.rst)."""
_TROUBLE = {4, 5, 7, 14}
"""Who starts from such a kernel does not know what fails later."""
_USER = 6


def confidential(case: Case) -> Finding | None:
    """Is this machine a guest whose memory devices cannot reach?

    DMA reaches what the guest shares with its host, which the kernel's own drivers bounce everything through (swiotlb);
    pages of programs are not among it.
    """
    kind, look = _kind(case)
    if kind is None:
        return None
    return Finding(
        "no",
        f"this machine is a confidential guest ({kind}): its memory is closed to devices, that of programs included",
        f"confidential guest ({kind})",
        "use a guest without memory encryption, or the kernel's own driver of the device",
        check=look,
    )


def _kind(case: Case) -> tuple[str | None, str]:
    """What kind of confidential guest this is, and what shows it."""
    machine = case.machine
    flags = next((line for line in (machine.text(_CPUINFO) or "").splitlines() if line.startswith("flags")), "")
    if "tdx_guest" in flags.split():
        return "Intel TDX", f"grep -m1 -o tdx_guest {_CPUINFO}"
    if machine.text(_SNP) is not None:
        return "AMD SEV-SNP", f"cat {_SNP}"
    if machine.text(_SECURE_EXECUTION) == "1":
        return "IBM Secure Execution", f"cat {_SECURE_EXECUTION}"
    return None, ""


def isolation(case: Case) -> Finding | None:
    """Does the IOMMU let DMA beyond its aperture pass untranslated? Software machines alone tell (`isolation`)."""
    unit = case.unit
    policy = None if unit is None else case.machine.bypass(unit.name)
    if unit is None or policy is None:
        return None
    text = f"{unit.name} lets DMA outside of its aperture pass untranslated"
    culprit, remedy = f"unit {unit.name}", 'set force_aperture = true in the machine file, or isolation = "kernel"'
    if policy == "strict":
        return Finding("no", f'{text}, which isolation = "strict" refuses', culprit, remedy)
    return Finding("warning", f'{text}, which isolation = "{policy}" accepts, as Linux does', culprit)


def taint(case: Case) -> Finding | None:
    """Is the kernel tainted? Nothing is said of one that is not."""
    text = case.machine.text(_TAINTED) or ""
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    bits = {bit for bit in _TAINTS if value >> bit & 1}
    if not bits:
        return None
    letters = ", ".join(f"{letter}: {cause}" for letter, cause in (_TAINTS[bit] for bit in sorted(bits)))
    sentence = f"the kernel is tainted ({letters})"
    serious = bits & (_TROUBLE if case.purpose == "noiommu" else _TROUBLE | {_USER})
    if not serious:
        return Finding("ok", sentence)
    named = "".join(_TAINTS[bit][0] for bit in sorted(serious))
    return Finding(
        "warning", sentence, f"kernel taint {named}", "boot again before blaming a device", (), f"cat {_TAINTED}"
    )
