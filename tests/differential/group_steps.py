"""Random calls on a group, its containers and what they map; an iommufd in their place, and the cdev beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.differential.arguments import MEMORY, NOWHERE, PAGE, PAGES, SCRATCH, U32_MAX, ULONG_MAX, Step, World

Make = Callable[[World], Step]
_GROUP = ["group", 0]
_OTHER = ["other", 0]
"""Another group, which only joins containers and leaves them."""
_NAME = "0000:01:00.0"
_IOVA = 0x10_0000
_SLOTS = 16
"""Pages from `_IOVA` on that most mappings lie in."""
_GET_API_VERSION, _CHECK_EXTENSION, _SET_IOMMU, _UNSET_CONTAINER = 0x3B64, 0x3B65, 0x3B66, 0x3B69
_TYPE1, _TYPE1V2 = 1, 3
_START, _STOP, _GET = 1, 2, 4


def beginning(world: World) -> list[Step]:
    """A group and a container; mostly the one in the other with a driver, and the device given out."""
    steps: list[Step] = [[0, "open", "group"], [0, "open", "container"], [0, "open", "iommufd"]]
    if world.percent(93):
        target = ["container", 0] if world.percent(80) else ["iommufd", 0]
        steps.append([0, "container", _GROUP, target])
        steps.append([0, "request", target, _SET_IOMMU, world.choose((_TYPE1V2, _TYPE1V2, _TYPE1))])
    if world.percent(60):
        steps += [[0, "give", _GROUP, _NAME], [0, "settle", ["vfio", 0]]]
    return steps


def _mapper(world: World) -> Any:
    """Who maps, nearly always the container."""
    return world.choose((*[["container", 0]] * 24, *[["iommufd", 0]] * 4, ["container", 1]))


def _iova(world: World) -> int:
    if world.percent(6):
        odd = (0, 1, 0xFEE0_0000, 0xFEDF_F000, (1 << 48) - PAGE, 1 << 48, ULONG_MAX - PAGE + 1, ULONG_MAX, 1 << 63)
        return world.choose(odd)
    return _IOVA + PAGE * world.number(0, _SLOTS - 1) + (world.choose((1, 2048)) if world.percent(2) else 0)


def _size(world: World) -> int:
    if world.percent(5):
        return world.choose((0, 1, PAGE + 1, ULONG_MAX, ULONG_MAX - PAGE + 1, 1 << 63, 1 << 40))
    return PAGE * world.choose((1, 1, 1, 2, 2, 3, 4, 6))


def _vaddr(world: World) -> int:
    if world.percent(4):
        return world.choose((0, NOWHERE, ULONG_MAX - PAGE + 1, 1 << 47, MEMORY + PAGES * PAGE, MEMORY + 1))
    return MEMORY + PAGE * world.number(0, PAGES - 1)


def _map(world: World) -> Step:
    fields = {"flags": world.choose((3, 3, 3, 3, 1, 2, 4, 0, 7, 8)), "vaddr": _vaddr(world), "size": _size(world)}
    return world.call(_mapper(world), "VFIO_DMA_MAP", **fields, iova=_iova(world))


def _unmap(world: World) -> Step:
    flags = world.choose((0, 0, 0, 0, 0, 2, 4, 4, 6, 1, 8))
    iova, size = (0, 0) if flags & 2 and world.percent(80) else (_iova(world), _size(world))
    return world.call(_mapper(world), "VFIO_DMA_UNMAP", flags=flags, iova=iova, size=size)


def _bitmap(world: World, *, missing: bool) -> dict[str, int]:
    """`missing`: perhaps where no memory is, which leaves the kernel's bitmap used (docs/findings.md)."""
    place = {"pgsize": world.choose((PAGE, PAGE, PAGE, PAGE, PAGE, 0, 1, 2 << 20)), "data": SCRATCH}
    if world.percent(5):
        place["data"] = world.choose((ULONG_MAX, SCRATCH + 3, *((0, NOWHERE) if missing else ())))
    return place | {"bytes": world.choose((8, 8, 8, 16, 64, 64, 0, 7, 1 << 28, (1 << 28) + 8))}


def _unmap_dirty(world: World) -> Step:
    flags = world.choose((1, 1, 1, 1, 3, 5))
    fields = {"flags": flags, "iova": _iova(world), "size": _size(world)}
    return world.call(_mapper(world), "CONTAINER_UNMAP_DIRTY", **fields, **_bitmap(world, missing=False))


def _dirty(world: World) -> Step:
    return world.call(_mapper(world), "CONTAINER_DIRTY", flags=world.choose((_START, _START, _START, _STOP, 3, 0, 8)))


def _get_dirty(world: World) -> Step:
    fields: dict[str, int] = {"flags": _GET, "iova": _IOVA, "size": PAGE * _SLOTS}
    if world.percent(50):
        fields |= {"iova": _iova(world), "size": _size(world)}
    return [world.who(), "dirty", _mapper(world), fields | _bitmap(world, missing=True), world.percent(85)]


