"""Random calls on I/O address spaces, page tables, mock devices and their accesses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.differential.arguments import MEMORY, PAGE, SCRATCH, ULONG_MAX, Step, World

Make = Callable[[World], Step]
_FILE = ["iommufd", 0]


def beginning(world: World) -> list[Step]:
    """Two contexts, two address spaces in the one that is used most, and mostly a device and an access."""
    alloc: Step = [0, "call", _FILE, "IOAS_ALLOC", {}]
    steps: list[Step] = [[0, "open", "iommufd"], alloc, [0, "open", "iommufd"]]
    if world.percent(20):  # from now on each process is charged by itself
        steps.append([0, "call", _FILE, "OPTION", {"option_id": 0, "op": 0, "val64": 1}])
    steps += [alloc, alloc]
    if world.percent(25):
        steps.append([0, "call", _FILE, "VFIO_IOAS", {"op": 1, "ioas_id": ["ioas", 0]}])
    for _ in range(world.choose((1, 1, 0, 2))):
        fields = {"op": 12, "id": ["ioas", world.choose((0, 0, 0, 1))], "dev_flags": world.choose((0, 0, 1))}
        steps.append([0, "call", _FILE, "MOCK", fields])
    for _ in range(world.choose((1, 1, 0, 2))):
        fields = {"op": 5, "id": ["ioas", world.choose((0, 0, 0, 1))], "flags": world.choose((1, 1, 1, 0))}
        steps.append([0, "call", _FILE, "CREATE_ACCESS", fields])
    return steps


def _alloc(world: World) -> Step:
    return world.call(world.iommufd(), "IOAS_ALLOC", flags=1 if world.percent(3) else 0)


def _destroy(world: World) -> Step:
    return world.call(world.iommufd(), "DESTROY", id=world.id("ioas", "mock", "mock", "table", "device"))


def _map(world: World) -> Step:
    fields = {"ioas_id": world.id("ioas"), "flags": world.flags(), "user_va": world.address()}
    reserved = 1 if world.percent(1) else 0
    return world.call(world.iommufd(), "MAP", **fields, length=world.length(), iova=world.iova(), __reserved=reserved)


def _map_file(world: World) -> Step:
    # No iommufd: one that holds itself is never released, nor what it has charged to the user (docs/findings.md).
    fd = ["memfd", world.number(0, 1)] if world.percent(95) else world.choose((["eventfd", 0], -1, 998))
    fields = {"ioas_id": world.id("ioas"), "flags": world.flags(), "fd": fd, "start": max(world.address() - MEMORY, 0)}
    return world.call(world.iommufd(), "MAP_FILE", **fields, length=world.length(), iova=world.iova())


def _copy(world: World) -> Step:
    fields = {"src_ioas_id": world.id("ioas"), "dst_ioas_id": world.id("ioas"), "flags": world.flags()}
    places = {"src_iova": world.iova(), "dst_iova": world.iova(), "length": world.length()}
    if world.percent(80):
        mapping = world.mapping()
        fields["src_ioas_id"] = mapping.space()
        places |= {"src_iova": mapping.iova(), "length": mapping.length()}
    return world.call(world.iommufd(), "COPY", **fields, **places)


def _unmap(world: World) -> Step:
    space, iova, length = world.id("ioas"), world.iova(), world.length(16)
    if world.percent(60):
        mapping = world.mapping()
        space, iova, length = mapping.space(), mapping.iova(), mapping.length()
    elif world.percent(8):
        iova, length = 0, ULONG_MAX
    return world.call(world.iommufd(), "UNMAP", ioas_id=space, iova=iova, length=length)


def _ranges(world: World) -> Step:
    count = world.choose((8, 8, 8, 1, 0))
    place = SCRATCH if world.percent(95) else world.address()
    return world.call(world.iommufd(), "IOVA_RANGES", ioas_id=world.id("ioas"), num_iovas=count, allowed_iovas=place)


def _lists(world: World) -> Step:
    numbers: list[int] = []
    for _ in range(2):
        first = world.iova()
        last = max(first + world.length(64) - 1, 0)
        numbers += [first, min(last, ULONG_MAX) if world.percent(95) else world.iova()]
    return [0, "lists", numbers]


def _allow(world: World) -> Step:
    place = SCRATCH if world.percent(95) else world.address()
    count = world.choose((0, 0, 1, 1, 2, 3))
    return world.call(world.iommufd(), "ALLOW_IOVAS", ioas_id=world.id("ioas"), num_iovas=count, allowed_iovas=place)


def _reserve(world: World) -> Step:
    start = world.iova() + (8 << 20 if world.percent(70) else 0) & ULONG_MAX
    return world.call(world.iommufd(), "RESERVE", op=1, id=world.id("ioas"), start=start, length=world.length())


def _option(world: World) -> Step:
    huge = world.percent(75)
    fields = {"option_id": 1 if huge else world.choose((0, 0, 2)), "op": world.choose((0, 0, 1, 2))}
    target = world.id("ioas") if huge or world.percent(20) else 0
    return world.call(world.iommufd(), "OPTION", **fields, object_id=target, val64=world.choose((0, 0, 0, 1, 2)))


def _compat(world: World) -> Step:
    return world.call(world.iommufd(), "VFIO_IOAS", op=world.choose((0, 1, 1, 2, 3)), ioas_id=world.id("ioas"))


def _compat_map(world: World) -> Step:
    fields = {"flags": world.choose((3, 3, 3, 1, 2, 0, 8)), "vaddr": world.address(), "size": world.length()}
    return world.call(world.iommufd(), "VFIO_DMA_MAP", **fields, iova=world.iova())


def _compat_unmap(world: World) -> Step:
    flags = world.choose((0, 0, 0, 2, 4))
    return world.call(world.iommufd(), "VFIO_DMA_UNMAP", flags=flags, size=world.length(), iova=world.iova())


def _compat_other(world: World) -> Step:
    if world.percent(30):
        return world.call(world.iommufd(), "VFIO_INFO", argsz=world.choose((16, 24, 24, 64)))
    request, argument = world.choose(((0x3B64, 0), (0x3B65, 1), (0x3B65, 3), (0x3B65, 8), (0x3B66, 1), (0x3B66, 3)))
    return [world.who(), "request", world.iommufd(), request, argument]


def _mock(world: World) -> Step:
    return world.call(
        world.iommufd(), "MOCK", op=12, id=world.id("ioas", "ioas", "table"), dev_flags=world.choose((0, 0, 0, 0, 1, 8))
    )


def _replace(world: World) -> Step:
    return world.call(world.iommufd(), "REPLACE", op=10, id=world.id("mock"), pt_id=world.id("ioas", "table"))


def _table(world: World) -> Step:
    fields = {"dev_id": world.id("device"), "pt_id": world.id("ioas", "ioas", "table")}
    return world.call(world.iommufd(), "HWPT_ALLOC", **fields, flags=world.choose((0, 0, 0, 1, 8, 16)))


def _hw_info(world: World) -> Step:
    fields = {"dev_id": world.id("device"), "data_uptr": SCRATCH, "data_len": world.choose((0, 4, 8, 8, 16, 64))}
    return world.call(world.iommufd(), "GET_HW_INFO", **fields, flags=world.choose((0, 0, 0, 1, 2)))


def _access(world: World) -> Step:
    return world.call(
        world.iommufd(), "CREATE_ACCESS", op=5, id=world.id("ioas"), flags=world.choose((0, 1, 1, 1, 1, 2))
    )


def _handle(world: World) -> Any:
    return ["access", world.number(0, 2)] if world.percent(96) else world.choose((["iommufd", 0], 998, -1))


def _reach(world: World) -> dict[str, Any]:
    """A range for an access, and perhaps the memory behind it."""
    if world.percent(80):
        mapping = world.mapping()
        return {"iova": mapping.iova(), "length": mapping.length(), "address": mapping.address()}
    return {"iova": world.iova(), "length": min(world.length(), 8 * PAGE)}


def _access_pages(world: World) -> Step:
    place, uptr = _reach(world), world.choose((0, 0, 1))
    uptr = uptr and (place.pop("address", 0) or world.address())
    place.pop("address", None)
    flags = world.choose((0, 1, 1, 0, 1, 2))
    return world.call(world.iommufd(), "ACCESS_PAGES", op=7, id=_handle(world), **place, uptr=uptr, flags=flags)


def _give_back(world: World) -> Step:
    return world.call(world.iommufd(), "DESTROY_PAGES", op=6, id=_handle(world), access_pages_id=world.number(0, 3))


def _move_access(world: World) -> Step:
    return world.call(world.iommufd(), "ACCESS_REPLACE", op=11, id=_handle(world), ioas_id=world.id("ioas"))


def _access_rw(world: World) -> Step:
    flags = world.choose((0, 0, 1, 1, 1, 4, 5, 2))
    place = _reach(world)
    place.pop("address", None)
    uptr = SCRATCH + world.choose((0, 0, 3, PAGE)) if world.percent(70) else world.address()
    return world.call(world.iommufd(), "ACCESS_RW", op=8, id=_handle(world), **place, uptr=uptr, flags=flags)


def _memory_limit(world: World) -> Step:
    """The limit is the test module's, for all that follow, and a small one makes batches small: no other one is set."""
    return world.call(world.iommufd(), "MEMORY_LIMIT", op=9, limit=world.choose((65536, 65536, 11, 0)))


