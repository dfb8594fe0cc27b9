"""Expecting DMA that the IOMMU stops.

A fault that no test expected is an error at the end of a test that uses `ioas_host`: a driver that lets its device
touch memory that is not mapped (any more) is wrong, even if nobody noticed the lost bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.api.host import BaseHost
    from ioas.soft.iommu import FaultRecord, System
    from ioas.soft.iommu.types import FaultReason


@contextmanager
def expect_faults(
    host: BaseHost,
    *,
    iova: int | None = None,
    write: bool | None = None,
    reason: FaultReason | None = None,
    requester: str | None = None,
    within: float = 10.0,
) -> Iterator[list[FaultRecord]]:
    """Expect at least one fault, with the given fields, in the block or `within` seconds of its end.

    The list is filled at the end with the faults that match, which are taken off the host's record. Raises
    AssertionError when there is none. The running kernel writes faults to its log alone: there the block is run, the
    list stays empty, and nothing is checked.
    """
    from ioas.api import SoftHost

    found: list[FaultRecord] = []
    if not isinstance(host, SoftHost):
        yield found
        return
    wanted = {"requester": requester, "iova": iova, "write": write, "reason": reason}
    asked: dict[str, object] = {name: value for name, value in wanted.items() if value is not None}
    system = host.machine.system
    with _listening(system) as (faults, ring):
        yield found
        wait(lambda: any(_has(fault, asked) for fault in list(faults)), ring, within)
    found += [fault for fault in faults if _has(fault, asked)]
    if not found:
        fields = ", ".join(f"{name} {_shown(value)}" for name, value in asked.items())
        others = "; ".join(map(describe, faults)) or "there was none at all"
        raise AssertionError(f"no DMA fault{f' with {fields}' if fields else ''}: {others}")
    for fault in found:
        system.faults.remove(fault)


def _has(fault: FaultRecord, asked: dict[str, object]) -> bool:
    return all(getattr(fault, name) == value for name, value in asked.items())


def _shown(value: object) -> str:
    return f"{value:#x}" if type(value) is int else repr(value)


@contextmanager
def _listening(system: System) -> Iterator[tuple[list[FaultRecord], threading.Event]]:
    """The faults from now on, and an event that each of them sets."""
    faults: list[FaultRecord] = []
    ring = threading.Event()

    def told(fault: FaultRecord) -> None:
        faults.append(fault)
        ring.set()

    system.on_fault.append(told)
    try:
        yield faults, ring
    finally:
        system.on_fault.remove(told)


def wait(done: Callable[[], bool], ring: threading.Event, seconds: float) -> None:
    """Wait until `done` holds, looking whenever `ring` is set, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not done() and (left := deadline - time.monotonic()) > 0:
        ring.wait(left)
        ring.clear()


def describe(fault: FaultRecord) -> str:
    """A fault as a sentence."""
    access = f"{'write' if fault.write else 'read'} {fault.length} bytes"
    return f"the DMA of {fault.requester} to {access} was stopped at {fault.iova:#x}: {fault.reason}"


def stray_faults(host: BaseHost) -> list[str]:
    """The faults that nobody expected, as sentences; none for the running kernel, which does not tell."""
    from ioas.api import SoftHost

    return [describe(fault) for fault in host.faults()] if isinstance(host, SoftHost) else []
