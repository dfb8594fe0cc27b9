"""Several calls at once that make what takes many: a device behind a vIOMMU, a nested first stage, a container."""

from __future__ import annotations

from contextlib import suppress
from ctypes import sizeof

from ioas.errors import KernelError
from ioas.soft.iommufd import Device, bind_device
from ioas.soft.iommufd.eventq import EventFile
from ioas.soft.iommufd.fault import FaultQueue
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.mock_device import MockDevice, MockObject
from ioas.soft.iommufd.nested import NestedTable
from ioas.soft.iommufd.viommu import Viommu
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi, vfio as vfio_uapi
from tests.fuzz.machine import Machine
from tests.fuzz.recipes import EVENTS, Recipe, any_device, any_table, fault_queue, id_of, make, operate, viommu, write
from tests.fuzz.values import APERTURE, PAGE, U64, Values


def behind(machine: Machine, values: Values) -> None:
    """All at once: a mock device on a nested table of a vIOMMU, with an event queue, whose event is lost or read."""
    fault_queue(machine, values)
    ioas = id_of(values, Ioas)
    device = any_device(values, lambda one: isinstance(one, MockDevice))
    if device is None:
        return
    fields = {"dev_id": device.id, "pt_id": ioas, "flags": 1}
    make(machine, values, uapi.IOMMU_HWPT_ALLOC, uapi.iommu_hwpt_alloc(), **fields)
    viommu(machine, values)
    number = id_of(values, Viommu)
    write(machine, bytes(test_uapi.iommu_hwpt_selftest(iotlb=1)))
    fields = {"dev_id": device.id, "pt_id": number, "data_type": 0xDEAD, "data_len": 8, "data_uptr": machine.scratch}
    fields |= {"flags": values.choose((0, 4)), "fault_id": id_of(values, FaultQueue)}
    make(machine, values, uapi.IOMMU_HWPT_ALLOC, uapi.iommu_hwpt_alloc(), **fields)
    fields = {"viommu_id": number, "dev_id": device.id, "virt_id": 1}
    make(machine, values, uapi.IOMMU_VDEVICE_ALLOC, uapi.iommu_vdevice_alloc(), **fields)
    fields = {"viommu_id": number, "type": EVENTS, "veventq_depth": values.choose((1, 2))}
    make(machine, values, uapi.IOMMU_VEVENTQ_ALLOC, uapi.iommu_veventq_alloc(), **fields)
    nested_table = any_table(values, NestedTable)
    op, owner = test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, id_of(values, MockObject)
    operate(machine, values, op, owner, "mock_domain_replace", pt_id=nested_table)


def page_faults(machine: Machine, values: Values) -> None:
    """All at once: a mock device asks for pages, and the program reads that, perhaps twice, and answers."""
    fault_queue(machine, values)
    mock = next((one for one in machine.context.objects if isinstance(one, MockObject) and one.device), None)
    if mock is None or mock.device is None:
        return
    device, made = mock.device, uapi.iommu_hwpt_alloc()
    fields = {"dev_id": device.id, "pt_id": id_of(values, Ioas), "flags": 4, "fault_id": id_of(values, FaultQueue)}
    make(machine, values, uapi.IOMMU_HWPT_ALLOC, made, **fields)
    op = test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE
    operate(machine, values, op, mock.id, "mock_domain_replace", pt_id=made.out_hwpt_id)
    for group in range(3):
        fields = {"dev_id": device.id, "pasid": 0, "grpid": group, "perm": 1, "addr": APERTURE}
        operate(machine, values, test_uapi.IOMMU_TEST_OP_TRIGGER_IOPF, 0, "trigger_iopf", **fields)
    for file in list(machine.caller.files.values()):
        if isinstance(file, EventFile) and file.queue.waiting:
            file.read(machine.caller, values.choose((40, 80, 400)), None)
            if values.percent(30):
                file.restore()
            elif values.percent(60):
                answers = (
                    uapi.iommu_hwpt_page_response(cookie=cookie) for cookie in values.choose(((1,), (1, 2), (2, 7)))
                )
                file.write(machine.caller, b"".join(map(bytes, answers)), None)


def without_iommu(machine: Machine, values: Values) -> None:
    """All at once: the device without an IOMMU, attached to a space with memory, and where that is."""
    requester = machine.requesters[-1]
    if not any(device.requester is requester for device in machine.devices):
        machine.devices.append(bind_device(machine.context, requester))
    device = next(device for device in machine.devices if device.requester is requester)
    if device.context is machine.context:
        made = uapi.iommu_ioas_alloc()
        make(machine, values, uapi.IOMMU_IOAS_ALLOC, made)
        with suppress(KernelError):
            device.attach(made.out_ioas_id)
        fields = {"ioas_id": made.out_ioas_id, "flags": 7, "user_va": machine.data, "length": 4 * PAGE}
        make(machine, values, uapi.IOMMU_IOAS_MAP, uapi.iommu_ioas_map(), **fields, iova=APERTURE)
        fields = {"ioas_id": made.out_ioas_id, "iova": APERTURE + values.choose((0, 5, PAGE)), "length": 2 * PAGE}
        make(machine, values, uapi.IOMMU_IOAS_NOIOMMU_GET_PA, uapi.iommu_ioas_noiommu_get_pa(), **fields)


