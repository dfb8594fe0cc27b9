"""Every allocation on the way of a command may fail, and then nothing of the command is left.

The sweep is that of the kernel's iommufd_fail_nth: the Nth allocation fails, for each N until none is left to fail.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ioas.errors import OutOfMemory
from ioas.soft.iommu import Requester, System, vtd_unit
from ioas.soft.iommufd import Device
from ioas.soft.memory import Failures
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi, vfio as vfio_uapi
from tests.support.caller import FakeCaller
from tests.support.iommufd import MOCK, PAGE, Iommufd
from tests.unit.test_iommufd_dirty import Tracked
from tests.unit.test_iommufd_dmabuf import get as get_dmabuf
from tests.unit.test_iommufd_events import Virtual

MOST = 400
Scenario = Callable[[Iommufd], object]


def map_and_copy(iommufd: Iommufd) -> None:
    ioas, other = iommufd.alloc(), iommufd.alloc()
    iommufd.allow(ioas, [(0, 1 << 40)])
    iommufd.map(ioas, iommufd.caller.memory.map(8), 8 * PAGE, 1 << 30)
    iommufd.mock(other)
    iommufd.copy(ioas, 1 << 30, 4 * PAGE, other, MOCK)
    iommufd.unmap(ioas)


def two_domains(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.map(ioas, iommufd.caller.memory.map(1024), 1024 * PAGE, MOCK)
    first, _, _ = iommufd.mock(ioas)
    _, _, device = iommufd.mock(ioas, test_uapi.MOCK_FLAGS_DEVICE_PASID)
    table = iommufd.hwpt(device, ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING | uapi.IOMMU_HWPT_ALLOC_PASID)
    iommufd.test(test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, first, mock_domain_replace={"pt_id": table})
    iommufd.map(ioas, iommufd.caller.memory.map(2), 2 * PAGE, MOCK + (1 << 28))
    iommufd.destroy(first)


def accesses(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.map(ioas, iommufd.caller.memory.map(4), 4 * PAGE, MOCK)
    access = iommufd.access(ioas)
    iommufd.pin(access, MOCK, 2 * PAGE)
    iommufd.mock(ioas)


def real_device(iommufd: Iommufd) -> None:
    unit = vtd_unit(iommufd.system, f"dmar{len(iommufd.system.units)}", scalable=True)
    requester = Requester(iommufd.system, "0000:01:00.0", unit, iommufd.system.add_group())
    try:
        device = Device.bind(iommufd.context, requester)
        try:
            ioas = iommufd.alloc()
            device.attach(ioas)
            iommufd.map(ioas, iommufd.caller.memory.map(600), 600 * PAGE, 1 << 32)
            iommufd.map_file(ioas, get_dmabuf(Iommufd(iommufd.system, iommufd.caller)), 0, PAGE, 1 << 40)
            device.replace(iommufd.alloc())
        finally:
            device.unbind()
    finally:
        requester.remove()


def cut_mapping(iommufd: Iommufd) -> None:
    ioas = iommufd.alloc()
    iommufd.call(uapi.IOMMU_VFIO_IOAS, uapi.iommu_vfio_ioas(op=uapi.IOMMU_VFIO_IOAS_SET, ioas_id=ioas))
    iommufd.context.ioctl(iommufd.caller, vfio_uapi.VFIO_SET_IOMMU, vfio_uapi.VFIO_TYPE1_IOMMU)
    iommufd.mock(ioas)
    iommufd.map(ioas, iommufd.caller.memory.map(8), 8 * PAGE, MOCK)
    part = vfio_uapi.vfio_iommu_type1_dma_unmap(argsz=24, iova=MOCK + 2 * PAGE, size=3 * PAGE)
    iommufd.context.ioctl(iommufd.caller, vfio_uapi.VFIO_IOMMU_UNMAP_DMA, bytearray(part))


def virtual(iommufd: Iommufd) -> None:
    Virtual(iommufd=iommufd)


@pytest.mark.parametrize("scenario", [map_and_copy, two_domains, accesses, real_device, cut_mapping, virtual])
def test_whatever_fails_nothing_is_left(scenario: Scenario) -> None:
    failed = 0
    for nth in range(1, MOST):
        system, caller = System(), FakeCaller()
        system.failures.act_for(caller.pid)
        iommufd = Iommufd(system, caller)
        system.failures.arm(caller.pid, nth)
        try:
            scenario(iommufd)
        except OutOfMemory:
            failed += 1
        done = system.failures.left(caller.pid) > 0
        system.failures.arm(caller.pid, 0)
        close(iommufd)
        assert leftovers(iommufd) == {}, nth
        if done:
            break
    else:
        pytest.fail(f"something fails even after {MOST} allocations")
    assert failed == nth - 1 > 8


def close(iommufd: Iommufd) -> None:
    iommufd.caller.close_all()
    iommufd.context.close()


def leftovers(iommufd: Iommufd) -> dict[str, int]:
    system, memory = iommufd.system, iommufd.caller.memory
    counts = {
        "objects": len(list(iommufd.context.objects)),
        "frames": system.memory.held_frames,
        "tables": system.memory.table_frames,
        "pinned": memory.pinned_pages,
        "locked": memory.locked_pages + system.accounting.locked(iommufd.caller.uid),
        "groups": len(system.groups),
    }
    return {kind: count for kind, count in counts.items() if count}


def test_a_command_that_failed_can_be_repeated() -> None:
    """State is as before: each allocation of one command fails in turn on the same objects, and then it succeeds."""
    tracked = Tracked()
    failures = tracked.iommufd.system.failures
    pid = tracked.iommufd.caller.pid
    address = tracked.iommufd.caller.memory.map(2)
    for nth in range(1, MOST):
        failures.arm(pid, nth)
        try:
            tracked.iommufd.map(tracked.ioas, address, 2 * PAGE, MOCK + (1 << 29))
            break
        except OutOfMemory:
            continue
    failures.arm(pid, 0)
    assert nth > 4
    assert tracked.iommufd.unmap(tracked.ioas, MOCK + (1 << 29), 2 * PAGE) == 2 * PAGE


def test_only_the_armed_process_fails_and_only_once() -> None:
    failures = Failures()
    failures.arm(1, 2)
    failures.act_for(2)
    for _ in range(3):
        failures.point("x")
    failures.act_for(1)
    failures.point("first")
    assert failures.left(1) == 1
    with pytest.raises(OutOfMemory, match="second"):
        failures.point("second")
    assert failures.left(1) == 0
    failures.point("third")
