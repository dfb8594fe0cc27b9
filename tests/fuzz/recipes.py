"""Calls that are made to succeed: what stands in their way is rare, so that later calls find deep states.

Now and then one field is drawn anew, as in any other call.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import sizeof

from ioas.soft.iommufd.area import Area
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dmabuf import DmaBufFile
from ioas.soft.iommufd.fault import FaultQueue
from ioas.soft.iommufd.hwpt import HardwareTable, PagingTable
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.mock_device import MockDevice, MockObject
from ioas.soft.iommufd.nested import NestedTable
from ioas.soft.iommufd.viommu import Viommu
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from ioas.uapi.base import Struct, field_names
from tests.fuzz.machine import Machine
from tests.fuzz.values import APERTURE, PAGE, U64, Values
from tests.support.caller import FakeFile

_SELFTEST = 0xDEADBEEF
EVENTS = 0xBEEFBEEF
Recipe = Callable[[Machine, Values], object]


def make(machine: Machine, values: Values, request: int, struct: Struct, **fields: int) -> None:
    """Make a call with these fields, one of which may be another value after all."""
    target = struct
    if isinstance(struct, test_uapi.iommu_test_cmd) and (member := fields.pop("member", None)) is not None:
        target = getattr(struct, str(member))
    for name, value in fields.items():
        setattr(target, name, value)
    struct.__setattr__("size", sizeof(struct))
    if values.percent(8):
        names = [name for name in field_names(type(target)) if isinstance(getattr(target, name), int)]
        name = values.choose(names)
        setattr(target, name, values.of_field(name, target) & U64)
    machine.ioctl(request, struct)


def operate(machine: Machine, values: Values, op: int, number: int, member: str, **fields: int) -> None:
    struct = test_uapi.iommu_test_cmd(op=op, id=number & 0xFFFFFFFF)
    make(machine, values, test_uapi.IOMMU_TEST_CMD, struct, member=member, **fields)  # type: ignore[arg-type]


def any_table(values: Values, kind: type[HardwareTable], wanted: Callable[..., bool] = lambda table: True) -> int:
    known = [table.id for table in values.machine.context.objects if isinstance(table, kind) and wanted(table)]
    return values.choose(known) if known else 0


def any_device(values: Values, wanted: Callable[[Device], bool] = lambda device: True) -> Device | None:
    known = [one for one in values.machine.context.objects if isinstance(one, Device) and wanted(one)]
    return values.choose(known) if known else None


def id_of(values: Values, kind: type) -> int:
    known = [entry.id for entry in values.machine.context.objects if isinstance(entry, kind)]
    return values.choose(known) if known else 0


def any_area(values: Values) -> tuple[Ioas, Area] | None:
    known = [
        (ioas, area) for ioas in values.machine.context.objects if isinstance(ioas, Ioas) for area in ioas.iopt.areas
    ]
    return values.choose(known) if known else None


def map_memory(machine: Machine, values: Values) -> None:
    """Memory of the process: single pages, or large frames."""
    large = values.percent(30)
    fields = {
        "ioas_id": id_of(values, Ioas),
        "flags": values.choose((7, 7, 7, 6, 6, 5)),
        "user_va": (machine.large if large else machine.data) + PAGE * values.random.randrange(4),
        "length": PAGE * values.choose((1, 2, 3, 4, 4) if not large else (8, 512, 600)),
        "iova": APERTURE + PAGE * values.choose((0, 0, 1, 2, 4, 8, 512, 1024)),
    }
    make(machine, values, uapi.IOMMU_IOAS_MAP, uapi.iommu_ioas_map(), **fields)


def map_file(machine: Machine, values: Values) -> None:
    """A memfd, or a DMA-BUF."""
    files = machine.caller.files.items()
    fd = values.choose([fd for fd, file in files if isinstance(file, FakeFile | DmaBufFile)] or [999])
    place = {"start": PAGE * values.choose((0, 0, 1)), "length": PAGE * values.choose((1, 2, 4))}
    place["iova"] = APERTURE + PAGE * (64 + values.random.randrange(16))
    fields = {"ioas_id": id_of(values, Ioas), "flags": values.choose((7, 7, 6, 5)), "fd": fd}
    make(machine, values, uapi.IOMMU_IOAS_MAP_FILE, uapi.iommu_ioas_map_file(), **fields, **place)


def copy(machine: Machine, values: Values) -> None:
    """An area, or a part of it."""
    found = any_area(values)
    if found is not None:
        ioas, area = found
        length = min(area.length, PAGE) if values.percent(50) else area.length
        place = {"src_iova": area.start, "length": length, "dst_iova": APERTURE + PAGE * values.random.randrange(128)}
        fields = {"src_ioas_id": ioas.id, "dst_ioas_id": id_of(values, Ioas), "flags": values.choose((7, 6, 4, 2))}
        make(machine, values, uapi.IOMMU_IOAS_COPY, uapi.iommu_ioas_copy(), **fields, **place)


def unmap(machine: Machine, values: Values) -> None:
    """An area, or everything."""
    found = any_area(values)
    if found is not None:
        ioas, area = found
        whole = values.percent(20)
        place = {"iova": 0, "length": U64} if whole else {"iova": area.start, "length": area.length}
        make(machine, values, uapi.IOMMU_IOAS_UNMAP, uapi.iommu_ioas_unmap(), ioas_id=ioas.id, **place)


def table(machine: Machine, values: Values) -> None:
    """A page table by hand."""
    device = any_device(values)
    if device is not None:
        flags = values.choose((0, 1, 1, 2, 2, 3, 4, 8, 8, 9, 10))
        fields = {"dev_id": device.id, "pt_id": id_of(values, Ioas), "flags": flags}
        fields["fault_id"] = id_of(values, FaultQueue) if flags & 4 else 0
        if isinstance(device, MockDevice) and values.percent(10):
            write(machine, bytes(test_uapi.iommu_hwpt_selftest(pagetable_type=values.choose((0, 1, 1, 2)))))
            fields |= {"data_type": 0xDEAD, "data_len": 8, "data_uptr": machine.scratch}
        make(machine, values, uapi.IOMMU_HWPT_ALLOC, uapi.iommu_hwpt_alloc(), **fields)


def nested(machine: Machine, values: Values) -> None:
    """A nested table on a nesting parent or on a vIOMMU."""
    device = any_device(values)
    if device is None:
        return
    parent = any_table(values, PagingTable, lambda one: one.nest_parent and one.domain.unit.kind == device.unit.kind)
    if values.percent(50):
        parent = id_of(values, Viommu) or parent
    if isinstance(device, MockDevice):
        data: Struct = test_uapi.iommu_hwpt_selftest(iotlb=0xBADBEEF)
        fields = {"data_type": 0xDEAD, "data_len": 8}
    else:
        data = uapi.iommu_hwpt_vtd_s1(pgtbl_addr=APERTURE, addr_width=48)
        fields = {"data_type": 1, "data_len": sizeof(data)}
    write(machine, bytes(data))
    flags = values.choose((0, 0, 4, 8))
    fields |= {"dev_id": device.id, "pt_id": parent, "flags": flags, "data_uptr": machine.scratch}
    fields["fault_id"] = id_of(values, FaultQueue) if flags & 4 else 0
    make(machine, values, uapi.IOMMU_HWPT_ALLOC, uapi.iommu_hwpt_alloc(), **fields)


def write(machine: Machine, data: bytes) -> None:
    machine.caller.memory.write(machine.scratch, data)


def invalidate(machine: Machine, values: Values) -> None:
    """Entries of a nested table or a vIOMMU."""
    target = values.choose((NestedTable, NestedTable, Viommu))
    number = id_of(values, target)
    nested_table = machine.context.objects.get(number, target) if number else None
    if isinstance(nested_table, NestedTable) and nested_table.domain.unit.kind == "vtd":
        entry: Struct = uapi.iommu_hwpt_vtd_s1_invalidate(addr=0, npages=values.choose((1, U64, 0)))
        kind = 1
    elif target is NestedTable:
        entry = test_uapi.iommu_hwpt_invalidate_selftest(flags=values.choose((0, 1)), iotlb_id=values.choose((0, 3, 4)))
        kind = _SELFTEST
    else:
        fields = {"vdev_id": values.choose((0, 1, 2)), "cache_id": values.choose((0, 3, 4))}
        entry = test_uapi.iommu_viommu_invalidate_selftest(flags=values.choose((0, 1)), **fields)
        kind = _SELFTEST
    write(machine, bytes(entry) * 2)
    fields = {"hwpt_id": number, "data_uptr": machine.scratch, "data_type": kind}
    fields |= {"entry_len": sizeof(entry), "entry_num": values.choose((1, 2, 0))}
    make(machine, values, uapi.IOMMU_HWPT_INVALIDATE, uapi.iommu_hwpt_invalidate(), **fields)


def viommu(machine: Machine, values: Values) -> None:
    """A vIOMMU of a mock device, with or without its page of memory."""
    device = any_device(values, lambda one: isinstance(one, MockDevice))
    if device is not None:
        parent = any_table(values, PagingTable, lambda one: one.nest_parent)
        fields = {"type": _SELFTEST, "dev_id": device.id, "hwpt_id": parent}
        fields |= {"data_len": values.choose((0, 24)), "data_uptr": machine.scratch}
        make(machine, values, uapi.IOMMU_VIOMMU_ALLOC, uapi.iommu_viommu_alloc(), **fields)


def behind_viommu(machine: Machine, values: Values) -> None:
    """A vDEVICE, an event queue or a hardware queue of a vIOMMU."""
    number = id_of(values, Viommu)
    what = values.random.randrange(4)
    if what < 2:
        device = any_device(values, lambda one: isinstance(one, MockDevice))
        fields = {"viommu_id": number, "dev_id": device.id if device else 0, "virt_id": values.choose((1, 2, 1 << 33))}
        make(machine, values, uapi.IOMMU_VDEVICE_ALLOC, uapi.iommu_vdevice_alloc(), **fields)
    elif what == 2:
        fields = {"viommu_id": number, "type": EVENTS, "veventq_depth": values.choose((1, 2, 3))}
        make(machine, values, uapi.IOMMU_VEVENTQ_ALLOC, uapi.iommu_veventq_alloc(), **fields)
    else:
        found = any_area(values)
        iova = found[1].start if found else APERTURE
        fields = {"viommu_id": number, "type": _SELFTEST, "index": values.choose((0, 0, 1))}
        fields |= {"nesting_parent_iova": iova, "length": values.choose((PAGE, PAGE, 4 * PAGE))}
        make(machine, values, uapi.IOMMU_HW_QUEUE_ALLOC, uapi.iommu_hw_queue_alloc(), **fields)


def fault_queue(machine: Machine, values: Values) -> None:
    """A queue for page faults."""
    make(machine, values, uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommu_fault_alloc())


def replace(machine: Machine, values: Values) -> None:
    """A mock device, or a PASID of it, goes elsewhere."""
    number = id_of(values, MockObject)
    target = values.choose((any_table(values, HardwareTable), any_table(values, NestedTable), id_of(values, Ioas)))
    if values.percent(40):
        op = test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE
        operate(machine, values, op, number, "mock_domain_replace", pt_id=target)
        return
    target = any_table(values, HardwareTable, lambda one: one.pasid_compatible) or target
    attach, change = test_uapi.IOMMU_TEST_OP_PASID_ATTACH, test_uapi.IOMMU_TEST_OP_PASID_REPLACE
    op, member = values.choose(((attach, "pasid_attach"), (change, "pasid_replace")))
    operate(machine, values, op, number, member, pasid=values.choose((1, 1, 2, 1024)), pt_id=target)


def happen(machine: Machine, values: Values) -> None:
    """A page request or an event of a mock device."""
    device = any_device(values, lambda one: isinstance(one, MockDevice))
    if device is None:
        return
    if values.percent(50):
        op = test_uapi.IOMMU_TEST_OP_TRIGGER_VEVENT
        operate(machine, values, op, 0, "trigger_vevent", dev_id=device.id)
    else:
        fields = {"dev_id": device.id, "pasid": values.choose((0, 0, 1)), "grpid": 1, "perm": 1, "addr": APERTURE}
        operate(machine, values, test_uapi.IOMMU_TEST_OP_TRIGGER_IOPF, 0, "trigger_iopf", **fields)


def access(machine: Machine, values: Values) -> None:
    """An access; a pin of it, or a copy through it."""
    number, found = values.access(), any_area(values)
    what = values.random.randrange(5)
    if what == 0 or found is None:
        op = test_uapi.IOMMU_TEST_OP_CREATE_ACCESS
        operate(machine, values, op, id_of(values, Ioas), "create_access", flags=values.choose((1, 1, 0)))
        return
    area = found[1]
    part = {"iova": area.start, "length": values.choose((PAGE, area.length, 8))}
    if what < 3:
        fields = {"flags": values.choose((0, 1)), "uptr": 0, **part}
        operate(machine, values, test_uapi.IOMMU_TEST_OP_ACCESS_PAGES, number, "access_pages", **fields)
    else:
        fields = {"flags": values.choose((0, 1, 4, 5)), "uptr": machine.scratch, **part}
        operate(machine, values, test_uapi.IOMMU_TEST_OP_ACCESS_RW, number, "access_rw", **fields)


def track(machine: Machine, values: Values) -> None:
    """Dirty tracking: on, a write, or the bitmap."""
    number = any_table(values, PagingTable, lambda one: one.domain.dirty)
    found = any_area(values)
    what = values.random.randrange(3)
    if what == 0 or found is None:
        fields = {"hwpt_id": number, "flags": values.choose((1, 1, 0))}
        make(machine, values, uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommu_hwpt_set_dirty_tracking(), **fields)
        return
    place = {"iova": found[1].start, "length": found[1].length, "page_size": values.choose((2048, PAGE))}
    if values.percent(8):
        place |= {"iova": values.choose((0, 1 << 63, -PAGE & U64)), "length": PAGE * values.choose((1, 2, 8))}
    if what == 1:
        operate(machine, values, test_uapi.IOMMU_TEST_OP_DIRTY, number, "dirty", uptr=machine.scratch, **place)
    else:
        fields = {"hwpt_id": number, "flags": values.choose((0, 1)), "data": machine.scratch + PAGE, **place}
        make(machine, values, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, uapi.iommu_hwpt_get_dirty_bitmap(), **fields)


def dma_buf(machine: Machine, values: Values) -> None:
    """A DMA-BUF, or taking one back."""
    known = [fd for fd, file in machine.caller.files.items() if isinstance(file, DmaBufFile)]
    if known and values.percent(40):
        op, fields = test_uapi.IOMMU_TEST_OP_DMABUF_REVOKE, {"dmabuf_fd": values.choose(known), "revoked": 1}
        operate(machine, values, op, 0, "dmabuf_revoke", **fields)
    else:
        operate(machine, values, test_uapi.IOMMU_TEST_OP_DMABUF_GET, 0, "dmabuf_get", length=4 * PAGE, open_flags=2)


def mock(machine: Machine, values: Values) -> None:
    """A mock device."""
    target = values.choose((id_of(values, Ioas), id_of(values, Ioas), any_table(values, HardwareTable)))
    fields = {"dev_flags": values.choose((4, 4, 0, 1))}
    operate(machine, values, test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, target, "mock_domain_flags", **fields)


def space(machine: Machine, values: Values) -> None:
    """An address space, or one for the container."""
    if values.percent(60):
        make(machine, values, uapi.IOMMU_IOAS_ALLOC, uapi.iommu_ioas_alloc())
    else:
        fields = {"op": 1, "ioas_id": id_of(values, Ioas)}
        make(machine, values, uapi.IOMMU_VFIO_IOAS, uapi.iommu_vfio_ioas(), **fields)


def options(machine: Machine, values: Values) -> None:
    """An option of an address space or of the whole file, which wants it to be new."""
    if values.percent(50):
        machine.open()
        fields = {"option_id": 0, "op": values.choose((0, 0, 1)), "val64": values.choose((0, 1, 1, 2))}
    else:
        fields = {"option_id": 1, "op": values.choose((0, 0, 1)), "val64": values.choose((0, 0, 1))}
        fields["object_id"] = id_of(values, Ioas)
    make(machine, values, uapi.IOMMU_OPTION, uapi.iommu_option(), **fields)


def physical(machine: Machine, values: Values) -> None:
    """Where memory is, as a program without an IOMMU asks."""
    found = any_area(values)
    if found is not None:
        ioas, area = found
        fields = {"ioas_id": ioas.id, "iova": area.start, "length": values.choose((PAGE, area.length, 1))}
        make(machine, values, uapi.IOMMU_IOAS_NOIOMMU_GET_PA, uapi.iommu_ioas_noiommu_get_pa(), **fields)


def destroy(machine: Machine, values: Values) -> None:
    """Some object."""
    known = [entry.id for entry in machine.context.objects]
    if known:
        make(machine, values, uapi.IOMMU_DESTROY, uapi.iommu_destroy(), id=values.choose(known))


RECIPES: tuple[tuple[int, Recipe], ...] = (
    (5, map_memory),
    (3, map_file),
    (3, copy),
    (3, unmap),
    (5, table),
    (4, nested),
    (3, invalidate),
    (3, viommu),
    (4, behind_viommu),
    (2, fault_queue),
    (5, replace),
    (4, happen),
    (6, access),
    (4, track),
    (3, dma_buf),
    (3, mock),
    (2, space),
    (3, destroy),
    (1, physical),
    (2, options),
)
"""Recipes, and how often each comes."""
