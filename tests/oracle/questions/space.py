"""An IOAS without devices: MAP, UNMAP, COPY, ranges, options."""

from __future__ import annotations

import mmap
import os
import struct

from questions.calls import (
    MEMORY,
    NOWHERE,
    PAGE,
    PRIVATE,
    U32_MAX,
    ULONG_MAX,
    Files,
    ask,
    memory,
    must,
    peek,
    poke,
    protect_memory,
    say,
)
from questions.shapes import (
    ALLOW_IOVAS,
    CHANGE_PROCESS,
    COPY,
    DESTROY,
    FIXED,
    IOAS_ALLOC,
    IOVA_RANGES,
    MAP,
    MAP_FILE,
    OPS,
    OPTION,
    READABLE,
    RESERVE,
    RW,
    UNMAP,
    WRITEABLE,
)

MiB = 1 << 20


def alloc(fd: int) -> int:
    """A new IOAS; its id."""
    return must(fd, IOAS_ALLOC)["out_ioas_id"]


def ranges_of(label: str, fd: int, ioas: int, room: int = 8) -> None:
    """Write what IOVA_RANGES says."""
    where = MEMORY + 0x1000_0000
    with memory(PAGE, where):
        poke(where, b"\x55" * PAGE)
        answer = ask(label, fd, IOVA_RANGES, ioas_id=ioas, num_iovas=room, allowed_iovas=where)
        shown = min(answer["num_iovas"], room)
        text = peek(where, 16 * shown + 8)
        pairs = ", ".join(f"{a:#x}-{b:#x}" for a, b in struct.iter_unpack("<QQ", text[:-8]))
        say(f"{label}: the ranges", f"{pairs} then {text[-8:].hex()}")


def allow(label: str, fd: int, ioas: int, *pairs: tuple[int, int]) -> None:
    """Ask for these ranges to be the allowed ones."""
    where = MEMORY + 0x1000_0000
    with memory(PAGE, where):
        poke(where, b"".join(struct.pack("<QQ", *pair) for pair in pairs))
        ask(label, fd, ALLOW_IOVAS, ioas_id=ioas, num_iovas=len(pairs), allowed_iovas=where)


def reserve(label: str, fd: int, ioas: int, start: int, length: int) -> None:
    """Ask for a reserved range (the selftests' operation)."""
    ask(label, fd, RESERVE, op=OPS["ADD_RESERVED"], id=ioas, start=start, length=length)


def ids() -> None:
    """Ids and DESTROY."""
    with Files() as files:
        fd = files.iommufd()
        ask("destroy 0", fd, DESTROY, id=0)
        ask("destroy 1 before there is one", fd, DESTROY, id=1)
        ask("destroy 2**32-1", fd, DESTROY, id=U32_MAX)
        ask("alloc with flags", fd, IOAS_ALLOC, flags=1)
        ask("alloc with the highest flag", fd, IOAS_ALLOC, flags=1 << 31)
        ask("alloc with a value in out", fd, IOAS_ALLOC, out_ioas_id=77)
        for index in range(2, 5):
            ask(f"alloc {index}", fd, IOAS_ALLOC)
        ask("destroy 2", fd, DESTROY, id=2)
        ask("destroy 2 again", fd, DESTROY, id=2)
        ask("alloc after destroy", fd, IOAS_ALLOC)
        ask("destroy 1", fd, DESTROY, id=1)
        ask("destroy 3", fd, DESTROY, id=3)
        ask("the lower of two free ids", fd, IOAS_ALLOC)
        ask("the other", fd, IOAS_ALLOC)
        ask("a new one", fd, IOAS_ALLOC)


