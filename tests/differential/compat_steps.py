"""Random calls on an iommufd in the place of a container: mappings of both versions of type 1, cut and whole."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential.arguments import BASE, MEMORY, PAGE, Step, World

Make = Callable[[World], Step]
_FILE = ["iommufd", 0]
_SET_IOMMU = 0x3B66


def beginning(world: World) -> list[Step]:
    """An address space for the container, mostly with a device and an access, and mostly of the first version."""
    call = [0, "call", _FILE]
    steps: list[Step] = [[0, "open", "iommufd"], [*call, "IOAS_ALLOC", {}], [*call, "IOAS_ALLOC", {}]]
    if world.percent(60):
        steps.append([*call, "MOCK", {"op": 12, "id": ["ioas", 0], "dev_flags": 0}])
    steps.append([*call, "VFIO_IOAS", {"op": 1, "ioas_id": ["ioas", 0]}])
    steps.append([0, "request", _FILE, _SET_IOMMU, world.choose((1, 1, 1, 3))])
    if world.percent(70):
        steps.append([*call, "CREATE_ACCESS", {"op": 5, "id": ["ioas", 0], "flags": 1}])
    return steps


def _place(world: World) -> dict[str, int]:
    """Some pages out of 32."""
    return {"iova": BASE + PAGE * world.number(0, 31) + world.choose((0,) * 20 + (1, -1)), "size": _size(world)}


def _size(world: World) -> int:
    return PAGE * world.number(1, 8) if world.percent(96) else world.choose((0, 1, 2048, 1 << 63))


def _map(world: World) -> Step:
    fields = {"flags": world.choose((3, 3, 3, 1, 2, 0)), "vaddr": MEMORY + PAGE * world.page()}
    return world.call(_FILE, "VFIO_DMA_MAP", **fields, **_place(world))


def _unmap(world: World) -> Step:
    place = _place(world) if world.percent(96) else {"iova": 0, "size": 0}
    flags = 2 if not place["size"] else world.choose((0,) * 30 + (2, 4))
    return world.call(_FILE, "VFIO_DMA_UNMAP", flags=flags, **place)


def _set_iommu(world: World) -> Step:
    return [0, "request", _FILE, _SET_IOMMU, world.choose((1, 1, 3, 2))]


def _pin(world: World) -> Step:
    place = {"iova": BASE + PAGE * world.number(0, 31), "length": PAGE * world.number(1, 3)}
    return world.call(_FILE, "ACCESS_PAGES", op=7, id=["access", 0], flags=world.choose((0, 1)), uptr=0, **place)


def _copy_out(world: World) -> Step:
    """The mappings of the container are an IOAS's as well."""
    place = {"src_iova": BASE + PAGE * world.number(0, 31), "length": PAGE * world.number(1, 4)}
    fields = {"src_ioas_id": ["ioas", 0], "dst_ioas_id": ["ioas", 1], "flags": world.choose((7, 6, 5))}
    return world.call(_FILE, "COPY", **fields, **place, dst_iova=BASE + PAGE * world.number(0, 31))


def weighted(world: World) -> list[tuple[int, Make]]:
    """Every step of this kind, and how often it comes."""
    return [(60, _map), (60, _unmap), (4, _set_iommu), (16, _pin), (8, _copy_out)]
