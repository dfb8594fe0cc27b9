"""Requests with a structure: references filled in, the call made, what it changed told, what it made remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from executor import device, memory
from executor.objects import NO_FILE, Context, Mapped, OpenFile
from executor.system import ARGUMENT, PAGES, PRIVATE_AT, SCRATCH, SCRATCH_PAGES
from questions import shapes
from questions.calls import MEMORY, NOWHERE, PAGE, Shape, outcome
from questions.shapes import BIND, COPY, CREATE_ACCESS, DESTROY, MAP, MAP_FILE, OPS, UNMAP

if TYPE_CHECKING:
    from executor.world import World

SHAPES = {name: shape for name, shape in vars(shapes).items() if isinstance(shape, Shape)}
_FILES = ("iommufd", "vfio", "memfd", "eventfd", "access", "dmabuf", "group", "other", "container")
_MADE = {
    shapes.IOAS_ALLOC: {"out_ioas_id": "ioas"},
    shapes.HWPT_ALLOC: {"out_hwpt_id": "table"},
    shapes.MOCK: {"out_stdev_id": "mock", "out_hwpt_id": "table", "out_idev_id": "device"},
    shapes.REPLACE: {"pt_id": "table"},
    shapes.FAULT_ALLOC: {"out_fault_id": "fault"},
    shapes.VIOMMU_ALLOC: {"out_viommu_id": "viommu"},
    shapes.VDEVICE_ALLOC: {"out_vdevice_id": "vdevice"},
    shapes.VEVENTQ_ALLOC: {"out_veventq_id": "veventq"},
    shapes.HW_QUEUE_ALLOC: {"out_hw_queue_id": "queue"},
    BIND: {"out_devid": "device"},
}
"""The ids that a successful call returns."""
_OPENED = {
    CREATE_ACCESS: ("out_access_fd", "access"),
    shapes.FAULT_ALLOC: ("out_fault_fd", "events"),
    shapes.VEVENTQ_ALLOC: ("out_veventq_fd", "events"),
}
"""The descriptors, whose numbers differ from host to host."""
_HIDDEN = frozenset(name for name, _ in _OPENED.values())
_MAPS = {
    MAP: ("ioas_id", "user_va", "iova"),
    MAP_FILE: ("ioas_id", "start", "iova"),
    COPY: ("dst_ioas_id", "", "dst_iova"),
}
"""The fields that say what was mapped where."""
_LISTS_CHANGED = {
    shapes.ACCESS_RW,
    shapes.CONTAINER_DIRTY_GET,
    shapes.CONTAINER_UNMAP_DIRTY,
    shapes.GET_DIRTY,
    shapes.GET_HW_INFO,
    shapes.IOVA_RANGES,
    shapes.VIOMMU_ALLOC,
}
_MEMORY_CHANGED = {shapes.ACCESS_RW, shapes.IOVA_RANGES}
"""Calls that write where a script's lists are, or its memory."""
_COMPARES = {shapes.ACCESS_PAGES, shapes.CHECK_MAP}
"""Calls that compare pages with those at an address. A host in user space cannot tell private pages from each other."""
_PLACES = {"null": 0, "nowhere": NOWHERE, "kernel": 0xFFFF_8880_0000_0000}
_NEST_PARENT, _DIRTY_TRACKING, _PASID = 1, 2, 8
_PINS_MAX = 12
_PASIDS = (1, 2, 100, 1024, 1 << 20)
"""Those that scripts attach."""
_EIO = 5


def _call(
    world: World,
    who: int,
    target: Sequence[Any],
    name: str,
    fields: Mapping[str, Any],
    how: Mapping[str, Any] | None = None,
) -> str:
    """A request. `how` may give it another `size`, bytes behind it (`tail`), a place (`at`), `reserved` fields."""
    shape, how = SHAPES[name], how or {}
    file = world.files.find(who, *target)
    context = context_of(world, who, file, fields)
    values = {key: value_of(world, who, context, value) for key, value in fields.items()}
    if shape in _COMPARES and _is_private(values["uptr"], values["length"]):
        return "private memory"
    if "reserved" in how:
        values |= {name: how["reserved"] for name in shape.names if "reserved" in name}
    data = shape.pack(**values) + bytes.fromhex(how.get("tail", ""))
    data = how.get("size", int.from_bytes(data[:4], "little")).to_bytes(4, "little") + data[4:]
    if shape is DESTROY and file and values["id"] in context.ids.get("mock", []):
        _detach_pasids(world, who, file.fd, values["id"])
    place, data = _place(data, how)
    world.do(who, "store", place, data)
    # 7.3.4 says 0 instead of the DMA-BUF's descriptor (docs/findings.md).
    free = world.do(who, "free_descriptor") if shape is shapes.DMABUF_GET else NO_FILE
    result = world.do(who, "ioctl", file.fd if file else NO_FILE, shape.request, place)
    after = world.do(who, "load", place, len(data))
    after = after if isinstance(after, bytes) else data
    old, new = (shape.unpack(each.ljust(shape.size, b"\0")) for each in (data, after))
    if shape is shapes.DMABUF_GET and result >= 0:
        world.files.add(OpenFile("dmabuf", result or free, {who}))
        result = 0
    if result >= 0:
        _remember(world, who, file, shape, context, old, new)
    tail = ["and bytes behind"] if after[shape.size :] != data[shape.size :] else []
    return " ".join([outcome(result), *_changed(old, new), *tail, *_written(world, who, shape)])


