"""The port through which a device model reaches memory.

Each piece of a transfer (at most `CHUNK` bytes) enters the domain's epoch, translates all its pages, moves
its bytes and leaves; so whoever unmaps waits for one piece at most. No lock of the machine is held meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ioas.errors import KernelError, UsageError
from ioas.host import PAGE_SIZE
from ioas.soft.iommu.types import FaultReason, FaultRecord, Prot

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu.requester import Requester
    from ioas.soft.iommu.unit import AnyDomain

CHUNK = 1 << 16
"""A transfer is carried out in pieces of at most this many bytes."""

READ = int(Prot.READ)
WRITE = int(Prot.WRITE)
_T = TypeVar("_T")
_OF_ONE_PAGE: tuple[FaultReason, ...] = ("not mapped", "permission")
"""Faults that the next page may be free of."""
_Pieces = list[tuple[int, int]]


class _FaultError(Exception):
    """A DMA that cannot go on: where, and why."""

    def __init__(self, iova: int, reason: FaultReason) -> None:
        super().__init__(iova, reason)
        self.iova = iova
        self.reason: FaultReason = reason


class DmaPort:
    """DMA of one requester, through its unit. Safe to use from any thread."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester
        self._memory = requester.system.memory

    def read(self, iova: int, length: int, pasid: int | None = None) -> bytes | None:
        """Read `length` bytes at `iova`; None after a fault, which has then been recorded.

        Raises UsageError for a negative address or length.
        """
        _check(iova, length)
        try:
            if length <= CHUNK:
                return self._read(iova, length, pasid)
            return b"".join(
                self._read(iova + done, min(CHUNK, length - done), pasid) for done in range(0, length, CHUNK)
            )
        except _FaultError as stopped:
            self._record(stopped, length, False, pasid)
            return None

    def write(self, iova: int, data: Buffer, pasid: int | None = None) -> bool:
        """Write `data` at `iova`; False after a fault, which has then been recorded.

        Writes are posted, and none crosses the border of a page (PCI Express 2.2.7): those to other pages than the
        faulting one have been written, behind it too. The first fault is recorded. Raises UsageError for a negative
        address.
        """
        view = memoryview(data).cast("B")
        _check(iova, len(view))
        fault: _FaultError | None = None
        at = 0
        while True:
            try:
                self._write(iova + at, view[at : at + CHUNK], pasid)
                at += CHUNK
            except _FaultError as stopped:
                fault = fault or stopped
                if stopped.reason not in _OF_ONE_PAGE:
                    break
                at = stopped.iova + PAGE_SIZE - stopped.iova % PAGE_SIZE - iova
            if at >= len(view):
                break
        if fault is not None:
            self._record(fault, len(view), True, pasid)
        return fault is None

    def missing(self, iova: int, length: int, *, write: bool, pasid: int | None = None) -> int | None:
        """Where a transfer would stop because no page is there, or not with this permission; None when it would not.

        What a page request cannot mend (no domain, outside the aperture) is not missing.
        """
        try:
            domain, epoch = self._begin(iova, pasid)
        except _FaultError:
            return None
        try:
            _translate(domain, iova, length, WRITE if write else READ)
        except _FaultError as stopped:
            return stopped.iova if stopped.reason in ("not mapped", "permission") else None
        finally:
            if domain is not None:
                domain.epoch.leave(epoch)
        return None

    def _read(self, iova: int, length: int, pasid: int | None) -> bytes:
        domain, epoch = self._begin(iova, pasid)
        try:
            if domain is None:
                return self._read_untranslated(iova, length)
            return self._memory.gather(_translate(domain, iova, length, READ))
        except KernelError:
            raise _FaultError(iova, "bus") from None
        finally:
            if domain is not None:
                domain.epoch.leave(epoch)

    def _write(self, iova: int, data: memoryview, pasid: int | None) -> None:
        domain, epoch = self._begin(iova, pasid)
        try:
            self._scatter(domain, iova, data)
        except KernelError:
            raise _FaultError(iova, "bus") from None
        finally:
            if domain is not None:
                domain.epoch.leave(epoch)

    def _scatter(self, domain: AnyDomain | None, iova: int, data: memoryview) -> None:
        """Write what stands before the first page that faults."""
        if domain is None:
            self._write_untranslated(iova, data)
            return
        try:
            pieces = _translate(domain, iova, len(data), WRITE)
        except _FaultError as stopped:
            if stopped.iova > iova:
                self._scatter(domain, iova, data[: stopped.iova - iova])
            raise
        if domain.tracking:
            domain.iotlb.mark(iova, len(data))
        self._memory.scatter(pieces, data)

    def _read_untranslated(self, address: int, length: int) -> bytes:
        """DMA by physical address. Raises _FaultError at the first byte that no memory answers for."""
        read = self._requester.system.sightings.gather
        try:
            return read(address, length)
        except KernelError:
            return b"".join(self._answered(partial(read, at, size), at) for at, size in _pages(address, length))

    def _write_untranslated(self, address: int, data: memoryview) -> None:
        """The same, with what stands before that byte written."""
        write = self._requester.system.sightings.scatter
        try:
            write(address, data)
        except KernelError:
            for at, size in _pages(address, len(data)):
                self._answered(partial(write, at, data[at - address :][:size]), at)

    @staticmethod
    def _answered(access: Callable[[], _T], address: int) -> _T:
        try:
            return access()
        except KernelError:
            raise _FaultError(address, "no memory") from None

    def _begin(self, iova: int, pasid: int | None) -> tuple[AnyDomain | None, int]:
        """Enter the epoch of the domain that is attached; no domain stands for untranslated DMA."""
        requester = self._requester
        if requester.unit is None:
            if pasid is not None:
                raise _FaultError(iova, "pasid")
            return None, 0
        domains = requester.domains
        while True:
            domain = domains.get(pasid)
            if domain is None:
                raise _FaultError(iova, "blocked" if pasid is None else "pasid")
            epoch = domain.epoch.enter()
            # Another domain may have been attached before we entered, and its attach may have drained already.
            if domains.get(pasid) is domain:
                return domain, epoch
            domain.epoch.leave(epoch)

    def _record(self, stopped: _FaultError, length: int, write: bool, pasid: int | None) -> None:
        requester = self._requester
        requester.system.fault(
            FaultRecord(requester.name, stopped.iova, length, write, pasid, stopped.reason, time.monotonic())
        )


