"""Making a machine tell what `--explain` and `--summary` show: DMA that was stopped, bytes that devices moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.run.report import Reporter
from ioas.soft.iommu.dma import DmaPort
from ioas.soft.pci import failure

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.run.machine import Machine
    from ioas.soft.iommu import FaultRecord, Requester
    from ioas.soft.pci import Function

_REASONS = {
    "blocked": "the device is attached to no address space",
    "pasid": "no address space is attached for this PASID",
    "aperture": "the IOVA lies outside of what the IOMMU translates",
    "not mapped": "nothing is mapped at this IOVA",
    "permission": "the mapping does not allow this access",
    "bus": "the memory behind the mapping is gone",
}
_UNSENT = {
    "bus master off": "bus mastering is off in the device's command register",
    "pasid off": "the device does not send this PASID: it has none, they are off, or they are narrower",
}


class CountedPort(DmaPort):
    """The DMA port of a requester, counting the bytes that pass."""

    def __init__(self, requester: Requester, reporter: Reporter) -> None:
        super().__init__(requester)
        self._reporter = reporter

    def read(self, iova: int, length: int, pasid: int | None = None) -> bytes | None:
        """Read as the port does."""
        data = super().read(iova, length, pasid)
        self._reporter.bytes_read += len(data or b"")
        return data

    def write(self, iova: int, data: Buffer, pasid: int | None = None) -> bool:
        """Write as the port does."""
        done = super().write(iova, data, pasid)
        self._reporter.bytes_written += memoryview(data).nbytes if done else 0
        return done


def listen(machine: Machine, reporter: Reporter) -> None:
    """Have `reporter` told of models that fail, of DMA that the IOMMU stops and, for a summary, of what passes."""

    def follow(function: Function) -> None:
        function.guard.listeners.remove(failure.log)
        function.guard.listeners.append(reporter.model_failed)
        if reporter.summary:
            function.requester.dma = CountedPort(function.requester, reporter)

    for function in machine.functions.values():
        follow(function)
    machine.arrivals.append(follow)
    machine.system.on_fault.append(lambda record: reporter.fault(*describe_fault(record)))
    taints = machine.system.taints
    taints.on_taint.append(reporter.tainted)
    for taint in taints.record:
        reporter.tainted(taint)


def describe_fault(record: FaultRecord) -> tuple[str, str]:
    """A fault in words: what was stopped, and why."""
    access = "write" if record.write else "read"
    pasid = "" if record.pasid is None else f", PASID {record.pasid}"
    size = f"{record.length} byte{'' if record.length == 1 else 's'}"
    stopped = f"{record.requester}: DMA {access} of {size} stopped "
    if record.reason in _UNSENT:
        return f"{stopped}at IOVA {record.iova:#x}{pasid}", _UNSENT[record.reason]
    if record.reason == "no memory":
        where = f"{record.requester}: DMA {access} of {size} at physical address {record.iova:#x} reached no memory"
        return where, "nothing stands there, or the page that did is gone"
    return f"{stopped}by the IOMMU at IOVA {record.iova:#x}{pasid}", _REASONS.get(record.reason, record.reason)
