"""Queues of page faults and of virtual events: what is read, in which pieces, and what becomes of the rest."""

from __future__ import annotations

import select
from ctypes import sizeof

import pytest

from ioas.errors import AlreadyExists, Busy, InvalidArgument, KernelError, NotFound, NotSupported
from ioas.host import File
from ioas.uapi import iommufd as uapi, iommufd_test as test_uapi
from tests.support.iommufd import MOCK, PAGE, Iommufd

FAULT = sizeof(uapi.iommu_hwpt_pgfault)
HEADER = sizeof(uapi.iommufd_vevent_header)
EVENT = HEADER + sizeof(test_uapi.iommu_viommu_event_selftest)
VIRTUAL_ID = 0x99


class Nested:
    """A mock device attached to a nested table whose faults go to a queue."""

    def __init__(self, iommufd: Iommufd | None = None) -> None:
        self.iommufd = iommufd = iommufd or Iommufd()
        self.ioas = iommufd.alloc()
        self.mock, _, self.device = iommufd.mock(self.ioas, test_uapi.MOCK_FLAGS_DEVICE_PASID)
        self.parent = iommufd.hwpt(self.device, self.ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT)
        made = iommufd.call(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommu_fault_alloc())
        self.queue = made.out_fault_id
        self.file: File = iommufd.caller.file(made.out_fault_fd)
        self.table = self.nested(self.parent)
        self.replace(self.table)

    def nested(self, parent: int, queue: int | None = None) -> int:
        data = test_uapi.iommu_hwpt_selftest(iotlb=7)
        place = self.iommufd.caller.memory.map(1)
        self.iommufd.caller.memory.write(place, bytes(data))
        return self.iommufd.hwpt(
            self.device,
            parent,
            uapi.IOMMU_HWPT_FAULT_ID_VALID | uapi.IOMMU_HWPT_ALLOC_PASID,
            data_type=test_uapi.IOMMU_HWPT_DATA_SELFTEST,
            data_len=sizeof(data),
            data_uptr=place,
            fault_id=self.queue if queue is None else queue,
        )

    def replace(self, table: int) -> None:
        self.iommufd.test(test_uapi.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, self.mock, mock_domain_replace={"pt_id": table})

    def fault(self, group: int, pasid: int = 0) -> None:
        fields = {"dev_id": self.device, "pasid": pasid, "grpid": group, "perm": 3, "addr": 0xDEADBEAF}
        self.iommufd.test(test_uapi.IOMMU_TEST_OP_TRIGGER_IOPF, trigger_iopf=fields)

    def read(self, length: int = FAULT) -> list[uapi.iommu_hwpt_pgfault]:
        data = self.file.read(self.iommufd.caller, length, None)
        return [uapi.iommu_hwpt_pgfault.from_buffer_copy(data, at) for at in range(0, len(data), FAULT)]

    def respond(self, cookie: int, code: int = uapi.IOMMUFD_PAGE_RESP_SUCCESS) -> int:
        answer = uapi.iommu_hwpt_page_response(cookie=cookie, code=code)
        return self.file.write(self.iommufd.caller, bytes(answer), None)


def test_a_fault_is_read_and_answered_once() -> None:
    nested = Nested()
    assert nested.read() == []
    nested.fault(5)
    [fault] = nested.read()
    assert (fault.dev_id, fault.grpid, fault.perm, fault.addr) == (nested.device, 5, 3, 0xDEADBEAF)
    assert fault.flags == uapi.IOMMU_PGFAULT_FLAGS_LAST_PAGE
    assert nested.read() == []
    assert nested.respond(fault.cookie) == sizeof(uapi.iommu_hwpt_page_response)
    with pytest.raises(InvalidArgument, match="cookie"):
        nested.respond(fault.cookie)


def test_reads_take_whole_faults() -> None:
    nested = Nested()
    for group in range(3):
        nested.fault(group)
    for length, errno in ((FAULT - 1, "ESPIPE"), (0, "EINVAL")):
        with pytest.raises(KernelError, match=errno):
            nested.read(length)
    assert [fault.grpid for fault in nested.read(2 * FAULT)] == [0, 1]
    assert [fault.grpid for fault in nested.read(2 * FAULT)] == [2]


def test_an_unknown_response_code_leaves_the_fault_unanswered() -> None:
    nested = Nested()
    nested.fault(1)
    [fault] = nested.read()
    with pytest.raises(InvalidArgument, match="code"):
        nested.respond(fault.cookie, 7)
    assert nested.respond(fault.cookie, uapi.IOMMUFD_PAGE_RESP_INVALID)