def map_checks() -> None:
    """What MAP refuses, and what wins when two things are wrong."""
    with Files() as files, memory(4 * PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        fine = {"ioas_id": ioas, "user_va": MEMORY, "length": PAGE, "iova": 16 * MiB, "flags": FIXED | RW}

        def tried(label: str, **values: int) -> None:
            ask(label, fd, MAP, **{**fine, **values})

        tried("unknown flag", flags=FIXED | RW | 8)
        tried("highest flag", flags=FIXED | RW | 1 << 31)
        tried("reserved", __reserved=1)
        tried("no access", flags=FIXED)
        tried("no flags", flags=0)
        tried("id 0", ioas_id=0)
        tried("unknown id", ioas_id=99)
        tried("length 0", length=0)
        tried("length max", length=ULONG_MAX)
        tried("length max-1", length=ULONG_MAX - 1)
        tried("length max - page", length=ULONG_MAX - PAGE)
        tried("length max - page, from 0", length=ULONG_MAX - PAGE, user_va=0)
        tried("length max - page - 1, from 0, at 0", length=ULONG_MAX - PAGE - 1, user_va=0, iova=0)
        tried("length 2**63", length=1 << 63, iova=0)
        tried("iova max", iova=ULONG_MAX)
        tried("iova max-1", iova=ULONG_MAX - 1)
        tried("iova max-1, one byte", iova=ULONG_MAX - 1, length=1)
        tried("iova max-1, two bytes", iova=ULONG_MAX - 1, length=2)
        tried("last page of IOVA", iova=ULONG_MAX - PAGE + 1)
        tried("beyond the last page of IOVA", iova=ULONG_MAX - PAGE + 1, length=PAGE + 1)
        tried("last but one page of IOVA", iova=ULONG_MAX - 2 * PAGE + 1)
        tried("user address max", user_va=ULONG_MAX)
        tried("user address max, one byte", user_va=ULONG_MAX, length=1)
        tried("user address that wraps", user_va=ULONG_MAX - PAGE + 1, length=2 * PAGE)
        tried("user address in the kernel", user_va=0xFFFF_8880_0000_0000, iova=0x100_0000_0000)
        tried("user address 0", user_va=0, iova=0x101_0000_0000)
        tried("user address nowhere", user_va=NOWHERE, iova=0x102_0000_0000)
        tried("flags and id", flags=0x80, ioas_id=99)
        tried("reserved and iova", __reserved=1, iova=ULONG_MAX)
        tried("iova and access", iova=ULONG_MAX, flags=FIXED)
        tried("access and id", flags=FIXED, ioas_id=99)
        tried("id and length", ioas_id=99, length=0)
        tried("length 0 and a wrap of the user address", length=0, user_va=ULONG_MAX)
        tried("wrap of both", user_va=ULONG_MAX - 8, iova=ULONG_MAX - 8, length=PAGE)
        tried("overlap and wrap of the user address", user_va=ULONG_MAX - 8)
        tried("fine")
        tried("the same again")
        tried("overlapping the start by a byte", iova=16 * MiB - 1, length=2)
        tried("overlapping the end by a byte", iova=16 * MiB + PAGE - 1, length=2)
        tried("touching the start", iova=16 * MiB - 1, length=1)
        tried("touching the end", iova=16 * MiB + PAGE, length=1)
        tried("odd everything", iova=0x1234567, user_va=MEMORY + 5, length=7)
        tried("iova 0", iova=0)
        tried("iova 0 and length 0", iova=0, length=0)
        tried("write only", iova=0x200_0000_0000, flags=FIXED | WRITEABLE)
        tried("read only", iova=0x201_0000_0000, flags=FIXED | READABLE)
        ask("destroy with mappings", fd, DESTROY, id=ioas)
        tried("destroyed")


def unmap_checks() -> None:
    """UNMAP: parts, wholes, nothing, everything."""
    with Files() as files, memory(16 * PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)

        def put(iova: int, length: int = PAGE) -> None:
            must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=length, iova=iova, flags=FIXED | RW)

        def tried(label: str, iova: int, length: int, target: int = ioas) -> None:
            ask(label, fd, UNMAP, ioas_id=target, iova=iova, length=length)

        base = 16 * MiB
        tried("everything of nothing", 0, ULONG_MAX)
        tried("something of nothing", base, PAGE)
        tried("length 0 of nothing", base, 0)
        tried("unknown id", base, PAGE, 99)
        tried("unknown id and overflow", ULONG_MAX, PAGE, 99)
        tried("iova max", ULONG_MAX, 1)
        tried("length max from 1", 1, ULONG_MAX)
        tried("length max-1 from 0", 0, ULONG_MAX - 1)
        tried("length max-1 from 2", 2, ULONG_MAX - 1)
        tried("wraps", 1 << 63, 1 << 63)
        tried("wraps by one", 1 << 63, (1 << 63) + 1)
        put(base, 4 * PAGE)
        tried("start of an area", base, PAGE)
        tried("end of an area", base + 3 * PAGE, PAGE)
        tried("middle", base + PAGE, PAGE)
        tried("one byte short", base, 4 * PAGE - 1)
        tried("one byte late", base + 1, 4 * PAGE - 1)
        tried("one byte more", base, 4 * PAGE + 1)
        put(base, 4 * PAGE)
        tried("one byte more in front", base - 1, 4 * PAGE + 1)
        for index in range(3):
            put(base + index * 4 * PAGE, PAGE)
        tried("two areas with a hole", base, 5 * PAGE)
        tried("a hole", base + PAGE, PAGE)
        put(base)
        put(base + PAGE)
        put(base + 2 * PAGE, 2 * PAGE)
        tried("two and a half", base, 3 * PAGE)
        tried("what is left then", 0, ULONG_MAX - 1)
        tried("all, none left", 0, ULONG_MAX)
        put(base)
        put(base + PAGE, 2 * PAGE)
        tried("half an area first", base + 2 * PAGE, 4 * PAGE)
        tried("all of both", base, 3 * PAGE)
        put(0)
        put(ULONG_MAX - 2 * PAGE + 1)
        tried("all but the last byte of IOVA", 0, ULONG_MAX - 1)
        put(0)
        tried("everything", 0, ULONG_MAX)
        put(base, 3)
        tried("odd bytes", base, 3)