def _info(world: World) -> Step:
    return [world.who(), "info", _mapper(world), world.choose((256, 256, 24, 16, 15, 0, 56, 112, U32_MAX))]


def _set_iommu(world: World) -> Step:
    kind = world.choose((_TYPE1, _TYPE1V2, _TYPE1V2, _TYPE1V2, 8, 6, 0, 99, 2))
    return [world.who(), "request", _mapper(world), _SET_IOMMU, kind]


def _ask(world: World) -> Step:
    if world.percent(10):
        return [world.who(), "request", _mapper(world), world.choose((_GET_API_VERSION, 0x3B73, 0x3B74, 0x3B63, 0)), 0]
    return [world.who(), "request", _mapper(world), _CHECK_EXTENSION, world.number(0, 12)]


def _container(world: World) -> Step:
    target = world.choose(
        (*[["container", 0]] * 5, ["container", 1], ["iommufd", 0], ["iommufd", 0], ["vfio", 0], ["memfd", 0], -1, 998)
    )
    return [world.who(), "container", world.choose((_GROUP, _GROUP, _GROUP, _OTHER, _OTHER, ["vfio", 0])), target]


def _unset(world: World) -> Step:
    return [world.who(), "request", world.choose((_GROUP, _OTHER)), _UNSET_CONTAINER, 0]


def _status(world: World) -> Step:
    return world.call(world.choose((_GROUP, _GROUP, _OTHER)), "GROUP_STATUS", flags=world.choose((0, 0, U32_MAX)))


def _give(world: World) -> Step:
    token = "vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
    odd = (
        "0000:02:00.0",
        "",
        f"{_NAME}1",
        f"{_NAME} ",
        f"{_NAME} {token}",
        f"{_NAME} vf_token=1",
        f"{_NAME} x",
        "x" * 40,
    )
    return [world.who(), "give", _GROUP, _NAME if world.percent(75) else world.choose(odd)]


def _odd_group(world: World) -> Step:
    return [world.who(), "request", _GROUP, world.choose((0x3B64, 0x3B6B, 0x5401, 0x3B67, 0x3B68, 0x3B6A)), 0]


def _open(world: World) -> Step:
    kind = world.choose(("group", "group", "other", "other", "container", "container", "iommufd", "vfio"))
    return [world.who(), "open", kind]


def _close(world: World) -> Step:
    kind = world.choose(("group", "group", "other", "container", "vfio", "vfio", "iommufd"))
    return [world.who(), "close", kind, world.number(0, 1)]


def _bind(world: World) -> Step:
    return world.call(["vfio", world.number(0, 1)], "BIND", iommufd=["iommufd", 0])


def _attach(world: World) -> Step:
    name = world.choose(("ATTACH", "ATTACH", "DETACH"))
    fields = {"pt_id": world.id("ioas", "ioas", "table")} if name == "ATTACH" else {}
    return world.call(["vfio", world.number(0, 1)], name, **fields)


def _space(world: World) -> Step:
    if world.percent(40):
        return world.call(["iommufd", 0], "IOAS_ALLOC")
    fields = {"op": world.choose((0, 0, 1, 2)), "ioas_id": world.id("ioas")}
    return world.call(["iommufd", 0], "VFIO_IOAS", **fields)


def _destroy(world: World) -> Step:
    return world.call(["iommufd", 0], "DESTROY", id=world.choose((["ioas", 0], 1, 2, 3)))


def _device(world: World) -> Step:
    if world.percent(50):
        return [world.who(), "read", ["vfio", world.number(0, 1)], 4, world.choose((0, 7 << 40, (7 << 40) + 4))]
    return world.call(["vfio", world.number(0, 1)], "DEVICE_INFO")


def _dma(world: World) -> Step:
    iova = _IOVA + world.choose((0, PAGE, 3 * PAGE, PAGE - 8))
    return [world.who(), "dma", ["vfio", 0], iova, world.choose((1, 16, 64))]


def _settle(world: World) -> Step:
    return [world.who(), "settle", ["vfio", 0]]


def _locked(world: World) -> Step:
    return [world.who(), "locked"]


def weighted(world: World) -> list[tuple[int, Make]]:
    """Every step of this kind, and how often it comes."""
    return [
        (40, _map),
        (18, _unmap),
        (3, _unmap_dirty),
        (4, _dirty),
        (4, _get_dirty),
        (3, _info),
        (6, _set_iommu),
        (3, _ask),
        (4, _container),
        (2, _unset),
        (2, _status),
        (5, _give),
        (1, _odd_group),
        (4, _open),
        (2, _close),
        (2, _bind),
        (2, _attach),
        (2, _space),
        (1, _destroy),
        (2, _device),
        (1, _dma),
        (1, _settle),
        (6, _locked),
    ]
