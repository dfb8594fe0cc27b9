"""Random calls on an edu: configuration space, registers, interrupts, resets, page tables, transfers."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential.arguments import MEMORY, PAGE, U32_MAX, Step, World

Make = Callable[[World], Step]
_DEVICE = ["vfio", 0]
_CONFIG = 7 << 40
_IOVA = 0x10_0000
_RAISE, _ACKNOWLEDGE = 0x60, 0x64
_EVENTFD, _UNMASK, _TRIGGER = 4, 16, 32


def beginning() -> list[Step]:
    """The device, bound, in a known state, and two address spaces with a page in the first."""
    iommufd = ["iommufd", 0]
    alloc = [0, "call", iommufd, "IOAS_ALLOC", {}]
    place = {"user_va": MEMORY, "length": 4 * PAGE, "iova": _IOVA, "flags": 7}
    return [
        [0, "open", "iommufd"],
        [0, "open", "vfio"],
        [0, "call", _DEVICE, "BIND", {"iommufd": iommufd}],
        [0, "settle", _DEVICE],
        alloc,
        alloc,
        [0, "call", iommufd, "MAP", {"ioas_id": ["ioas", 0], **place}],
    ]


def _write(data: bytes, offset: int) -> Step:
    return [0, "write", _DEVICE, data.hex(), offset]


def _config(world: World) -> Step:
    """Not the command register, which has a step of its own, and not what stands behind the capabilities."""
    offset = world.choose((*range(4), *range(6, 0x4D)))
    most = (4 if offset < 4 else 0x4E) - offset
    length = min(world.choose((1, 1, 2, 4, 8)), most)
    data = bytes(world.choose((0, 0xFF, 0x5A, 0x81)) for _ in range(length))
    return _write(data, _CONFIG + offset)


def _command(world: World) -> Step:
    value = world.choose((0, 2, 4, 6, 6, 6, 7, 0x402, 0x406, 0x506))
    return _write(value.to_bytes(2, "little"), _CONFIG + 4)


def _message(world: World) -> Step:
    return _write(bytes([world.choose((0, 0x80, 0x81, 0x81, 0x8F))]), _CONFIG + 0x42)


def _read_config(world: World) -> Step:
    if world.percent(50):
        return [0, "read", _DEVICE, 0x4E, _CONFIG]
    return [
        0,
        "read",
        _DEVICE,
        world.choose((1, 2, 4, 8, 64)),
        _CONFIG + world.choose((0, 1, 2, 3, 0xC, 0x34, 0x40, 0x100, 0xFF8, 0x1000)),
    ]


def _read_bar(world: World) -> Step:
    offset = world.choose((0, 4, 0x20, 0x24, 0x80, 0x88, 0x90, 1, 2, 0xFFFFC, 0x100000, 1 << 40, 8 << 40))
    return [0, "read", _DEVICE, world.choose((4, 4, 8, 1, 2, 3, 0)), offset]


def _write_bar(world: World) -> Step:
    offset = world.choose((4, 4, 0x80, 0x88, 0x90, 0x20))
    length = 4 if offset < 0x80 else world.choose((4, 8))  # what follows 4 computes, and takes its time
    return _write(bytes([world.choose((0, 1, 0x7F))]) + bytes(length - 1), offset)


def _wire(world: World) -> Step:
    raises = world.percent(50)
    value = 1 if raises else U32_MAX
    return _write(value.to_bytes(4, "little"), _RAISE if raises else _ACKNOWLEDGE)


def _irqs(world: World) -> Step:
    index, start = world.choose((0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5)), world.choose((0, 0, 0, 0, 0, 1))
    kind = world.choose((1, 2, _EVENTFD, _EVENTFD, _EVENTFD, 3))
    action = world.choose((8, _UNMASK, _TRIGGER, _TRIGGER, _TRIGGER, 24))
    count = world.choose((0, 1, 1, 1, 1, 2))
    fields = {"flags": kind | action, "index": index, "start": start, "count": count}
    if kind == _EVENTFD:
        data = [world.choose((0, 1, 2, 0, 1, 2, -1, 99)) for _ in range(count)]
    else:
        data = [world.choose((0, 1, 1)) for _ in range(count if kind == 2 else 0)]
    return [0, "irqs", _DEVICE, fields, data]


def _signal(world: World) -> Step:
    return [0, "signal", world.number(0, 1)]


def _ioeventfd(world: World) -> Step:
    fields = {
        "flags": world.choose((4, 4, 4, 1, 2, 8, 0, 16)),
        "offset": world.choose((4, 4, 0x80, 5, _CONFIG, 1 << 40)),
    }
    if fields["flags"] == 8:  # elsewhere QEMU takes it apart
        fields["offset"] &= -8
    return [0, "ioeventfd", _DEVICE, fields | {"data": world.choose((1, 2))}, world.choose((-1, 0, 1, 99))]


def _attach(world: World) -> Step:
    fields = {"pt_id": world.id("ioas", "table"), "flags": world.choose((0, 0, 0, 0, 0, 1, 2)), "pasid": 1}
    return world.call(_DEVICE, "ATTACH", **fields)


def _detach(world: World) -> Step:
    return world.call(_DEVICE, "DETACH", flags=world.choose((0, 0, 0, 0, 2)))


def _table(world: World) -> Step:
    fields = {"dev_id": world.id("device"), "pt_id": world.id("ioas", "table"), "flags": world.choose((0, 0, 0, 1, 8))}
    return world.call(world.iommufd(), "HWPT_ALLOC", **fields)


def _map(world: World) -> Step:
    iova = (
        _IOVA + PAGE * world.number(0, 7)
        if world.percent(90)
        else world.choose((0xFEE0_0000, (1 << 48) - PAGE, 1 << 48, 0))
    )
    user_va = MEMORY + PAGE * world.number(0, 15)
    fields = {"ioas_id": world.id("ioas"), "flags": world.choose((7, 7, 7, 6, 5, 3)), "user_va": user_va}
    return world.call(world.iommufd(), "MAP", **fields, length=PAGE * world.number(1, 4), iova=iova)


def _unmap(world: World) -> Step:
    iova, length = (0, (1 << 64) - 1) if world.percent(15) else (_IOVA + PAGE * world.number(0, 7), PAGE)
    return world.call(world.iommufd(), "UNMAP", ioas_id=world.id("ioas"), iova=iova, length=length)


def _ranges(world: World) -> Step:
    place = {"num_iovas": 8, "allowed_iovas": MEMORY + (64 << 20)}
    return world.call(world.iommufd(), "IOVA_RANGES", ioas_id=world.id("ioas"), **place)


def _dma(world: World) -> Step:
    return [0, "dma", _DEVICE, _IOVA + world.choose((0, 8, PAGE, PAGE - 8, 3 * PAGE)), world.choose((1, 16, 64))]


def _destroy(world: World) -> Step:
    return world.call(world.iommufd(), "DESTROY", id=world.id("ioas", "table", "device"))


def _reset(world: World) -> Step:
    return [0, "request", _DEVICE, 0x3B6F, 0]


def _hot_reset(world: World) -> Step:
    return world.call(_DEVICE, "HOT_RESET", flags=world.choose((0, 0, 1)), count=world.choose((0, 0, 1)))


def _hot_reset_info(world: World) -> Step:
    return world.call(_DEVICE, "HOT_RESET_INFO", argsz=world.choose((8, 12, 12, 64)))


def _feature(world: World) -> Step:
    """Probing and getting. Low power is asked of in tests/oracle: it begins a moment after the call."""
    flags = world.choose((3, 4, 5, 0, 9, 11)) | world.choose((1 << 16, 1 << 18, 1 << 18 | 1 << 17))
    return world.call(_DEVICE, "FEATURE", flags=flags)


def _info(world: World) -> Step:
    name = world.choose(("DEVICE_INFO", "REGION_INFO", "IRQ_INFO"))
    fields = {} if name == "DEVICE_INFO" else {"index": world.choose((1, 2, 6, 7, 8, 9, 3, 4, 5, U32_MAX))}
    return world.call(_DEVICE, name, **fields)


def _bind(world: World) -> Step:
    target = ["iommufd", 0] if world.percent(80) else world.choose((["memfd", 0], ["vfio", 0], -1, 998))
    return world.call(["vfio", world.number(0, 1)], "BIND", iommufd=target, flags=world.choose((0, 0, 0, 2)))


def _open(world: World) -> Step:
    return [0, "open", world.choose(("vfio", "vfio", "iommufd"))]


def _close(world: World) -> Step:
    return [0, "close", world.choose(("vfio", "vfio", "iommufd")), world.number(0, 1)]


def weighted(world: World) -> list[tuple[int, Make]]:
    """Every step of this kind, and how often it comes."""
    return [
        (8, _config),
        (8, _command),
        (4, _message),
        (6, _read_config),
        (6, _read_bar),
        (3, _write_bar),
        (24, _irqs),
        (16, _wire),
        (4, _signal),
        (3, _ioeventfd),
        (6, _attach),
        (3, _detach),
        (2, _table),
        (4, _map),
        (3, _unmap),
        (1, _ranges),
        (1, _dma),
        (2, _destroy),
        (3, _reset),
        (2, _hot_reset),
        (1, _hot_reset_info),
        (3, _feature),
        (3, _info),
        (1, _bind),
        (1, _open),
        (1, _close),
    ]