def ranges() -> None:
    """IOVA_RANGES and ALLOW_IOVAS, with reserved ranges."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        ask("reserved", fd, IOVA_RANGES, ioas_id=ioas, __reserved=1)
        ask("reserved and unknown id", fd, IOVA_RANGES, ioas_id=99, __reserved=1)
        ask("unknown id", fd, IOVA_RANGES, ioas_id=99)
        ask("no room", fd, IOVA_RANGES, ioas_id=ioas)
        ask("room at NULL", fd, IOVA_RANGES, ioas_id=ioas, num_iovas=1)
        ranges_of("fresh", fd, ioas)
        reserve("reserve length 0", fd, ioas, 5, 0)
        reserve("reserve wraps", fd, ioas, ULONG_MAX, 2)
        reserve("reserve to the end", fd, ioas, ULONG_MAX, 1)
        reserve("reserve unknown id", fd, 99, 5, 1)
        reserve("reserve unknown id and length 0", fd, 99, 5, 0)
        reserve("reserve bytes 5 to 9", fd, ioas, 5, 5)
        reserve("reserve bytes 10 to 19", fd, ioas, 10, 10)
        reserve("reserve bytes 8 to 11", fd, ioas, 8, 4)
        reserve("reserve bytes 5 to 9 again", fd, ioas, 5, 5)
        ranges_of("reserved ones", fd, ioas)
        ranges_of("too little room", fd, ioas, 1)
        ranges_of("exactly enough", fd, ioas, 2)
        allow("allow reserved", fd, ioas, (0, 30))
        allow("allow start above last", fd, ioas, (31, 30))
        allow("allow one byte", fd, ioas, (30, 30))
        allow("allow overlapping", fd, ioas, (30, 40), (40, 50))
        allow("allow touching", fd, ioas, (30, 39), (40, 50))
        allow("allow reserved and a bad one", fd, ioas, (0, 30), (40, 39))
        reserve("reserve allowed", fd, ioas, 45, 1)
        reserve("reserve around allowed", fd, ioas, 25, 100)
        allow("allow descending", fd, ioas, (60, 70), (30, 39))
        reserve("reserve what was allowed", fd, ioas, 45, 1)
        allow("allow nothing", fd, ioas)
        reserve("reserve what was allowed before that", fd, ioas, 60, 1)
        allow("allow to the end", fd, ioas, (MiB, ULONG_MAX))
        allow("allow to the last byte but one", fd, ioas, (MiB, ULONG_MAX - 1))
        ranges_of("after all that", fd, ioas)
        ask("allow: reserved", fd, ALLOW_IOVAS, ioas_id=ioas, __reserved=1)
        ask("allow: reserved and unknown id", fd, ALLOW_IOVAS, ioas_id=99, __reserved=1)
        ask("allow: unknown id and NULL", fd, ALLOW_IOVAS, ioas_id=99, num_iovas=1)
        with memory(PAGE):
            must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=2 * MiB, flags=FIXED | RW)
            reserve("reserve what is mapped", fd, ioas, 2 * MiB, 1)
            must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=64, flags=FIXED | RW)
            say("fixed outside the allowed ranges", "mapped")
            ask("fixed on reserved", fd, MAP, ioas_id=ioas, user_va=MEMORY, length=8, iova=0, flags=FIXED | RW)
            ask(
                "fixed on reserved and mapped",
                fd,
                MAP,
                ioas_id=ioas,
                user_va=MEMORY,
                length=99,
                iova=0,
                flags=FIXED | RW,
            )
            allow("allow what is mapped", fd, ioas, (2 * MiB, 3 * MiB))


def copies() -> None:
    """COPY within and between address spaces."""
    with Files() as files, memory(16 * PAGE):
        fd = files.iommufd()
        one, two = alloc(fd), alloc(fd)
        base, there = 16 * MiB, 32 * MiB
        must(fd, MAP, ioas_id=one, user_va=MEMORY, length=2 * PAGE, iova=base, flags=FIXED | RW)
        must(fd, MAP, ioas_id=one, user_va=MEMORY + 4 * PAGE, length=2 * PAGE, iova=base + 2 * PAGE, flags=FIXED | RW)
        must(fd, MAP, ioas_id=one, user_va=MEMORY, length=PAGE, iova=base + 5 * PAGE, flags=FIXED | READABLE)
        fine = {
            "src_ioas_id": one,
            "dst_ioas_id": two,
            "src_iova": base,
            "dst_iova": there,
            "length": PAGE,
            "flags": FIXED | RW,
        }

        def tried(label: str, **values: int) -> None:
            ask(label, fd, COPY, **{**fine, **values})

        tried("unknown flag", flags=8)
        tried("no access", flags=FIXED)
        tried("length 0", length=0)
        tried("length max", length=ULONG_MAX)
        tried("src max", src_iova=ULONG_MAX)
        tried("dst max", dst_iova=ULONG_MAX)
        tried("dst max without fixed", dst_iova=ULONG_MAX, flags=RW)
        tried("length max-1", length=ULONG_MAX - 1)
        tried("unknown source", src_ioas_id=99)
        tried("unknown target", dst_ioas_id=99)
        tried("both unknown", src_ioas_id=99, dst_ioas_id=98)
        tried("hole and unknown target", src_iova=base + 4 * PAGE, dst_ioas_id=99)
        tried("overflow and access", dst_iova=ULONG_MAX, flags=FIXED)
        tried("access and unknown source", flags=FIXED, src_ioas_id=99)
        tried("length 0 and unknown target", length=0, dst_ioas_id=99)
        tried("hole", src_iova=base + 4 * PAGE)
        tried("into a hole", src_iova=base + 3 * PAGE, length=2 * PAGE)
        tried("out of a hole", src_iova=base + 4 * PAGE, length=2 * PAGE)
        tried("before", src_iova=base - 1, length=2)
        tried("a page")
        tried("again")
        tried("two areas", length=4 * PAGE, dst_iova=there + MiB)
        tried("one and a half", length=3 * PAGE, dst_iova=there + 2 * MiB)
        tried("odd bytes", src_iova=base + 5, length=511, dst_iova=there + 3 * MiB + 7)
        tried("odd bytes of two areas", src_iova=base + 2 * PAGE - 5, length=11, dst_iova=there + 4 * MiB + 1)
        tried("read-only becomes writeable", src_iova=base + 5 * PAGE, dst_iova=there + 5 * MiB)
        tried("read-only stays", src_iova=base + 5 * PAGE, dst_iova=there + 6 * MiB, flags=FIXED | READABLE)
        tried("writeable becomes read-only", dst_iova=there + 7 * MiB, flags=FIXED | READABLE)
        tried("within", dst_ioas_id=one, dst_iova=base + 6 * PAGE)
        tried("within, overlapping", dst_ioas_id=one, dst_iova=base + PAGE)
        tried("beyond the end of IOVA", dst_iova=ULONG_MAX - 8)
        tried("automatic", flags=RW)
        tried("automatic, odd", flags=RW, src_iova=base + 5, length=7)
        tried("automatic, two areas", flags=RW, length=4 * PAGE)
        ask("unmap the source", fd, UNMAP, ioas_id=one, iova=0, length=ULONG_MAX)
        ask("unmap a part of a copy of two", fd, UNMAP, ioas_id=two, iova=there + MiB, length=2 * PAGE)
        ask("unmap a quarter", fd, UNMAP, ioas_id=two, iova=there + MiB + 2 * PAGE, length=PAGE)
        ask("copy the copy", fd, COPY, **{**fine, "src_ioas_id": two, "dst_ioas_id": one, "src_iova": there})
        ask("destroy the target", fd, DESTROY, id=two)
        ask("what is left", fd, UNMAP, ioas_id=one, iova=0, length=ULONG_MAX)


def options() -> None:
    """OPTION: RLIMIT_MODE and HUGE_PAGES."""
    with Files() as files, memory(16 * PAGE):
        fd = files.iommufd()

        def tried(label: str, option: int, op: int, target: int = 0, value: int = 0, reserved: int = 0) -> None:
            ask(label, fd, OPTION, option_id=option, op=op, object_id=target, val64=value, __reserved=reserved)

        tried("rlimit get", 0, 1, value=55)
        tried("rlimit get of an object", 0, 1, target=1)
        tried("rlimit set 1", 0, 0, value=1)
        tried("rlimit get after set", 0, 1)
        tried("rlimit set 2", 0, 0, value=2)
        tried("rlimit set 2**32", 0, 0, value=1 << 32)
        tried("rlimit set 0", 0, 0)
        tried("rlimit op 2", 0, 2)
        tried("rlimit reserved", 0, 1, reserved=1)
        tried("option 2", 2, 1)
        tried("option 2 reserved", 2, 1, reserved=1)
        tried("huge id 0", 1, 1)
        ioas = alloc(fd)
        tried("rlimit set with objects", 0, 0, value=1)
        tried("rlimit set 2 with objects", 0, 0, value=2)
        tried("rlimit get with objects", 0, 1)
        tried("huge get", 1, 1, ioas)
        tried("huge set 2", 1, 0, ioas, 2)
        tried("huge op 2", 1, 2, ioas)
        tried("huge set 1", 1, 0, ioas, 1)
        tried("huge set 0", 1, 0, ioas, 0)
        tried("huge get after set", 1, 1, ioas)
        ranges_of("alignment without huge pages", fd, ioas)
        ask("byte-wise map", fd, MAP, ioas_id=ioas, user_va=MEMORY + 1, length=3, iova=MiB + 1, flags=FIXED | RW)
        ask(
            "page-wise map, other offset",
            fd,
            MAP,
            ioas_id=ioas,
            user_va=MEMORY + 1,
            length=PAGE,
            iova=MiB,
            flags=FIXED | RW,
        )
        ask("page-wise map", fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=MiB, flags=FIXED | RW)
        ask("automatic odd map", fd, MAP, ioas_id=ioas, user_va=MEMORY + 8, length=16, flags=RW)
        ask("automatic map", fd, MAP, ioas_id=ioas, user_va=MEMORY, length=3 * PAGE, flags=RW)
        ask("automatic half", fd, MAP, ioas_id=ioas, user_va=MEMORY + 2048, length=4096, flags=RW)
        tried("huge set 1 again", 1, 0, ioas, 1)
        ask(
            "byte-wise map again",
            fd,
            MAP,
            ioas_id=ioas,
            user_va=MEMORY + 1,
            length=3,
            iova=4 * MiB + 1,
            flags=FIXED | RW,
        )
        tried("huge set 0 with odd areas", 1, 0, ioas, 0)
        tried("huge get then", 1, 1, ioas)
        tried("huge of an unknown id", 1, 0, 99, 2)


def files_to_map() -> None:
    """MAP_FILE with every sort of descriptor."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        memfd = files.keep(os.memfd_create("probe"))
        os.ftruncate(memfd, 4 * PAGE)
        fine = {"ioas_id": ioas, "fd": memfd, "length": PAGE, "iova": 16 * MiB, "flags": FIXED | RW}

        def tried(label: str, **values: int) -> None:
            ask(label, fd, MAP_FILE, **{**fine, **values})

        tried("unknown flag", flags=8)
        tried("no access", flags=FIXED)
        tried("iova max", iova=ULONG_MAX)
        tried("length max", length=ULONG_MAX)
        tried("iova max and no access", iova=ULONG_MAX, flags=FIXED)
        tried("unknown id and bad fd", ioas_id=99, fd=-1)
        tried("unknown id and no access", ioas_id=99, flags=FIXED)
        tried("fd -1", fd=-1)
        tried("fd 999", fd=999)
        tried("fd 999 and length 0", fd=999, length=0)
        tried("fd 999 and a wrap", fd=999, start=ULONG_MAX, length=2)
        tried("length 0", length=0)
        tried("start that wraps", start=ULONG_MAX - PAGE + 1, length=2 * PAGE)
        tried("start max", start=ULONG_MAX, length=1)
        tried("start 2**63, no such page", start=1 << 63, iova=0x100_0000_0000)
        tried("beyond the end", start=4 * PAGE, iova=0x101_0000_0000)
        tried("over the end", start=3 * PAGE, length=2 * PAGE, iova=0x102_0000_0000)
        tried("fine")
        tried("overlap")
        tried("odd", start=5, length=7, iova=20 * MiB + 3)
        tried("automatic", start=PAGE, flags=RW)
        tried("automatic, from the fourth page", start=3 * PAGE, flags=RW)
        tried("automatic, odd", start=5, length=7, flags=RW)
        tried("iommufd as file", fd=fd, iova=30 * MiB)
        tried("eventfd as file", fd=files.eventfd(), iova=31 * MiB)
        tried("read-only file", fd=files.open("/proc/self/exe", os.O_RDONLY), iova=32 * MiB)
        ask("change process with files", fd, CHANGE_PROCESS)
        ask("change process, reserved", fd, CHANGE_PROCESS, __reserved=1)
        ask("unmap all", fd, UNMAP, ioas_id=ioas, iova=0, length=ULONG_MAX)
        ask("change process with nothing", fd, CHANGE_PROCESS)
        with memory(PAGE):
            must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=MiB, flags=FIXED | RW)
            ask("change process with user memory", fd, CHANGE_PROCESS)


def wrong_types() -> None:
    """Memory that cannot be pinned does not matter while there is no page table."""
    with Files() as files, memory(4 * PAGE, flags=PRIVATE):
        fd = files.iommufd()
        ioas = alloc(fd)
        protect_memory(MEMORY + PAGE, PAGE, mmap.PROT_READ)
        protect_memory(MEMORY + 2 * PAGE, PAGE, 0)
        for index in range(5):
            iova = (16 + index) * MiB
            ask(
                f"page {index}",
                fd,
                MAP,
                ioas_id=ioas,
                user_va=MEMORY + index * PAGE,
                length=PAGE,
                iova=iova,
                flags=FIXED | RW,
            )


SECTIONS = (ids, map_checks, unmap_checks, ranges, copies, options, files_to_map, wrong_types)
