"""Random calls on page tables: dirty pages, nested tables, PASIDs, page requests, vIOMMUs and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential.arguments import BASE, MEMORY, PAGE, SCRATCH, U32_MAX, ULONG_MAX, Step, World

Make = Callable[[World], Step]
_NEST_PARENT, _DIRTY_TRACKING, _FAULT_ID_VALID, _PASID = 1, 2, 4, 8
_TABLE_DATA, _TABLE_ENTRY, _VIOMMU, _VEVENTQ, _QUEUE = 0xDEAD, 0xDEADBEEF, 0xDEADBEEF, 0xBEEFBEEF, 0xDEADBEEF
_FILE = ["iommufd", 0]


def beginning(world: World) -> list[Step]:
    """A device with everything, a parent for nested tables, a nested one, and data for such; perhaps all in use."""
    call = [0, "call", _FILE]
    parent = {"dev_id": ["device", 0], "pt_id": ["ioas", 0], "flags": _NEST_PARENT}
    nested = {
        "dev_id": ["device", 0],
        "pt_id": ["table", 1],
        "data_type": _TABLE_DATA,
        "data_len": 8,
        "data_uptr": SCRATCH,
    }
    viommu = {"dev_id": ["device", 0], "hwpt_id": ["parent", 0], "type": _VIOMMU}
    tracking = {"dev_id": ["device", 0], "pt_id": ["ioas", 0], "flags": _DIRTY_TRACKING}
    steps: list[Step] = [
        [0, "open", "iommufd"],
        [*call, "IOAS_ALLOC", {}],
        [*call, "MOCK", {"op": 12, "id": ["ioas", 0], "dev_flags": 4}],
        [0, "lists", [0xBADBEEF, 1]],
        [*call, "HWPT_ALLOC", parent],
        [*call, "HWPT_ALLOC", nested],
        [*call, "HWPT_ALLOC", tracking],
        [*call, "VIOMMU_ALLOC", viommu],
    ]
    return steps + world.choose((_behind_viommu, _asking, list))()


def _behind_viommu() -> list[Step]:
    """The device on a nested table of the vIOMMU, with a queue of its events."""
    call = [0, "call", _FILE]
    nested = {"dev_id": ["device", 0], "pt_id": ["viommu", 0], "data_type": _TABLE_DATA, "data_len": 8}
    vdevice = {"viommu_id": ["viommu", 0], "dev_id": ["device", 0], "virt_id": 1}
    return [
        [*call, "HWPT_ALLOC", {**nested, "data_uptr": SCRATCH}],
        [*call, "VDEVICE_ALLOC", vdevice],
        [*call, "VEVENTQ_ALLOC", {"viommu_id": ["viommu", 0], "type": _VEVENTQ, "veventq_depth": 2}],
        [*call, "REPLACE", {"op": 10, "id": ["mock", 0], "pt_id": ["nested", 1]}],
        [*call, "TRIGGER_VEVENT", {"op": 17, "dev_id": ["device", 0]}],
    ]


def _asking() -> list[Step]:
    """The device on a table with a fault queue, in which two requests wait."""
    call = [0, "call", _FILE]
    table = {"dev_id": ["device", 0], "pt_id": ["ioas", 0], "flags": _FAULT_ID_VALID, "fault_id": ["fault", 0]}
    request = {"op": 15, "dev_id": ["device", 0], "pasid": U32_MAX, "perm": 1, "addr": BASE}
    return [
        [*call, "FAULT_ALLOC", {}],
        [*call, "HWPT_ALLOC", table],
        [*call, "REPLACE", {"op": 10, "id": ["mock", 0], "pt_id": ["table", -1]}],
        [*call, "TRIGGER_IOPF", {**request, "grpid": 1}],
        [*call, "TRIGGER_IOPF", {**request, "grpid": 2, "pasid": 0}],
    ]


def _table(world: World) -> Step:
    flags = world.choose(
        (0, 0, _NEST_PARENT, _DIRTY_TRACKING, 3, _FAULT_ID_VALID, _PASID, _FAULT_ID_VALID | _PASID, 16)
    )
    fields = {"dev_id": world.id("device"), "pt_id": world.id("ioas", "ioas", "table"), "flags": flags}
    return world.call(_FILE, "HWPT_ALLOC", **fields, fault_id=world.id("fault") if flags & 4 else 0)


def _nested(world: World) -> Step:
    fields = {"dev_id": world.id("device"), "pt_id": world.id("parent", "parent", "viommu", "ioas", "table")}
    flags = world.choose((0, 0, 0, _FAULT_ID_VALID, _PASID, _NEST_PARENT))
    data = {"data_type": world.choose((_TABLE_DATA, _TABLE_DATA, _TABLE_DATA, 0, 1)), "data_uptr": SCRATCH}
    length = world.choose((8, 8, 8, 4, 0, 16))
    return world.call(_FILE, "HWPT_ALLOC", **fields, flags=flags, **data, data_len=length, fault_id=world.id("fault"))


def _set_dirty(world: World) -> Step:
    return world.call(
        _FILE, "SET_DIRTY", hwpt_id=world.id("tracking", "tracking", "table"), flags=world.choose((1, 1, 0, 2))
    )


def _range(world: World) -> dict[str, object]:
    if world.percent(70):
        mapping = world.mapping()
        return {"iova": mapping.iova(), "length": mapping.length()}
    return {"iova": BASE + PAGE * world.number(0, 7), "length": PAGE * world.number(1, 8)}


def _far(world: World) -> dict[str, object]:
    """Now and then a range at the end of IOVA, or of an odd length."""
    if world.percent(94):
        return _range(world)
    return {"iova": world.choose((ULONG_MAX, -PAGE & ULONG_MAX)), "length": world.choose((PAGE, 2 * PAGE, 0, 1 << 40))}


def _get_dirty(world: World) -> Step:
    place = {"page_size": world.choose((2048, 2048, PAGE, PAGE, 3, 0, 1 << 20)), "data": SCRATCH}
    flags = world.choose((0, 0, 1, 2))
    return world.call(
        _FILE, "GET_DIRTY", hwpt_id=world.id("tracking", "tracking", "table"), flags=flags, **_far(world), **place
    )


def _make_dirty(world: World) -> Step:
    place = {"page_size": world.choose((2048, PAGE, PAGE, 3)), "uptr": SCRATCH}
    return world.call(
        _FILE, "DIRTY", op=13, id=world.id("tracking", "tracking", "table"), flags=0, **_far(world), **place
    )


def _lists(world: World) -> Step:
    pool = (0, 1, 0xFF, U32_MAX, (1 << 64) - 1, 0xBADBEEF, 1 << 32, 1 << 32, 2 << 32, 3, 4, 4 << 32, 1 << 32 | 1)
    return [0, "lists", [world.choose(pool) for _ in range(4)]]


def _invalidate(world: World) -> Step:
    place = SCRATCH if world.percent(97) else 0
    data = {"data_uptr": place, "data_type": world.choose((_TABLE_ENTRY, _TABLE_ENTRY, _TABLE_ENTRY, 0, 0xDADBEEF))}
    lengths = (8, 8, 8, 12, 12, 12, 4, 0, 16, PAGE, PAGE + 1)
    sizes = {
        "entry_len": world.choose(lengths),
        "entry_num": world.choose((0, 1, 1, 1, 2, 3, 1 << 19, (1 << 19) + 1)),
    }
    return world.call(_FILE, "INVALIDATE", hwpt_id=world.id("nested", "nested", "viommu", "table"), **data, **sizes)


def _check_iotlb(world: World) -> Step:
    value = world.choose((0, 0xBADBEEF, 1))
    return world.call(
        _FILE,
        "CHECK_IOTLB",
        op=14,
        id=world.id("nested", "nested", "nested", "table"),
        iotlb_id=world.number(0, 4),
        iotlb=value,
    )


def _check_cache(world: World) -> Step:
    value = world.choose((0, 0xBADDAD))
    return world.call(_FILE, "CHECK_CACHE", op=16, id=world.id("device"), cache_id=world.number(0, 4), cache=value)


def _pasid(world: World) -> Step:
    op = world.choose((18, 18, 19, 20, 21))
    tables = world.id("ioas", "table", "nested", "compatible", "compatible", "compatible")
    fields = {"pasid": world.choose((1, 1, 2, 100, 0, 1024, 1024, 1 << 20)), "pt_id": tables}
    return world.call(_FILE, "PASID", op=op, id=world.id("mock"), **fields)


def _replace(world: World) -> Step:
    tables = world.id("ioas", "table", "nested", "compatible")
    return world.call(_FILE, "REPLACE", op=10, id=world.id("mock"), pt_id=tables)


def _mock(world: World) -> Step:
    flags = world.choose((4, 4, 4, 0, 1, 5))
    return world.call(_FILE, "MOCK", op=12, id=world.id("ioas", "table"), dev_flags=flags)


def _faults(world: World) -> Step:
    return world.call(_FILE, "FAULT_ALLOC", flags=1 if world.percent(5) else 0)


def _trigger_request(world: World) -> Step:
    fields = {
        "dev_id": world.id("device"),
        "pasid": world.choose((U32_MAX, U32_MAX, 1, 2)),
        "grpid": world.number(0, 3),
    }
    return world.call(_FILE, "TRIGGER_IOPF", op=15, **fields, perm=world.choose((1, 2)), addr=BASE)


def _events(world: World) -> Step:
    # Whole faults: a queue that is emptied by others than a reader looks as if it were not until the next read.
    return [0, "events", world.number(0, 2), world.choose((4000, 4000, 40, 80, 120))]


def _respond(world: World) -> Step:
    return [
        0,
        "respond",
        world.number(0, 2),
        world.number(0, 2),
        world.choose((0, 1, 2)),
        world.choose((8, 8, 8, 16, 4)),
    ]


def _viommu(world: World) -> Step:
    fields = {
        "type": world.choose((_VIOMMU, _VIOMMU, 0, 1)),
        "dev_id": world.id("device"),
        "hwpt_id": world.id("parent", "parent", "parent", "table"),
    }
    data = {"data_len": world.choose((0, 24, 24, 4)), "data_uptr": SCRATCH + PAGE}
    return world.call(_FILE, "VIOMMU_ALLOC", **fields, **data, flags=1 if world.percent(5) else 0)


def _vdevice(world: World) -> Step:
    fields = {
        "viommu_id": world.id("viommu"),
        "dev_id": world.id("device"),
        "virt_id": world.choose((0, 1, 2, 1 << 33)),
    }
    return world.call(_FILE, "VDEVICE_ALLOC", **fields)


def _veventq(world: World) -> Step:
    fields = {"type": world.choose((_VEVENTQ, _VEVENTQ, 0, 1)), "veventq_depth": world.choose((1, 2, 2, 0))}
    return world.call(_FILE, "VEVENTQ_ALLOC", viommu_id=world.id("viommu"), **fields)


def _queue(world: World) -> Step:
    fields = {"type": world.choose((_QUEUE, _QUEUE, _QUEUE, 0, 1)), "index": world.choose((0, 0, 0, 1, 1, 2))}
    mapping = world.mapping()
    place: dict[str, object] = {"nesting_parent_iova": mapping.iova(), "length": world.choose((PAGE, 8, 4 * PAGE))}
    if world.percent(20):
        place = _far(world)
        place["nesting_parent_iova"] = place.pop("iova")
    flags = 1 if world.percent(5) else 0
    return world.call(_FILE, "HW_QUEUE_ALLOC", viommu_id=world.id("viommu"), flags=flags, **fields, **place)


def _contiguous(world: World) -> Step:
    """Memory of one page in a nesting parent, fit for a queue."""
    fields = {"ioas_id": ["ioas", 0], "flags": 7, "user_va": MEMORY + PAGE * world.page(), "length": PAGE}
    return world.call(_FILE, "MAP", **fields, iova=BASE + PAGE * world.number(0, 7))


def _window(world: World) -> Step:
    """What a vIOMMU lets the program map."""
    offset = world.choose((PAGE, PAGE, PAGE, 3 * PAGE, 2 * PAGE, 0))
    length = world.choose((2 * PAGE, 2 * PAGE, 2 * PAGE, PAGE, 4 * PAGE))
    return [0, "window", "iommufd", offset, length, world.choose((1, 3, 3, 1, 5)), world.choose((1, 1, 1, 1, 2))]


def _hw_info(world: World) -> Step:
    fields = {"dev_id": world.id("device"), "data_uptr": SCRATCH, "data_len": world.choose((0, 8, 8, 64))}
    kinds = {"flags": world.choose((1, 1, 0)), "data_type": world.choose((0, 1, 0xFEEDBEEF, 0xFEEDBEF0))}
    return world.call(_FILE, "GET_HW_INFO", **fields, **kinds)


def _change_process(world: World) -> Step:
    return world.call(_FILE, "CHANGE_PROCESS")


def _physical(world: World) -> Step:
    mapping = world.mapping()
    place = {"ioas_id": mapping.space(), "iova": mapping.iova(), "length": mapping.length()}
    return world.call(_FILE, "GET_PA", **place, flags=1 if world.percent(5) else 0)


def _trigger_event(world: World) -> Step:
    return world.call(_FILE, "TRIGGER_VEVENT", op=17, dev_id=world.id("device"))


def _destroy(world: World) -> Step:
    kinds = ("table", "nested", "mock", "fault", "viommu", "vdevice", "veventq", "queue", "device", "ioas")
    return world.call(_FILE, "DESTROY", id=world.id(*kinds))


def _dma_buf(world: World) -> Step:
    length = world.choose((PAGE, 4 * PAGE, 16 * PAGE, 0, 5))
    return world.call(_FILE, "DMABUF_GET", op=22, length=length, open_flags=world.choose((2, 2, 0)))


def _map_dma_buf(world: World) -> Step:
    place = {"start": world.choose((0, 0, PAGE, 2048)), "length": world.length(4), "iova": world.iova()}
    fields = {"ioas_id": world.id("ioas"), "flags": world.flags(), "fd": ["dmabuf", world.number(0, 1)]}
    return world.call(_FILE, "MAP_FILE", **fields, **place)


def _revoke(world: World) -> Step:
    fd = ["dmabuf", world.number(0, 1)] if world.percent(90) else world.choose((["memfd", 0], 998))
    return world.call(_FILE, "DMABUF_REVOKE", op=23, dmabuf_fd=fd, revoked=world.choose((1, 1, 0)))


def _close(world: World) -> Step:
    return [0, "close", world.choose(("events", "dmabuf")), world.number(0, 2)]


def _rlimit(world: World) -> Step:
    """Of an iommufd that may have no objects yet."""
    fields = {"option_id": 0, "op": world.choose((0, 0, 1)), "val64": world.choose((0, 1, 2))}
    return world.call(["iommufd", 1], "OPTION", **fields)


def _odd_file(world: World) -> Step:
    """What the files that calls have made do not do."""
    kind = world.choose(("access", "events", "events", "dmabuf"))
    if world.percent(40):
        return [0, "request", [kind, 0], 0x3B80, 0]
    if world.percent(50):
        return [0, "read", [kind, 0], 8, 0]
    return [0, "window", kind, 0, PAGE, 1, 1]


def _odd_test(world: World) -> Step:
    """A test operation that there is not, or a reservation at the end of IOVA."""
    if world.percent(30):
        return world.call(_FILE, "TEST", op=world.choose((0, 24, 99)), id=world.id("ioas"))
    start = world.choose((ULONG_MAX, -PAGE & ULONG_MAX))
    return world.call(_FILE, "RESERVE", op=1, id=world.id("ioas"), start=start, length=2 * PAGE)


def weighted(world: World) -> list[tuple[int, Make]]:
    """Every step of this kind, and how often it comes."""
    return [
        (6, _table),
        (6, _nested),
        (5, _set_dirty),
        (6, _get_dirty),
        (5, _make_dirty),
        (4, _lists),
        (6, _invalidate),
        (4, _check_iotlb),
        (2, _check_cache),
        (8, _pasid),
        (6, _replace),
        (3, _mock),
        (4, _faults),
        (4, _trigger_request),
        (4, _events),
        (3, _respond),
        (6, _viommu),
        (5, _vdevice),
        (4, _veventq),
        (5, _queue),
        (3, _contiguous),
        (3, _window),
        (2, _hw_info),
        (1, _change_process),
        (2, _physical),
        (1, _rlimit),
        (2, _odd_file),
        (1, _odd_test),
        (3, _trigger_event),
        (5, _destroy),
        (3, _dma_buf),
        (5, _map_dma_buf),
        (2, _revoke),
        (2, _close),
    ]
