"""The doctor: may this device be used so? The table of checks, the verdict, and how to go on.

The result as JSON is the schema "ioas.doctor", version 1, which docs/doctor.md describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from ioas.inspect import checks_access, checks_device, checks_iommu, checks_kernel
from ioas.inspect.case import Case, Check, Finding

SCHEMA, VERSION = "ioas.doctor", 1

CHECKS: dict[str, Check] = {
    "confidential": checks_kernel.confidential,
    "IOMMU": checks_iommu.iommu,
    "isolation": checks_kernel.isolation,
    "no-IOMMU mode": checks_access.noiommu,
    "interrupts": checks_iommu.interrupts,
    "vfio-pci": checks_device.vfio_pci,
    "group": checks_device.group,
    "driver": checks_device.driver,
    "VF token": checks_device.vf_token,
    "reset": checks_device.reset,
    "reserved IOVA": checks_iommu.reserved,
    "aperture": checks_iommu.aperture,
    "pinned memory": checks_access.memlock,
    "huge pages": checks_access.hugepages,
    "device nodes": checks_access.nodes,
    "other users": checks_access.holders,
    "taint": checks_kernel.taint,
}
"""What is looked at, in the order in which it is shown: what has to be repaired first comes first."""

Answer = Literal["yes", "no"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The answer, what every check found (by its name), and how to go on when the answer is yes."""

    bdf: str
    purpose: str
    answer: Answer
    findings: tuple[tuple[str, Finding], ...]
    how: tuple[str, ...]

    def of(self, verdict: str) -> Sequence[tuple[str, Finding]]:
        """The findings of one verdict."""
        return [(name, finding) for name, finding in self.findings if finding.verdict == verdict]

    def as_json(self) -> dict[str, object]:
        """The same of JSON's types, with the schema's name and version."""
        findings = [{"name": name, **asdict(finding)} for name, finding in self.findings]
        return {"schema": SCHEMA, "version": VERSION, **asdict(self), "findings": findings}


def diagnose(case: Case) -> Diagnosis:
    """Carry out every check that concerns the case. Raises nothing: what cannot be read is taken for missing."""
    looked = ((name, check(case)) for name, check in CHECKS.items())
    findings = tuple((name, finding) for name, finding in looked if finding is not None)
    answer: Answer = "no" if any(finding.verdict == "no" for _, finding in findings) else "yes"
    return Diagnosis(case.bdf, case.purpose, answer, findings, _how(case) if answer == "yes" else ())


def _how(case: Case) -> tuple[str, ...]:
    """What to run, by the way that is open to the user."""
    way = checks_access.usable_way(case)
    if case.purpose == "vm":
        token = ",vf-token=UUID" if checks_device.physical_in_vfio(case) is not None else ""
        if way == "cdev":
            return (f"qemu-system-x86_64 ... -object iommufd,id=i0 -device vfio-pci,host={case.bdf},iommufd=i0{token}",)
        return (f"qemu-system-x86_64 ... -device vfio-pci,host={case.bdf}{token}",)
    by = ', via="group"' if way == "group" else ""
    return (f'ioas.KernelHost().device("{case.bdf}"{by}).space()', "nodes: " + " and ".join(_nodes(case, way)))


def _nodes(case: Case, way: str | None) -> Sequence[str]:
    ways = checks_access.node_paths(case)
    return ways.get(way or "", next(iter(ways.values()), ()))
