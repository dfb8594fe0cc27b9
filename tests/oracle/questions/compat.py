"""An iommufd in the place of a VFIO container: IOMMU_VFIO_IOAS and the container's requests."""

from __future__ import annotations

import struct

from questions.calls import (
    MEMORY,
    NOWHERE,
    PAGE,
    ULONG_MAX,
    Files,
    ask,
    memory,
    must,
    outcome,
    peek,
    poke,
    raw_ioctl,
    say,
)
from questions.shapes import (
    DESTROY,
    FIXED,
    MAP,
    MOCK,
    OPS,
    OPTION,
    RW,
    UNMAP,
    VFIO_DMA_MAP,
    VFIO_DMA_UNMAP,
    VFIO_INFO,
    VFIO_IOAS,
)
from questions.space import MiB, alloc, reserve

GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU = 0x3B64, 0x3B65, 0x3B66
GET, SET, CLEAR = 0, 1, 2


def vfio_ioas() -> None:
    """The compatibility IOAS."""
    with Files() as files:
        fd = files.iommufd()
        ask("get without one", fd, VFIO_IOAS, op=GET)
        ask("get, reserved", fd, VFIO_IOAS, op=GET, __reserved=1)
        ask("set 0", fd, VFIO_IOAS, op=SET)
        ask("set unknown", fd, VFIO_IOAS, op=SET, ioas_id=5)
        ask("clear without one", fd, VFIO_IOAS, op=CLEAR)
        ask("clear with an id", fd, VFIO_IOAS, op=CLEAR, ioas_id=5)
        ask("op 3", fd, VFIO_IOAS, op=3)
        ask("op 3, reserved", fd, VFIO_IOAS, op=3, __reserved=1)
        one, two = alloc(fd), alloc(fd)
        ask("set", fd, VFIO_IOAS, op=SET, ioas_id=one)
        ask("get", fd, VFIO_IOAS, op=GET, ioas_id=77)
        ask("set another", fd, VFIO_IOAS, op=SET, ioas_id=two)
        ask("get another", fd, VFIO_IOAS, op=GET)
        ask("destroy it", fd, DESTROY, id=two)
        ask("get after destroy", fd, VFIO_IOAS, op=GET)
        ask("set the first again", fd, VFIO_IOAS, op=SET, ioas_id=one)
        ask("clear", fd, VFIO_IOAS, op=CLEAR)
        ask("get after clear", fd, VFIO_IOAS, op=GET)
        ask("the IOAS is still there", fd, DESTROY, id=one)
        device = must(fd, MOCK, op=OPS["MOCK_DOMAIN"], id=alloc(fd))
        ask("set a device", fd, VFIO_IOAS, op=SET, ioas_id=device["out_idev_id"])
        ask("set a page table", fd, VFIO_IOAS, op=SET, ioas_id=device["out_hwpt_id"])


def _extensions(fd: int, when: str) -> None:
    say(f"{when}: API version", outcome(raw_ioctl(fd, GET_API_VERSION, 0)))
    for number in (*range(12), -1, 1 << 32 | 1):
        argument = number & ULONG_MAX
        say(f"{when}: CHECK_EXTENSION {number}", outcome(raw_ioctl(fd, CHECK_EXTENSION, argument)))


def _set_iommus(fd: int, when: str) -> None:
    for kind in (0, 1, 2, 3, 6, 7, 8, 9, 1 << 32 | 1):
        say(f"{when}: SET_IOMMU {kind}", outcome(raw_ioctl(fd, SET_IOMMU, kind)))


def without() -> None:
    """Container requests on an iommufd without a compatibility IOAS."""
    with Files() as files, memory(PAGE):
        fd = files.iommufd()
        _extensions(fd, "fresh")
        _set_iommus(fd, "fresh")
        ask("map", fd, VFIO_DMA_MAP, flags=3, vaddr=MEMORY, size=PAGE)
        ask("map, argsz", fd, VFIO_DMA_MAP, argsz=31, flags=3, vaddr=MEMORY, size=PAGE)
        ask("map, flags", fd, VFIO_DMA_MAP, flags=7, vaddr=MEMORY, size=PAGE)
        ask("map, length 0", fd, VFIO_DMA_MAP, flags=3)
        ask("unmap", fd, VFIO_DMA_UNMAP, size=PAGE)
        ask("unmap, argsz", fd, VFIO_DMA_UNMAP, argsz=23)
        ask("unmap, dirty bitmap", fd, VFIO_DMA_UNMAP, flags=1)
        ask("unmap all", fd, VFIO_DMA_UNMAP, flags=2)
        ask("info", fd, VFIO_INFO)
        ask("info, argsz 15", fd, VFIO_INFO, argsz=15)
        ask("info, argsz 16", fd, VFIO_INFO, argsz=16)
        for request in range(0x3B64, 0x3B7A):
            if request not in (GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU):
                say(f"request {request:#x} at NULL", outcome(raw_ioctl(fd, request, 0)))
                poke(MEMORY, bytes(64))
                say(f"request {request:#x} with zeros", outcome(raw_ioctl(fd, request, MEMORY)))