def test_what_is_left_behind_by_a_replace_is_answered() -> None:
    nested = Nested()
    nested.fault(1)
    nested.fault(2)
    [first] = nested.read()
    nested.replace(nested.ioas)
    assert nested.read() == [], "the second fault is gone"
    with pytest.raises(InvalidArgument, match="cookie"):
        nested.respond(first.cookie)


def test_faults_of_pasids_go_to_their_own_table_or_to_a_nested_one() -> None:
    nested = Nested()
    nested.fault(1, pasid=100)
    [fault] = nested.read()
    assert (fault.pasid, fault.flags & uapi.IOMMU_PGFAULT_FLAGS_PASID_VALID) == (100, 1)
    nested.replace(nested.ioas)
    nested.fault(2, pasid=100)
    assert nested.read() == []


def test_the_file_tells_by_poll_and_keeps_the_queue() -> None:
    nested = Nested()
    told = []
    nested.file.watch(lambda: told.append(1))  # type: ignore[attr-defined]
    assert nested.file.poll(nested.iommufd.caller) == select.POLLOUT
    nested.fault(1)
    assert nested.file.poll(nested.iommufd.caller) & select.POLLIN
    assert told == [1]
    with pytest.raises(Busy):
        nested.iommufd.destroy(nested.queue)
    nested.replace(nested.ioas)
    nested.iommufd.destroy(nested.table)
    nested.file.close()
    nested.iommufd.destroy(nested.queue)


def test_a_table_is_not_made_for_a_queue_that_is_not_there() -> None:
    nested = Nested()
    objects = len(nested.iommufd.context.objects)
    with pytest.raises(NotFound):
        nested.nested(nested.parent, queue=nested.ioas)
    assert len(nested.iommufd.context.objects) == objects


class Virtual(Nested):
    """The same device behind a vIOMMU, with a queue of its events."""

    def __init__(self, depth: int = 2, iommufd: Iommufd | None = None) -> None:
        super().__init__(iommufd)
        made = self.iommufd.call(
            uapi.IOMMU_VIOMMU_ALLOC,
            uapi.iommu_viommu_alloc(type=test_uapi.IOMMU_VIOMMU_TYPE_SELFTEST, dev_id=self.device, hwpt_id=self.parent),
        )
        self.viommu = made.out_viommu_id
        self.vdevice = self.add_device(VIRTUAL_ID)
        self.replace(self.nested(self.viommu))
        self.depth = depth
        queue = self.add_queue(depth)
        self.events: File = self.iommufd.caller.file(queue.out_veventq_fd)
        self.event_queue = queue.out_veventq_id

    def add_device(self, number: int) -> int:
        command = uapi.iommu_vdevice_alloc(viommu_id=self.viommu, dev_id=self.device, virt_id=number)
        return self.iommufd.call(uapi.IOMMU_VDEVICE_ALLOC, command).out_vdevice_id

    def add_queue(self, depth: int) -> uapi.iommu_veventq_alloc:
        command = uapi.iommu_veventq_alloc(
            viommu_id=self.viommu, type=test_uapi.IOMMU_VEVENTQ_TYPE_SELFTEST, veventq_depth=depth
        )
        return self.iommufd.call(uapi.IOMMU_VEVENTQ_ALLOC, command)

    def trigger(self, times: int = 1) -> None:
        for _ in range(times):
            self.iommufd.test(test_uapi.IOMMU_TEST_OP_TRIGGER_VEVENT, trigger_vevent={"dev_id": self.device})

    def read_events(self, length: int = 10 * EVENT) -> list[tuple[int, int]]:
        """(sequence, virtual id or -1 for lost ones)."""
        data = self.events.read(self.iommufd.caller, length, None)
        found = []
        while data:
            header = uapi.iommufd_vevent_header.from_buffer_copy(data)
            lost = header.flags & uapi.IOMMU_VEVENTQ_FLAG_LOST_EVENTS
            size = HEADER if lost else EVENT
            found.append((header.sequence, -1 if lost else int.from_bytes(data[HEADER:size], "little")))
            data = data[size:]
        return found


def test_events_carry_the_virtual_id_and_a_number() -> None:
    virtual = Virtual()
    virtual.trigger(2)
    assert virtual.read_events() == [(0, VIRTUAL_ID), (1, VIRTUAL_ID)]
    assert virtual.read_events() == []


def test_what_does_not_fit_is_lost_and_said() -> None:
    virtual = Virtual(depth=2)
    virtual.trigger(5)
    assert virtual.read_events() == [(0, VIRTUAL_ID), (1, VIRTUAL_ID), (4, -1)]
    virtual.trigger()
    assert virtual.read_events() == [(5, VIRTUAL_ID)]


