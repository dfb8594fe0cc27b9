"""What the selftests let a mock device do by itself, and look at (selftest.c, 7.3): page faults, events, PASIDs."""

from __future__ import annotations

from errno import EINVAL, ENOENT
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.fault import report as report_faults
from ioas.soft.iommufd.hwpt import HardwareTable
from ioas.soft.iommufd.mock_device import MockDevice, MockObject, MockRequester
from ioas.soft.iommufd.mock_nested import MockNested
from ioas.soft.iommufd.nested import NestedTable
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.veventq import report as report_event
from ioas.uapi.iommufd import IOMMU_PGFAULT_FLAGS_LAST_PAGE, IOMMU_PGFAULT_FLAGS_PASID_VALID, iommu_hwpt_pgfault
from ioas.uapi.iommufd_test import (
    IOMMU_VEVENTQ_TYPE_SELFTEST,
    MOCK_NESTED_DOMAIN_IOTLB_ID_MAX,
    iommu_test_cmd,
    iommu_viommu_event_selftest,
)

if TYPE_CHECKING:
    from ioas.soft.iommufd.group import Pasid


def trigger_iopf(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_TRIGGER_IOPF: a mock device asks for a page. What nobody handles is forgotten."""
    asked = call.command.trigger_iopf
    device = call.context.objects.get(asked.dev_id, Device)
    if not isinstance(device, MockDevice):
        raise refuse(EINVAL, f"{device} is not a mock device", "device", device.name)
    flags = IOMMU_PGFAULT_FLAGS_LAST_PAGE | (IOMMU_PGFAULT_FLAGS_PASID_VALID if asked.pasid else 0)
    fault = iommu_hwpt_pgfault(flags=flags, pasid=asked.pasid, grpid=asked.grpid, perm=asked.perm, addr=asked.addr)
    report_faults(device, [fault], lambda code: None)


def trigger_vevent(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_TRIGGER_VEVENT: a mock device has an event for the virtual machine. Raises KernelError(ENOENT)."""
    device = call.context.objects.get(call.command.trigger_vevent.dev_id, Device)
    requester = device.requester
    viommu, number = (requester.viommu, requester.virtual_id) if isinstance(requester, MockRequester) else (None, 0)
    if viommu is None or not number:
        raise refuse(ENOENT, f"{device} is not attached behind a vIOMMU", "device", device.name)
    report_event(viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, bytes(iommu_viommu_event_selftest(virt_id=number)))


def md_check_iotlb(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_MD_CHECK_IOTLB: whether a value of nested table `id` is as said. EINVAL if not."""
    number, value = call.command.check_iotlb.id, call.command.check_iotlb.iotlb
    table = call.context.objects.get(call.command.id, NestedTable)
    if not isinstance(table.domain, MockNested) or number > MOCK_NESTED_DOMAIN_IOTLB_ID_MAX:
        raise refuse(EINVAL, f"{table} is not a mock's, or has no entry {number}", "object", table)
    if table.domain.values[number] != value:
        raise refuse(EINVAL, f"entry {number} of {table} is not {value:#x}", "object", table)


def pasid_attach(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_PASID_ATTACH: attach a PASID of mock device `id`. PASID 0 is the device itself."""
    device, asked = _device(call), call.command.pasid_attach
    asked.pt_id = device.attach(asked.pt_id, _pasid(asked.pasid))
    try:
        call.respond()
    except KernelError:
        device.detach(_pasid(asked.pasid))
        raise


def pasid_replace(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_PASID_REPLACE: attach a PASID elsewhere."""
    asked = call.command.pasid_replace
    asked.pt_id = _device(call).replace(asked.pt_id, _pasid(asked.pasid))
    call.respond()


def pasid_detach(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_PASID_DETACH."""
    _device(call).detach(_pasid(call.command.pasid_detach.pasid))


def pasid_check(call: Call[iommu_test_cmd]) -> None:
    """IOMMU_TEST_OP_PASID_CHECK_HWPT: whether a PASID is attached to a table (0: to none). EINVAL if not."""
    asked = call.command.pasid_check
    device = _device(call)
    attached = device.requester.domains.get(_pasid(asked.pasid))
    wanted = None
    if asked.hwpt_id:
        table = call.context.objects.get(asked.hwpt_id, Object)
        if not isinstance(table, HardwareTable):
            raise refuse(EINVAL, f"{table} is not a page table", "object", table)
        wanted = table.domain
    if attached is not wanted:
        raise refuse(EINVAL, f"PASID {asked.pasid} of {device} is not attached to that", "device", device.name)


def _device(call: Call[iommu_test_cmd]) -> MockDevice:
    """The device of mock object `id`. Raises KernelError(ENOENT)."""
    mock = call.context.objects.get(call.command.id, MockObject)
    if mock.device is None:
        raise refuse(ENOENT, f"{mock} has no device", "object", mock)
    return mock.device


def _pasid(number: int) -> Pasid:
    return number or None
