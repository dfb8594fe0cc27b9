"""Random calls where there is no IOMMU: the cdev and its IOAS, lookups of physical addresses, the group, type 8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.differential import group_steps
from tests.differential.arguments import MEMORY, PAGE, PAGES, U32_MAX, ULONG_MAX, Step, World

Make = Callable[[World], Step]
_IOMMUFD, _DEVICE, _GROUP = ["iommufd", 0], ["vfio", 0], ["group", 0]
_IOVA = 0x10_0000
_SLOTS = 6
_NAME = "0000:01:00.0"
_SET_IOMMU, _CHECK_EXTENSION = 0x3B66, 0x3B65
_TYPE8 = 8


def beginning(world: World) -> list[Step]:
    """By the cdev, mostly, with an address space that has pages; or by the group and a container of type 8."""
    if world.percent(70):
        alloc = [0, "call", _IOMMUFD, "IOAS_ALLOC", {}]
        steps: list[Step] = [[0, "open", "iommufd"], [0, "open", "vfio"]]
        steps += [[0, "call", _DEVICE, "BIND", {"iommufd": _IOMMUFD}], [0, "settle", _DEVICE], alloc, alloc]
        place = {"user_va": MEMORY, "length": 4 * PAGE, "iova": _IOVA, "flags": 7}
        steps.append([0, "call", _IOMMUFD, "MAP", {"ioas_id": ["ioas", 0], **place}])
        if world.percent(85):
            steps.append([0, "call", _DEVICE, "ATTACH", {"pt_id": ["ioas", 0]}])
        return steps
    target = ["container", 0] if world.percent(60) else _IOMMUFD
    steps = [[0, "open", "group"], [0, "open", "container"], [0, "open", "iommufd"]]
    steps += [[0, "container", _GROUP, target], [0, "request", target, _SET_IOMMU, _TYPE8]]
    return [*steps, [0, "give", _GROUP, _NAME], [0, "settle", _DEVICE]]


def _iova(world: World) -> int:
    if world.percent(8):
        last = (ULONG_MAX, ULONG_MAX - 1, ULONG_MAX - PAGE + 1, ULONG_MAX - 2 * PAGE + 1)
        return world.choose((0, 1, PAGE, 0xFEE0_0000, 1 << 48, (1 << 48) - PAGE, (1 << 63) - PAGE, *last))
    return _IOVA + PAGE * world.number(0, _SLOTS - 1)


def _place(world: World) -> tuple[int, int]:
    """IOVA and length of a mapping. Linux fails to map several pages up to the last IOVA (docs/findings.md)."""
    iova, length = _iova(world), PAGE * world.number(1, 4)
    return iova, PAGE if iova + length - 1 == ULONG_MAX else length


def _space(world: World) -> Any:
    return ["ioas", 0] if world.percent(75) else world.id("ioas")


def _map(world: World) -> Step:
    user_va = MEMORY + PAGE * world.number(0, PAGES - 1)
    fields = {"ioas_id": _space(world), "flags": world.choose((7, 7, 7, 7, 6, 5, 3, 2, 4)), "user_va": user_va}
    iova, length = _place(world)
    return world.call(_IOMMUFD, "MAP", **fields, length=length, iova=iova)


def _unmap(world: World) -> Step:
    iova, length = (0, ULONG_MAX) if world.percent(15) else (_iova(world), PAGE * world.number(1, 4))
    return world.call(_IOMMUFD, "UNMAP", ioas_id=_space(world), iova=iova, length=length)


def _copy(world: World) -> Step:
    fields = {"flags": world.choose((7, 7, 6, 5)), "dst_ioas_id": _space(world), "src_ioas_id": _space(world)}
    iova, length = _place(world)
    return world.call(_IOMMUFD, "COPY", **fields, length=length, dst_iova=iova, src_iova=_iova(world))


def _look_up(world: World) -> Step:
    """Whatever may be wrong with a lookup; a good one is `where`: addresses and lengths differ from host to host."""
    fields = {"ioas_id": world.id("ioas", "table", "device"), "iova": _iova(world), "length": 1}
    fields |= world.choose(
        (
            {"length": 0},
            {"flags": 1},
            {"flags": U32_MAX, "length": 0},
            {"iova": ULONG_MAX},
            {"iova": ULONG_MAX, "length": 0},
            {"iova": ULONG_MAX - 1},
            {"ioas_id": world.choose((0, U32_MAX, ["gone", 0], ["device", 0], ["table", 0]))},
            {"iova": _IOVA - 1},
            {"iova": 1 << 40},
        )
    )
    return world.call(_IOMMUFD, "GET_PA", **fields)


def _where(world: World) -> Step:
    length = world.choose((1, 8, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE, 1 << 40, ULONG_MAX))
    return [0, "where", _IOMMUFD, _space(world), _iova(world) + world.choose((0, 0, 8, PAGE - 1)), length]


def _transfer(world: World) -> Step:
    offset = world.choose((0, 8, 512, PAGE - 64))
    return [0, "reach", _DEVICE, _IOMMUFD, _space(world), _iova(world) + offset, world.choose((1, 16, 64))]


def _privilege(world: World) -> Step:
    return [0, "privilege", world.choose((0, 1, 1, 1))]


def _attach(world: World) -> Step:
    fields = {"pt_id": world.id("ioas", "ioas", "table", "device"), "pasid": world.choose((0, 1, 1 << 20, U32_MAX))}
    return world.call(_DEVICE, "ATTACH", **fields, flags=world.choose((0, 0, 0, 0, 0, 0, 1, 2)))


def _detach(world: World) -> Step:
    return world.call(_DEVICE, "DETACH", flags=world.choose((0, 0, 0, 1, 2)), pasid=world.choose((0, 1)))


def _table(world: World) -> Step:
    flags = world.choose((0, 0, 0, 1, 2, 4, 8, 3, 16))
    data = world.choose(({}, {}, {}, {"data_type": 1, "data_len": 8, "data_uptr": MEMORY}, {"data_len": 8}))
    fields = {"dev_id": world.id("device"), "pt_id": world.id("ioas", "ioas", "table"), "flags": flags}
    return world.call(_IOMMUFD, "HWPT_ALLOC", **fields, **data)


def _iommu(world: World) -> Step:
    """What takes an IOMMU."""
    device = {"dev_id": world.id("device", "device", "ioas")}
    name, fields = world.choose(
        (
            ("GET_HW_INFO", {**device, "data_len": world.choose((0, 8)), "data_uptr": MEMORY}),
            ("VIOMMU_ALLOC", {**device, "type": world.choose((0, 1)), "hwpt_id": world.id("table")}),
            ("SET_DIRTY", {"hwpt_id": world.id("table"), "flags": world.choose((0, 1))}),
            ("VDEVICE_ALLOC", {**device, "viommu_id": world.id("table", "ioas"), "virt_id": 1}),
            ("INVALIDATE", {"hwpt_id": world.id("table"), "entry_num": 0}),
        )
    )
    return world.call(_IOMMUFD, name, **fields)


def _ranges(world: World) -> Step:
    place = {"num_iovas": world.choose((0, 8)), "allowed_iovas": MEMORY + (64 << 20)}
    return world.call(_IOMMUFD, "IOVA_RANGES", ioas_id=_space(world), **place)


def _large(world: World) -> Step:
    return world.call(_IOMMUFD, "OPTION", option_id=1, op=world.choose((0, 1)), object_id=_space(world), val64=0)


def _mock(world: World) -> Step:
    """A device of the test module beside ours: its tables are of another kind."""
    return world.call(_IOMMUFD, "MOCK", op=2, id=_space(world))


def _destroy(world: World) -> Step:
    return world.call(_IOMMUFD, "DESTROY", id=world.id("ioas", "table", "device", "mock"))


def _alloc(world: World) -> Step:
    return world.call(_IOMMUFD, "IOAS_ALLOC")


def _set_iommu(world: World) -> Step:
    target = world.choose((["container", 0], ["container", 0], _IOMMUFD, ["container", 1]))
    return [0, "request", target, _SET_IOMMU, world.choose((_TYPE8, _TYPE8, _TYPE8, 1, 3, 0, 99))]


def _ask(world: World) -> Step:
    target = world.choose((["container", 0], _IOMMUFD))
    request = world.choose((_CHECK_EXTENSION, _CHECK_EXTENSION, _CHECK_EXTENSION, 0x3B64, 0x3B73, 0x3B6B, 0))
    return [0, "request", target, request, world.choose((8, 8, *range(13)))]


def _old_map(world: World) -> Step:
    """What a container of another type would map."""
    target = world.choose((["container", 0], ["container", 0], _IOMMUFD))
    fields = {"iova": _iova(world), "size": PAGE}
    if world.percent(60):
        return world.call(target, "VFIO_DMA_MAP", **fields, flags=3, vaddr=MEMORY)
    return world.call(target, "VFIO_DMA_UNMAP", **fields)


def _info(world: World) -> Step:
    return [0, "info", world.choose((["container", 0], _IOMMUFD)), world.choose((256, 24, 16, 0))]


def _container(world: World) -> Step:
    target = world.choose((["container", 0], ["container", 0], ["container", 1], _IOMMUFD, _IOMMUFD, _DEVICE, -1))
    return [0, "container", _GROUP, target]


def _compat(world: World) -> Step:
    return world.call(_IOMMUFD, "VFIO_IOAS", op=world.choose((0, 1, 1, 2)), ioas_id=_space(world))


def _bind(world: World) -> Step:
    flags = world.choose((0, 0, 0, 1, 2))
    return world.call(["vfio", world.number(0, 1)], "BIND", iommufd=["iommufd", world.number(0, 1)], flags=flags)


def _open(world: World) -> Step:
    return [0, "open", world.choose(("group", "group", "vfio", "vfio", "container", "iommufd"))]


def _close(world: World) -> Step:
    return [0, "close", world.choose(("group", "vfio", "vfio", "container", "iommufd")), world.number(0, 1)]


def _hot_reset(world: World) -> Step:
    if world.percent(50):
        return world.call(_DEVICE, "HOT_RESET_INFO", argsz=world.choose((12, 64)))
    return world.call(_DEVICE, "HOT_RESET", flags=0, count=world.choose((0, 0, 1)))


def _settle(world: World) -> Step:
    return [0, "settle", _DEVICE]


def weighted(world: World) -> list[tuple[int, Make]]:
    """Every step of this kind, and how often it comes."""
    by_group = group_steps.weighted(world)
    shared = [(weight, make) for weight, make in by_group if make.__name__ in ("_give", "_status", "_unset", "_locked")]
    return [
        *shared,
        (16, _map),
        (8, _unmap),
        (4, _copy),
        (10, _look_up),
        (16, _where),
        (8, _transfer),
        (5, _privilege),
        (8, _attach),
        (5, _detach),
        (6, _table),
        (5, _iommu),
        (2, _ranges),
        (1, _large),
        (1, _mock),
        (4, _destroy),
        (3, _alloc),
        (5, _set_iommu),
        (5, _ask),
        (3, _old_map),
        (2, _info),
        (5, _container),
        (3, _compat),
        (6, _bind),
        (6, _open),
        (5, _close),
        (2, _hot_reset),
        (2, _settle),
    ]