def test_a_note_of_loss_goes_when_something_comes_after_it() -> None:
    virtual = Virtual(depth=1)
    virtual.trigger(3)
    assert virtual.read_events(EVENT) == [(0, VIRTUAL_ID)]
    virtual.trigger()
    assert virtual.read_events() == [(3, VIRTUAL_ID)], "the gap in the numbers tells"


@pytest.mark.parametrize("length", [0, HEADER - 1, HEADER, EVENT - 1])
def test_an_event_that_does_not_fit_stays(length: int) -> None:
    virtual = Virtual()
    virtual.trigger()
    with pytest.raises(InvalidArgument):
        virtual.read_events(length)
    assert virtual.read_events() == [(0, VIRTUAL_ID)]


def test_there_is_one_queue_for_a_type_and_one_vdevice_for_a_device() -> None:
    virtual = Virtual()
    with pytest.raises(AlreadyExists, match=f"vEVENTQ {virtual.event_queue}"):
        virtual.add_queue(2)
    with pytest.raises(AlreadyExists, match=f"vDEVICE {virtual.vdevice}"):
        virtual.add_device(VIRTUAL_ID + 1)


def test_objects_of_a_viommu_keep_it() -> None:
    virtual = Virtual()
    with pytest.raises(Busy, match="vDEVICE"):
        virtual.iommufd.destroy(virtual.viommu)
    with pytest.raises(Busy, match="vIOMMU"):
        virtual.iommufd.destroy(virtual.parent)


def test_a_vdevice_goes_with_its_device_and_its_id_is_never_used_again() -> None:
    virtual = Virtual()
    virtual.iommufd.destroy(virtual.mock)
    with pytest.raises(NotFound):
        virtual.iommufd.destroy(virtual.vdevice)
    assert virtual.vdevice not in [virtual.iommufd.alloc() for _ in range(virtual.vdevice + 2)]


def test_a_nested_table_of_a_viommu_is_for_devices_behind_it() -> None:
    virtual = Virtual()
    virtual.replace(virtual.ioas)
    table = virtual.nested(virtual.viommu)
    virtual.iommufd.destroy(virtual.vdevice)
    with pytest.raises(NotFound, match="vDEVICE"):
        virtual.replace(table)


def test_without_a_queue_an_event_goes_nowhere() -> None:
    virtual = Virtual()
    virtual.events.close()
    virtual.iommufd.destroy(virtual.event_queue)
    with pytest.raises(NotSupported):
        virtual.trigger()


def test_hardware_queues_stand_upon_each_other_and_lock_their_pages() -> None:
    virtual = Virtual()
    iommufd = virtual.iommufd
    iommufd.map(virtual.ioas, iommufd.caller.memory.map(4), 4 * PAGE, MOCK)

    def queue(index: int, iova: int = MOCK, length: int = PAGE) -> int:
        command = uapi.iommu_hw_queue_alloc(
            viommu_id=virtual.viommu,
            type=test_uapi.IOMMU_HW_QUEUE_TYPE_SELFTEST,
            index=index,
            nesting_parent_iova=iova,
            length=length,
        )
        return iommufd.call(uapi.IOMMU_HW_QUEUE_ALLOC, command).out_hw_queue_id

    for index, error in ((1, "EIO"), (2, "EINVAL")):
        with pytest.raises(KernelError, match=error):
            queue(index)
    with pytest.raises(KernelError, match="EFAULT"):
        queue(0, length=2 * PAGE)  # 4 KiB frames never stand one after the other
    first = queue(0)
    with pytest.raises(AlreadyExists):
        queue(0)
    second = queue(1, MOCK + PAGE)
    with pytest.raises(Busy, match="locked"):
        iommufd.unmap(virtual.ioas, MOCK, 4 * PAGE)
    with pytest.raises(Busy, match=f"hardware queue {second}"):
        iommufd.destroy(first)
    iommufd.destroy(second)
    iommufd.destroy(first)
    assert iommufd.unmap(virtual.ioas, MOCK, 4 * PAGE) == 4 * PAGE


def test_what_could_not_be_delivered_is_read_again_in_order() -> None:
    virtual = Virtual(depth=2)
    virtual.trigger(4)
    events = virtual.read_events()
    virtual.events.restore()  # type: ignore[attr-defined]
    assert virtual.read_events() == events == [(0, VIRTUAL_ID), (1, VIRTUAL_ID), (3, -1)]
    for group in range(3):
        virtual.fault(group)
    assert [fault.grpid for fault in virtual.read(2 * FAULT)] == [0, 1]
    virtual.file.restore()  # type: ignore[attr-defined]
    again = virtual.read(3 * FAULT)
    assert [fault.grpid for fault in again] == [0, 1, 2]
    assert sorted(fault.cookie for fault in again) == [1, 2, 3]