def first_stage(machine: Machine, values: Values) -> None:
    """All at once: a first stage of the program's own under a device of the machine, which reads through it."""
    requester = machine.requesters[0]
    if requester.pager is None:
        machine.devices.append(Device.bind(machine.context, requester))
    device = next(device for device in machine.devices if device.requester is requester)
    if device.context is not machine.context:
        return
    make(machine, values, uapi.IOMMU_IOAS_ALLOC, uapi.iommu_ioas_alloc())
    ioas = max(entry.id for entry in machine.context.objects if isinstance(entry, Ioas))
    fields = {"ioas_id": ioas, "flags": 7, "user_va": machine.data, "length": 8 * PAGE, "iova": APERTURE}
    make(machine, values, uapi.IOMMU_IOAS_MAP, uapi.iommu_ioas_map(), **fields)
    fields = {"dev_id": device.id, "pt_id": ioas, "flags": 1}
    parent = uapi.iommu_hwpt_alloc()
    make(machine, values, uapi.IOMMU_HWPT_ALLOC, parent, **fields)
    queue = id_of(values, FaultQueue)
    write(machine, bytes(uapi.iommu_hwpt_vtd_s1(pgtbl_addr=APERTURE, addr_width=48)))
    fields = {"dev_id": device.id, "pt_id": parent.out_hwpt_id, "data_type": 1, "data_len": 24}
    fields |= {"data_uptr": machine.scratch, "flags": 4 if queue else 0, "fault_id": queue}
    table = uapi.iommu_hwpt_alloc()
    make(machine, values, uapi.IOMMU_HWPT_ALLOC, table, **fields)
    entry = uapi.iommu_hwpt_vtd_s1_invalidate(addr=0, npages=values.choose((U64, 1, 0)))
    write(machine, bytes(entry))
    fields = {"hwpt_id": table.out_hwpt_id, "data_uptr": machine.scratch, "data_type": 1, "entry_num": 1}
    make(machine, values, uapi.IOMMU_HWPT_INVALIDATE, uapi.iommu_hwpt_invalidate(), entry_len=sizeof(entry), **fields)
    change = values.choose((device.attach, device.replace))
    change(table.out_hwpt_id)


def type1(machine: Machine, values: Values) -> None:
    """A container of the first version, which cuts mappings; between them the host finds places by itself."""
    ioas = id_of(values, Ioas)
    if values.percent(40):
        made = uapi.iommu_ioas_alloc()
        make(machine, values, uapi.IOMMU_IOAS_ALLOC, made)
        ioas = made.out_ioas_id
    make(machine, values, uapi.IOMMU_VFIO_IOAS, uapi.iommu_vfio_ioas(), op=1, ioas_id=ioas)
    with suppress(KernelError):
        machine.ioctl(vfio_uapi.VFIO_SET_IOMMU, vfio_uapi.VFIO_TYPE1_IOMMU)
    for _ in range(values.choose((1, 2, 4))):
        with suppress(KernelError):
            _cut(machine, values)
        fields = {"ioas_id": ioas, "flags": 6, "user_va": machine.data, "length": PAGE * values.choose((1, 2))}
        make(machine, values, uapi.IOMMU_IOAS_MAP, uapi.iommu_ioas_map(), **fields)


def _cut(machine: Machine, values: Values) -> None:
    """Map four pages somewhere near, and unmap one or two of them."""
    iova = APERTURE * values.choose((0, 1, 1)) + PAGE * values.choose((1, 2, 3, 8, 2048))
    fields = {"argsz": 32, "flags": 3, "vaddr": machine.data, "iova": iova, "size": 4 * PAGE}
    machine.ioctl(vfio_uapi.VFIO_IOMMU_MAP_DMA, vfio_uapi.vfio_iommu_type1_dma_map(**fields))
    place = {"iova": iova + PAGE * values.random.randrange(3), "size": PAGE * values.choose((1, 2))}
    part = vfio_uapi.vfio_iommu_type1_dma_unmap(argsz=24, flags=0, **place)
    machine.ioctl(vfio_uapi.VFIO_IOMMU_UNMAP_DMA, part)


SCENARIOS: tuple[tuple[int, Recipe], ...] = (
    (4, behind),
    (3, page_faults),
    (2, first_stage),
    (2, without_iommu),
    (2, type1),
)
"""Scenarios, and how often each comes."""