def with_one() -> None:
    """Container requests with a compatibility IOAS."""
    with Files() as files, memory(16 * PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        must(fd, VFIO_IOAS, op=SET, ioas_id=ioas)
        _extensions(fd, "set")

        def mapped(label: str, **values: int) -> None:
            fine = {"flags": 3, "vaddr": MEMORY, "iova": MiB, "size": PAGE}
            ask(f"map {label}", fd, VFIO_DMA_MAP, **{**fine, **values})

        def unmapped(label: str, **values: int) -> None:
            ask(f"unmap {label}", fd, VFIO_DMA_UNMAP, **{"iova": MiB, "size": PAGE, **values})

        mapped("argsz 0", argsz=0)
        mapped("argsz too large", argsz=4096, iova=0x1000)
        mapped("flag VADDR", flags=7)
        mapped("no access", flags=0, iova=0x2000)
        mapped("read", flags=1, iova=0x4000)
        mapped("write", flags=2, iova=0x6000)
        mapped("size 0", size=0)
        mapped("size max", size=ULONG_MAX)
        mapped("iova max", iova=ULONG_MAX)
        mapped("iova wraps", iova=ULONG_MAX - 8)
        mapped("vaddr wraps", vaddr=ULONG_MAX - 8)
        mapped("iova max, a byte", iova=ULONG_MAX, size=1)
        mapped("fine")
        mapped("overlap")
        mapped("odd", vaddr=MEMORY + 3, size=5, iova=2 * MiB + 1)
        mapped("nowhere", vaddr=NOWHERE, iova=3 * MiB)
        unmapped("argsz", argsz=20)
        unmapped("flag 4", flags=4)
        unmapped("all with a size", flags=2)
        unmapped("all with an iova", flags=2, size=0)
        unmapped("size 0", size=0)
        unmapped("nothing there", iova=16 * MiB)
        unmapped("wraps", iova=ULONG_MAX, size=2)
        unmapped("everything as a range", iova=0, size=ULONG_MAX)
        mapped("four pages", size=4 * PAGE)
        unmapped("the first page")
        unmapped("a middle page", iova=MiB + PAGE)
        unmapped("a page too many", size=5 * PAGE)
        unmapped("all", flags=2, iova=0, size=0)
        unmapped("all of nothing", flags=2, iova=0, size=0)
        _set_iommus(fd, "set")
        ask("huge pages after type 1", fd, OPTION, option_id=1, op=1, object_id=ioas)
        for index in range(2):
            mapped(f"{index} eight pages", size=8 * PAGE)
            unmapped(f"{index} the first page, cut")
            unmapped(f"{index} a middle page, cut", iova=MiB + 3 * PAGE)
            unmapped(f"{index} the same again", iova=MiB + 3 * PAGE)
            unmapped(f"{index} half a page", iova=MiB + 4 * PAGE, size=PAGE // 2)
            unmapped(f"{index} across a hole", iova=MiB + 2 * PAGE, size=3 * PAGE)
            unmapped(f"{index} size 0, cut", iova=MiB + 6 * PAGE, size=0)
            unmapped(f"{index} wraps, cut", iova=MiB + 6 * PAGE, size=ULONG_MAX)
            unmapped(f"{index} from 0, cut", iova=0, size=MiB + 6 * PAGE)
            ask(f"{index} the rest by UNMAP", fd, UNMAP, ioas_id=ioas, iova=0, length=ULONG_MAX)
            say(f"{index} SET_IOMMU 3 again", outcome(raw_ioctl(fd, SET_IOMMU, 3)))
        ask("odd area with pages", fd, MAP, ioas_id=ioas, user_va=MEMORY, length=3, iova=MiB, flags=FIXED | RW)


def info() -> None:
    """VFIO_IOMMU_GET_INFO for every argsz, in front of an IOAS and of one with a device."""
    with Files() as files, memory(PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        must(fd, VFIO_IOAS, op=SET, ioas_id=ioas)
        _infos(fd, "no device", (0, 15, 16, 20, 23, 24, 25, 39, 40, 41, 48, 55, 56, 63, 64, 65, 72, 79, 80, 4096))
        reserve("reserve", fd, ioas, 16 * MiB, MiB)
        _infos(fd, "a hole", (24, 40, 48, 72, 79, 80, 96))
        must(fd, MOCK, op=OPS["MOCK_DOMAIN"], id=ioas)
        _infos(fd, "a device", (16, 4096))
        _extensions(fd, "a device")
        _set_iommus(fd, "a device")
        _infos(fd, "a device, small pages", (4096,))
        poke(MEMORY + PAGE - 24, struct.pack("<I", 4096))
        say("capabilities beyond memory", outcome(raw_ioctl(fd, VFIO_INFO.request, MEMORY + PAGE - 24)))
        poke(MEMORY + PAGE - 16, struct.pack("<I", 4096))
        say("all beyond memory", outcome(raw_ioctl(fd, VFIO_INFO.request, MEMORY + PAGE - 16)))
        say("at NULL", outcome(raw_ioctl(fd, VFIO_INFO.request, 0)))


def _infos(fd: int, when: str, sizes: tuple[int, ...]) -> None:
    for argsz in sizes:
        poke(MEMORY, struct.pack("<I", argsz) + b"\x55" * 252)
        result = raw_ioctl(fd, VFIO_INFO.request, MEMORY)
        say(f"{when}: argsz {argsz}", f"{outcome(result)} {peek(MEMORY, 112).hex()}")


SECTIONS = (vfio_ioas, without, with_one, info)
