"""First answers of fault queues, vIOMMUs, dirty tracking, invalidation and physical addresses; wrong arguments mostly."""

from __future__ import annotations

from questions.calls import MEMORY, PAGE, ULONG_MAX, Files, ask, memory, must
from questions.shapes import (
    DESTROY,
    DIRTY,
    FAULT_ALLOC,
    FIXED,
    GET_DIRTY,
    GET_PA,
    HW_QUEUE_ALLOC,
    HWPT_ALLOC,
    INVALIDATE,
    MAP,
    RW,
    SET_DIRTY,
    VDEVICE_ALLOC,
    VEVENTQ_ALLOC,
    VIOMMU_ALLOC,
)
from questions.space import MiB, alloc
from questions.tables import mock

_SELFTEST = 0xDEADBEEF


def fault_queues() -> None:
    """FAULT_QUEUE_ALLOC."""
    with Files() as files:
        fd = files.iommufd()
        ask("flags", fd, FAULT_ALLOC, flags=1)
        answer = ask("fine", fd, FAULT_ALLOC, hide=("out_fault_fd",))
        if answer.result >= 0:
            files.keep(answer["out_fault_fd"])
            ask("destroy with the file open", fd, DESTROY, id=answer["out_fault_id"])


def viommus() -> None:
    """VIOMMU_ALLOC, VDEVICE_ALLOC, VEVENTQ_ALLOC, HW_QUEUE_ALLOC."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        handle, table, device = mock(fd, ioas)
        plain = must(fd, HWPT_ALLOC, dev_id=device, pt_id=ioas)["out_hwpt_id"]

        def viommu(label: str, **values: int) -> None:
            ask(
                f"viommu: {label}",
                fd,
                VIOMMU_ALLOC,
                **{"type": _SELFTEST, "dev_id": device, "hwpt_id": plain, **values},
            )

        viommu("default type", type=0)
        viommu("flags", flags=1)
        viommu("flags and unknown device", flags=1, dev_id=99)
        viommu("default type and unknown device", type=0, dev_id=99)
        viommu("unknown device", dev_id=99)
        viommu("a handle", dev_id=handle)
        viommu("unknown type", type=1)
        viommu("unknown type and table", type=1, hwpt_id=99)
        viommu("unknown table", hwpt_id=99)
        viommu("an IOAS", hwpt_id=ioas)
        viommu("no parent")
        viommu("automatic table", hwpt_id=table)
        viommu("reserved is not looked at", __reserved=1, dev_id=99)
        for what, number in (("unknown", 99), ("an IOAS", ioas), ("a device", device), ("0", 0)):
            ask(f"vdevice: {what}", fd, VDEVICE_ALLOC, viommu_id=number, dev_id=device)
            ask(f"veventq: {what}", fd, VEVENTQ_ALLOC, viommu_id=number, type=0xBEEFBEEF, veventq_depth=1)
            ask(f"hw queue: {what}", fd, HW_QUEUE_ALLOC, viommu_id=number, type=_SELFTEST, length=PAGE)
        ask("vdevice: unknown device as well", fd, VDEVICE_ALLOC, viommu_id=99, dev_id=99)
        for what, values in (
            ("flags", {"flags": 1}),
            ("type 0", {"type": 0}),
            ("depth 0", {"veventq_depth": 0}),
            ("depth 2**19", {"veventq_depth": 1 << 19}),
            ("depth 2**19 + 1", {"veventq_depth": (1 << 19) + 1}),
            ("depth max", {"veventq_depth": 0xFFFFFFFF}),
            ("reserved", {"__reserved": 1}),
            ("flags and depth 0", {"flags": 1, "veventq_depth": 0}),
        ):
            ask(f"veventq: {what}", fd, VEVENTQ_ALLOC, **{"viommu_id": 99, "type": 1, "veventq_depth": 4, **values})
        for what, values in (
            ("flags", {"flags": 1}),
            ("type 0", {"type": 0}),
            ("length 0", {"length": 0}),
            ("wraps", {"nesting_parent_iova": ULONG_MAX, "length": 2}),
            ("flags and length 0", {"flags": 1, "length": 0}),
            ("type 0 and length 0", {"type": 0, "length": 0}),
        ):
            ask(f"hw queue: {what}", fd, HW_QUEUE_ALLOC, **{"viommu_id": 99, "type": 1, "length": 4, **values})


def invalidation() -> None:
    """HWPT_INVALIDATE."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        handle, table, _ = mock(fd, ioas)
        fine = {"hwpt_id": table, "data_uptr": MEMORY, "data_type": _SELFTEST, "entry_len": 8, "entry_num": 1}

        def tried(label: str, **values: int) -> None:
            ask(label, fd, INVALIDATE, **{**fine, **values})

        tried("a paging table")
        tried("a paging table, no entries", entry_num=0)
        tried("reserved", __reserved=1)
        tried("reserved and unknown", __reserved=1, hwpt_id=99)
        tried("NULL", data_uptr=0)
        tried("entry length 0", entry_len=0)
        tried("entry length of a page", entry_len=PAGE)
        tried("entry length of a page and a byte", entry_len=PAGE + 1)
        tried("2**19 entries", entry_num=1 << 19)
        tried("2**19 + 1 entries", entry_num=(1 << 19) + 1)
        tried("unknown", hwpt_id=99)
        tried("unknown and NULL", hwpt_id=99, data_uptr=0)
        tried("unknown, no entries, nothing", hwpt_id=99, data_uptr=0, entry_num=0, entry_len=0)
        tried("an IOAS", hwpt_id=ioas)
        tried("a handle", hwpt_id=handle)