def _translate(domain: AnyDomain | None, iova: int, length: int, need: int) -> _Pieces:
    """The physical pieces under `length` bytes at `iova`, neighbours joined. Raises _FaultError."""
    if domain is None:
        return [(iova, length)]
    start, last, force = domain.geometry
    if not start <= iova <= iova + length - 1 <= last:
        if not length:
            return []
        return _outside(domain, iova, length, need, force)
    iotlb = domain.iotlb
    entries = iotlb.entries
    page_lg2 = iotlb.page_lg2
    page = 1 << page_lg2
    mask = page - 1
    pieces: _Pieces = []
    joined = -1
    while length > 0:
        entry = entries.get(iova >> page_lg2) or iotlb.miss(iova)
        if not entry & need:
            raise _FaultError(iova, "permission" if entry else "not mapped")
        offset = iova & mask
        count = page - offset
        if count > length:
            count = length
        address = (entry & ~mask) + offset
        if address == joined:
            address, before = pieces.pop()
            pieces.append((address, before + count))
            joined += count
        else:
            pieces.append((address, count))
            joined = address + count
        iova += count
        length -= count
    return pieces


def _outside(domain: AnyDomain, iova: int, length: int, need: int, force: bool) -> _Pieces:
    """DMA that is not wholly in the aperture: it faults, or the part outside bypasses translation."""
    start, last, _ = domain.geometry
    if force or iova + length > 1 << 64:
        raise _FaultError(iova if not start <= iova <= last else last + 1, "aperture")
    if iova < start:
        bypass = min(length, start - iova)
        return [(iova, bypass), *_translate(domain, iova + bypass, length - bypass, need)]
    if iova > last:
        return [(iova, length)]
    inside = last + 1 - iova
    return [*_translate(domain, iova, inside, need), (last + 1, length - inside)]


def _pages(address: int, length: int) -> Iterator[tuple[int, int]]:
    """The pieces of a range, each within a page."""
    end = address + length
    while address < end:
        size = min(PAGE_SIZE - address % PAGE_SIZE, end - address)
        yield address, size
        address += size


def _check(iova: int, length: int) -> None:
    if iova < 0 or length < 0:
        raise UsageError(f"DMA of {length} bytes at {iova:#x}: neither may be negative")