def _check(world: World) -> Step:
    place = {"iova": world.iova(), "length": 2048, "uptr": world.address() & -PAGE}
    if world.percent(80):
        mapping = world.mapping()
        place |= {"iova": mapping.iova(), "uptr": mapping.address()}
    return world.call(world.iommufd(), "CHECK_MAP", op=3, id=world.id("table"), **place)


def _pins(world: World) -> Step:
    return [world.who(), "pins", world.iommufd(), world.page()]


def _close(world: World) -> Step:
    kind = world.choose(("access", "access", "access", "iommufd"))
    return [world.who(), "close", kind, world.number(0, 1)]


def _open(world: World) -> Step:
    return [world.who(), "open", "iommufd"]


def _odd(world: World) -> Step:
    if world.percent(20):
        return [world.who(), "read", world.iommufd(), 8, 0]
    number = world.choose((0x3B80, 0x3B96, 0x3B9F, 0x3B7F, 0x3B63, 0x3B6A, 0x5401, 0))
    return [world.who(), "request", world.iommufd(), number, 0]


def weighted(world: World) -> list[tuple[int, Make]]:
    """Every step of this kind, and how often it comes."""
    return [
        (2, _alloc),
        (4, _destroy),
        (24, _map),
        (7, _map_file),
        (12, _copy),
        (14, _unmap),
        (4, _ranges),
        (2, _lists),
        (2, _allow),
        (2, _reserve),
        (2, _option),
        (2, _compat),
        (2, _compat_map),
        (2, _compat_unmap),
        (1, _compat_other),
        (5, _mock),
        (6, _replace),
        (4, _table),
        (1, _hw_info),
        (4, _access),
        (6, _access_pages),
        (3, _give_back),
        (2, _move_access),
        (5, _access_rw),
        (1, _memory_limit),
        (8, _check),
        (5, _pins),
        (2, _close),
        (1, _open),
        (1, _odd),
    ]