def dirty() -> None:
    """HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP."""
    with Files() as files, memory(4 * PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        _, table, device = mock(fd, ioas)
        tracked = must(fd, HWPT_ALLOC, dev_id=device, pt_id=ioas, flags=2)["out_hwpt_id"]
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=2 * PAGE, iova=16 * MiB, flags=FIXED | RW)
        ask("set: unknown flag", fd, SET_DIRTY, flags=2, hwpt_id=tracked)
        ask("set: unknown flag and table", fd, SET_DIRTY, flags=2, hwpt_id=99)
        ask("set: unknown table", fd, SET_DIRTY, flags=1, hwpt_id=99)
        ask("set: an IOAS", fd, SET_DIRTY, flags=1, hwpt_id=ioas)
        ask("set: a device", fd, SET_DIRTY, flags=1, hwpt_id=device)
        ask("set: reserved", fd, SET_DIRTY, flags=2, hwpt_id=99, __reserved=1)
        ask("set: a table without", fd, SET_DIRTY, flags=1, hwpt_id=table)
        ask("clear: a table without", fd, SET_DIRTY, hwpt_id=table)
        fine = {"hwpt_id": tracked, "iova": 16 * MiB, "length": 2 * PAGE, "page_size": 2048, "data": MEMORY + 3 * PAGE}

        def tried(label: str, **values: int) -> None:
            ask(f"get: {label}", fd, GET_DIRTY, **{**fine, **values})

        tried("unknown flag", flags=2)
        tried("reserved", __reserved=1)
        tried("unknown table", hwpt_id=99)
        tried("an IOAS", hwpt_id=ioas)
        tried("a table without", hwpt_id=table)
        tried("a table without, length 0", hwpt_id=table, length=0)
        tried("length 0", length=0)
        tried("page size 0", page_size=0)
        tried("page size 3", page_size=3)
        tried("odd iova", iova=16 * MiB + 1)
        tried("wraps", iova=ULONG_MAX - PAGE + 1, length=2 * PAGE)
        ask(
            "mock dirty of a table without",
            fd,
            DIRTY,
            op=13,
            id=table,
            iova=16 * MiB,
            length=PAGE,
            page_size=2048,
            uptr=MEMORY,
        )


def physical() -> None:
    """IOAS_NOIOMMU_GET_PA where there is an IOMMU."""
    with Files() as files, memory(PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=16 * MiB, flags=FIXED | RW)
        fine = {"ioas_id": ioas, "iova": 16 * MiB, "length": PAGE}

        def tried(label: str, **values: int) -> None:
            ask(label, fd, GET_PA, **{**fine, **values})

        tried("flags", flags=1)
        tried("reserved", __reserved=1)
        tried("length 0", length=0)
        tried("length 0 and unknown", length=0, ioas_id=99)
        tried("iova max", iova=ULONG_MAX)
        tried("iova max and unknown", iova=ULONG_MAX, ioas_id=99)
        tried("unknown", ioas_id=99)
        tried("nothing there", iova=0)
        tried("no device")
        tried("a byte of it", iova=16 * MiB + 5, length=1)
        tried("more than there is", length=2 * PAGE)
        tried("length max", length=ULONG_MAX)
        mock(fd, ioas)
        tried("a device with an IOMMU")
        tried("nothing there with a device", iova=32 * MiB)


SECTIONS = (fault_queues, viommus, invalidation, dirty, physical)
