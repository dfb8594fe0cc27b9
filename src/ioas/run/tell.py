"""Making a machine tell what `--explain` and `--summary` show: DMA that was stopped, bytes that devices moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.run.report import Reporter

if TYPE_CHECKING:
    from ioas.run.server import Machine
    from ioas.soft.iommu import FaultRecord

_REASONS = {
    "blocked": "the device is attached to no address space",
    "pasid": "no address space is attached for this PASID",
    "aperture": "the IOVA lies outside of what the IOMMU translates",
    "not mapped": "nothing is mapped at this IOVA",
    "permission": "the mapping does not allow this access",
    "bus": "the memory behind the mapping is gone",
}


def tell_faults(machine: Machine, reporter: Reporter) -> None:
    """Have `reporter` told of every DMA that the machine's IOMMU stops, if it keeps such records."""
    system = getattr(machine, "system", None)
    if system is not None:
        system.on_fault.append(lambda record: reporter.fault(describe_fault(record)))


def describe_fault(record: FaultRecord) -> str:
    """A fault in words."""
    access = "write" if record.write else "read"
    pasid = "" if record.pasid is None else f", PASID {record.pasid}"
    reason = _REASONS.get(record.reason, record.reason)
    size = f"{record.length} byte{'s' if record.length != 1 else ''}"
    return f"{record.requester}: DMA {access} of {size} stopped by the IOMMU at IOVA {record.iova:#x}{pasid}: {reason}"