def _detach_pasids(world: World, who: int, file: int, mock: int) -> None:
    """7.3.4 forgets what is attached to the PASIDs of a mock device that goes (docs/findings.md)."""
    for pasid in _PASIDS:
        detach = shapes.PASID.pack(op=OPS["PASID_DETACH"], id=mock, pasid=pasid)
        world.do(who, "store", ARGUMENT, detach)
        world.do(who, "ioctl", file, shapes.PASID.request, ARGUMENT)


def context_of(world: World, who: int, file: OpenFile | None, fields: Mapping[str, Any]) -> Context:
    """The objects that ids in a request are of."""
    if isinstance(fields.get("iommufd"), list):
        file = world.files.find(who, *fields["iommufd"]) or file
    return file.context if file and file.context else Context()


def value_of(world: World, who: int, context: Context, value: Any) -> int:
    if isinstance(value, int):
        return value
    kind, index, *more = value
    if kind in _FILES:
        return world.fd(who, value)
    return context.of_mapping(kind, index, *more) if more else context.find(kind, index)


def _place(data: bytes, how: Mapping[str, Any]) -> tuple[int, bytes]:
    """Where a structure stands, and as much of it as there is."""
    if how.get("at") == "edge":
        length = min(how.get("size", len(data)), len(data), PAGE)
        return ARGUMENT + PAGE - length, data[:length]
    return _PLACES.get(how.get("at", ""), ARGUMENT), data


def _changed(old: Mapping[str, int], new: Mapping[str, int]) -> list[str]:
    return [f"{name}={'*' if name in _HIDDEN else hex(new[name])}" for name in new if new[name] != old[name]]


def _written(world: World, who: int, shape: Shape) -> list[str]:
    """What a call may have written besides its structure."""
    lists = [f"lists {world.do(who, 'digest', SCRATCH, SCRATCH_PAGES)}"] if shape in _LISTS_CHANGED else []
    return [*lists, memory.look(world, who)] if shape in _MEMORY_CHANGED else lists


def _remember(
    world: World,
    who: int,
    file: OpenFile | None,
    shape: Shape,
    context: Context,
    old: Mapping[str, int],
    new: Mapping[str, int],
) -> None:
    for name, kind in _MADE.get(shape, {}).items():
        context.add(kind, new[name])
    if shape is shapes.HWPT_ALLOC:
        _remember_table(context, new)
    if shape in _OPENED:
        field, kind = _OPENED[shape]
        if new[field] != old[field]:  # else it could not be told
            world.files.add(OpenFile(kind, new[field], {who}, context))
    elif shape in _MAPS:
        space, address, iova = _MAPS[shape]
        context.mapped(Mapped(new[space], new[iova], new["length"], new.get(address, 0)))
    elif shape is UNMAP:
        context.unmapped(old["ioas_id"], old["iova"], old["length"])
    elif shape is DESTROY:
        context.remove(old["id"])
    elif shape is BIND and file:
        file.context = context
        device.place(world, who, file.fd)


def _remember_table(context: Context, new: Mapping[str, int]) -> None:
    """What a table can do that others cannot."""
    if new["flags"] & _NEST_PARENT:
        context.add("parent", new["out_hwpt_id"])
    if new["flags"] & _DIRTY_TRACKING:
        context.add("tracking", new["out_hwpt_id"])
    if new["flags"] & _PASID:
        context.add("compatible", new["out_hwpt_id"])
    if new["data_type"]:
        context.add("nested", new["out_hwpt_id"])


def _is_private(address: int, length: int) -> bool:
    """Whether the pages of a range meet the private memory of a script."""
    return address < MEMORY + PAGES * PAGE and (address & -PAGE) + length + PAGE > MEMORY + PRIVATE_AT * PAGE


def _request(world: World, who: int, target: Sequence[Any], request: int, argument: int) -> str:
    """A request without a structure."""
    return outcome(world.do(who, "ioctl", world.fd(who, target), request, argument))


def _pins(world: World, who: int, target: Sequence[Any], page: int) -> str:
    """How often a page is pinned, by asking the test module whether it is this often."""
    address = MEMORY + page * PAGE
    if _is_private(address, PAGE):
        return "private memory"
    for count in range(_PINS_MAX):
        fields = {"op": OPS["MD_CHECK_REFS"], "length": PAGE, "uptr": address, "refs": count}
        world.do(who, "store", ARGUMENT, shapes.CHECK_REFS.pack(**fields))
        result = world.do(who, "ioctl", world.fd(who, target), shapes.CHECK_REFS.request, ARGUMENT)
        if result != -_EIO:
            return str(count) if result >= 0 else outcome(result)
    return "often"


VERBS = {"call": _call, "request": _request, "pins": _pins}
