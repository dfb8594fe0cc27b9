"""Page tables and mock devices: HWPT_ALLOC, attach, replace, automatic domains, GET_HW_INFO, memory that must be pinned."""

from __future__ import annotations

import mmap
import os

from questions.calls import (
    MEMORY,
    NOWHERE,
    PAGE,
    PRIVATE,
    U32_MAX,
    ULONG_MAX,
    Files,
    ask,
    map_memory,
    memory,
    must,
    peek,
    poke,
    protect_memory,
    say,
    unmap_memory,
)
from questions.shapes import (
    CHECK_CACHE,
    CHECK_IOTLB,
    CHECK_MAP,
    CHECK_REFS,
    COPY,
    DESTROY,
    FIXED,
    GET_HW_INFO,
    HWPT_ALLOC,
    IOAS_ALLOC,
    MAP,
    MAP_FILE,
    MEMORY_LIMIT,
    MOCK,
    OPS,
    OPTION,
    PASID,
    READABLE,
    REPLACE,
    RW,
    TEST,
    UNMAP,
    WRITEABLE,
)
from questions.space import MiB, alloc, allow, ranges_of, reserve

NO_DIRTY, WITH_PASID = 1, 4


def mock(fd: int, pt: int, flags: int = 0) -> tuple[int, int, int]:
    """A new mock device attached to `pt`: ids of the device's handle, its page table, the device."""
    answer = must(fd, MOCK, op=OPS["MOCK_DOMAIN_FLAGS"], id=pt, dev_flags=flags)
    return answer["out_stdev_id"], answer["out_hwpt_id"], answer["out_idev_id"]


def check_map(label: str, fd: int, table: int, iova: int, length: int, address: int) -> None:
    """Ask whether `table` translates to the frames of this process's memory."""
    ask(label, fd, CHECK_MAP, op=OPS["MD_CHECK_MAP"], id=table, iova=iova, length=length, uptr=address)


def check_refs(label: str, fd: int, address: int, length: int, refs: int) -> None:
    """Ask whether each page is pinned `refs` times."""
    ask(label, fd, CHECK_REFS, op=OPS["MD_CHECK_REFS"], length=length, uptr=address, refs=refs)


def devices() -> None:
    """Mock devices: ids, automatic page tables, what DESTROY wants."""
    with Files() as files:
        fd = files.iommufd()
        ask("mock of id 0", fd, MOCK, op=2)
        ask("mock of unknown id", fd, MOCK, op=2, id=99)
        one = alloc(fd)
        two = alloc(fd)
        answer = ask("mock", fd, MOCK, op=2, id=one)
        handle, table, device = (answer[name] for name in ("out_stdev_id", "out_hwpt_id", "out_idev_id"))
        second = ask("a second mock on the IOAS", fd, MOCK, op=2, id=one)
        third = ask("a mock on the automatic table", fd, MOCK, op=2, id=table)
        ask("unknown flags", fd, MOCK, op=12, id=one, dev_flags=2)
        ask("a mock on a device", fd, MOCK, op=2, id=device)
        ask("a mock on a handle", fd, MOCK, op=2, id=handle)
        ask("next id", fd, IOAS_ALLOC)
        ask("destroy the IOAS", fd, DESTROY, id=one)
        ask("destroy the table", fd, DESTROY, id=table)
        ask("destroy the device", fd, DESTROY, id=device)
        ask("replace by the same table", fd, REPLACE, op=10, id=handle, pt_id=table)
        ask("replace by the same IOAS", fd, REPLACE, op=10, id=handle, pt_id=one)
        ask("replace by another IOAS", fd, REPLACE, op=10, id=handle, pt_id=two)
        ask("replace by unknown", fd, REPLACE, op=10, id=handle, pt_id=99)
        ask("replace by a device", fd, REPLACE, op=10, id=handle, pt_id=device)
        ask("replace of a device", fd, REPLACE, op=10, id=device, pt_id=one)
        ask("replace of unknown", fd, REPLACE, op=10, id=99, pt_id=one)
        ask("replace of an IOAS", fd, REPLACE, op=10, id=one, pt_id=one)
        ranges_of("ranges of the first", fd, one)
        ranges_of("ranges of the second", fd, two)
        ask("destroy the first handle", fd, DESTROY, id=handle)
        ask("destroy it again", fd, DESTROY, id=handle)
        ask("its device is gone", fd, DESTROY, id=device)
        ask("destroy the second IOAS", fd, DESTROY, id=two)
        ask("destroy the second handle", fd, DESTROY, id=second["out_stdev_id"])
        ask("the table is still there", fd, DESTROY, id=table)
        ask("destroy the third handle", fd, DESTROY, id=third["out_stdev_id"])
        ask("the table is gone", fd, DESTROY, id=table)
        ask("the first IOAS is free", fd, DESTROY, id=one)
        for name, number in OPS.items():
            ask(f"{name} with zeros", files.iommufd(), TEST, op=number)
        for number in (0, 22, 24, U32_MAX):
            ask(f"operation {number}", fd, TEST, op=number)
        ask("reserved is not looked at", fd, TEST, op=0, __reserved=1)
        for limit in (0, 11, 12, 65536):
            ask(f"memory limit {limit}", fd, MEMORY_LIMIT, op=9, limit=limit)


def hwpts() -> None:
    """HWPT_ALLOC: what it refuses, in which order."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        handle, table, device = mock(fd, ioas)
        _, plain_table, plain = mock(fd, ioas, NO_DIRTY)

        def tried(label: str, **values: int) -> int:
            return ask(label, fd, HWPT_ALLOC, **{"dev_id": device, "pt_id": ioas, **values})["out_hwpt_id"]

        say("the second device shares the table", plain_table == table)
        tried("reserved", __reserved=1)
        tried("reserved2 is not looked at", __reserved2=1)
        tried("unknown flag", flags=16)
        tried("unknown flag and unknown IOAS", flags=16, pt_id=99)
        tried("unknown flag and unknown device", flags=16, dev_id=99)
        tried("data without a type", data_len=8)
        tried("type without data", data_type=0xDEAD)
        tried("type without data, unknown device", data_type=0xDEAD, dev_id=99)
        tried("unknown device", dev_id=99)
        tried("an IOAS as device", dev_id=ioas)
        tried("a handle as device", dev_id=handle)
        tried("unknown IOAS", pt_id=99)
        tried("pt 0", pt_id=0)
        tried("a device as pt", pt_id=device)
        tried("both unknown", dev_id=99, pt_id=99)
        tried("the automatic table as parent", pt_id=table)
        tried("the automatic table as parent, with flags", pt_id=table, flags=1)
        tried("fault id of nothing", flags=4, fault_id=99)
        tried("fault id and nesting", flags=5)
        tried("dirty without support", flags=2, dev_id=plain)
        tried("dirty without support, and fault id with nesting", flags=7, dev_id=plain)
        tried("data for a paging table", data_type=0xDEAD, data_len=8, data_uptr=MEMORY)
        tried("data of another type for a paging table", data_type=1, data_len=8, data_uptr=MEMORY)
        by_hand = tried("by hand")
        dirty = tried("dirty", flags=2)
        parent = tried("nest parent", flags=1)
        tried("pasid", flags=8)
        tried("dirty and pasid", flags=10)
        tried("dirty and nest parent", flags=3)
        tried("nested without data", pt_id=parent)
        tried("nested with flags", pt_id=parent, flags=2)
        tried("by hand as parent", pt_id=by_hand)
        ask("attach a table without dirty to the plain device's like", fd, MOCK, op=12, id=by_hand, dev_flags=NO_DIRTY)
        ask("attach a dirty table to a device without", fd, MOCK, op=12, id=dirty, dev_flags=NO_DIRTY)
        ask("attach a parent", fd, MOCK, op=2, id=parent)
        ask("replace by hand", fd, REPLACE, op=10, id=handle, pt_id=by_hand)
        ask("destroy by hand in use", fd, DESTROY, id=by_hand)
        ask("replace by the IOAS", fd, REPLACE, op=10, id=handle, pt_id=ioas)
        ask("destroy by hand with one user left", fd, DESTROY, id=by_hand)
        ask("destroy dirty", fd, DESTROY, id=dirty)
        ask("destroy dirty again", fd, DESTROY, id=dirty)
        ask("IOTLB of a paging table", fd, CHECK_IOTLB, op=14, id=by_hand)
        ask("device cache", fd, CHECK_CACHE, op=16, id=device, cache_id=0, cache=0xBADDAD)
        ask("device cache, wrong", fd, CHECK_CACHE, op=16, id=device, cache_id=0, cache=1)
        ask("device cache 4", fd, CHECK_CACHE, op=16, id=device, cache_id=4, cache=0xBADDAD)
        ask("cache of a handle", fd, CHECK_CACHE, op=16, id=handle, cache=0xBADDAD)


def hw_info() -> None:
    """GET_HW_INFO of mock devices."""
    with Files() as files, memory(PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        handle, _, device = mock(fd, ioas)
        _, _, plain = mock(fd, ioas, NO_DIRTY)
        _, _, wide = mock(fd, ioas, WITH_PASID)

        def tried(label: str, **values: int) -> None:
            poke(MEMORY, b"\x55" * 64)
            ask(label, fd, GET_HW_INFO, **{"dev_id": device, "data_uptr": MEMORY, **values})
            say(f"{label}: data", peek(MEMORY, 24).hex())

        tried("no room")
        tried("unknown flag", flags=2)
        tried("reserved", __reserved0=1)
        tried("other reserved", __reserved1=1)
        tried("capabilities and width are not looked at", out_capabilities=5, out_max_pasid_log2=5)
        tried("unknown device", dev_id=99)
        tried("unknown device and flag", dev_id=99, flags=2)
        tried("a handle", dev_id=handle)
        for room in (1, 4, 7, 8, 9, 20):
            tried(f"room {room}", data_len=room)
        tried("type asked, default", flags=1, data_len=8)
        tried("type asked, its own", flags=1, data_type=0xFEEDBEEF, data_len=8)
        tried("type asked, another", flags=1, data_type=1, data_len=8)
        tried("type without the flag", data_type=1, data_len=8)
        tried("nowhere", data_len=8, data_uptr=NOWHERE)
        tried("NULL", data_len=8, data_uptr=0)
        tried("half there", data_len=8, data_uptr=MEMORY + PAGE - 4)
        tried("the rest is not there", data_len=16, data_uptr=MEMORY + PAGE - 8)
        tried("4 GiB", data_len=U32_MAX, data_uptr=MEMORY)
        tried("without dirty tracking", dev_id=plain)
        tried("with PASID", dev_id=wide)


def mapping() -> None:
    """MAP, COPY and UNMAP when there is a page table: memory is looked at, alignment counts."""
    with Files() as files, memory(16 * PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        handle, table, _ = mock(fd, ioas)
        fine = {"ioas_id": ioas, "user_va": MEMORY, "length": PAGE, "iova": 16 * MiB, "flags": FIXED | RW}

        def tried(label: str, **values: int) -> None:
            ask(label, fd, MAP, **{**fine, **values})

        tried("below the aperture", iova=16 * MiB - PAGE)
        tried("across its start", iova=16 * MiB - PAGE, length=2 * PAGE)
        tried("last page", iova=(1 << 31) - PAGE)
        tried("beyond it", iova=1 << 31)
        tried("across its end", iova=(1 << 31) - PAGE, length=2 * PAGE)
        tried("odd iova", iova=17 * MiB + 1)
        tried("odd iova and nowhere", iova=17 * MiB + 1, user_va=NOWHERE)
        tried("odd length", length=PAGE + 1)
        tried("odd length and iova max-1", length=PAGE + 1, iova=ULONG_MAX - 1)
        tried("odd user address", user_va=MEMORY + 1)
        tried("odd user address at an odd iova", user_va=MEMORY + 1, iova=17 * MiB + 1)
        tried("half a page", length=2048, iova=18 * MiB)
        tried("the other half", length=2048, iova=18 * MiB + 2048, user_va=MEMORY + 2048)
        tried("half a page at the other half", length=2048, iova=19 * MiB, user_va=MEMORY + 2048)
        tried("across pages", length=2 * PAGE, iova=20 * MiB, user_va=MEMORY + 2048)
        tried("automatic, odd address", flags=RW, user_va=MEMORY + 1)
        tried("automatic, odd length", flags=RW, length=1)
        tried("automatic, half", flags=RW, length=2048, user_va=MEMORY + 2048)
        tried("automatic", flags=RW)
        tried("automatic, too long", flags=RW, length=1 << 31, user_va=0)
        tried("automatic, nowhere", flags=RW, user_va=NOWHERE)
        tried("automatic after that", flags=RW)
        tried("nowhere", user_va=NOWHERE, iova=21 * MiB)
        tried("nowhere, overlapping", user_va=NOWHERE, iova=18 * MiB)
        tried("runs into nothing", user_va=MEMORY + 15 * PAGE, length=2 * PAGE, iova=22 * MiB)
        tried("NULL", user_va=0, iova=22 * MiB)
        tried("in the kernel", user_va=0xFFFF_8880_0000_0000, iova=22 * MiB)
        tried("not canonical", user_va=1 << 60, iova=22 * MiB)
        tried("at 22 MiB nothing was left", iova=22 * MiB)
        tried("write only", iova=23 * MiB, flags=FIXED | WRITEABLE)
        tried("read only", iova=24 * MiB, flags=FIXED | READABLE)
        check_map("the page", fd, table, 22 * MiB, PAGE, MEMORY)
        check_map("the wrong page", fd, table, 22 * MiB, PAGE, MEMORY + PAGE)
        check_map("too far", fd, table, 22 * MiB, 2 * PAGE, MEMORY)
        check_map("half pages", fd, table, 18 * MiB, PAGE, MEMORY)
        check_map("the other half alone", fd, table, 19 * MiB, 2048, MEMORY + 2048)
        check_map("odd iova checked", fd, table, 22 * MiB + 1, PAGE, MEMORY)
        check_map("unmapped iova", fd, table, 30 * MiB, PAGE, MEMORY)
        check_map("memory nowhere", fd, table, 22 * MiB, PAGE, NOWHERE)
        check_map("length 0", fd, table, 22 * MiB, 0, MEMORY)
        check_map("an IOAS", fd, ioas, 22 * MiB, PAGE, MEMORY)
        check_map("unknown table", fd, 99, 22 * MiB, PAGE, MEMORY)
        ask(
            "copy half a page",
            fd,
            COPY,
            src_ioas_id=ioas,
            dst_ioas_id=ioas,
            src_iova=22 * MiB,
            dst_iova=40 * MiB,
            length=2048,
            flags=7,
        )
        ask(
            "copy odd bytes",
            fd,
            COPY,
            src_ioas_id=ioas,
            dst_ioas_id=ioas,
            src_iova=22 * MiB,
            dst_iova=41 * MiB,
            length=99,
            flags=7,
        )
        ask(
            "copy from an odd place",
            fd,
            COPY,
            src_ioas_id=ioas,
            dst_ioas_id=ioas,
            src_iova=22 * MiB + 1,
            dst_iova=41 * MiB,
            length=2048,
            flags=7,
        )
        ask(
            "copy of read-only to writeable",
            fd,
            COPY,
            src_ioas_id=ioas,
            dst_ioas_id=ioas,
            src_iova=24 * MiB,
            dst_iova=42 * MiB,
            length=PAGE,
            flags=7,
        )
        check_map("the copied half", fd, table, 40 * MiB, 2048, MEMORY)
        ask("small pages with half pages mapped", fd, OPTION, option_id=1, object_id=ioas, val64=0)
        ask("unmap all", fd, UNMAP, ioas_id=ioas, iova=0, length=ULONG_MAX)
        ask("small pages", fd, OPTION, option_id=1, object_id=ioas, val64=0)
        ranges_of("alignment with small pages", fd, ioas)
        tried("half a page with small pages", length=2048, iova=18 * MiB)
        tried("half a page of iova with small pages", iova=18 * MiB + 2048)
        tried("a page with small pages")
        ask("destroy the device", fd, DESTROY, id=handle)
        ranges_of("without the device", fd, ioas)
        tried("half a page without the device", length=2048, iova=18 * MiB)


def pinning() -> None:
    """Pages are pinned while a page table has them, and once for each way to them."""
    with Files() as files, memory(16 * PAGE):
        fd = files.iommufd()
        one, two = alloc(fd), alloc(fd)
        poke(MEMORY, bytes(16 * PAGE))
        must(fd, MAP, ioas_id=one, user_va=MEMORY, length=4 * PAGE, iova=16 * MiB, flags=FIXED | RW)
        check_refs("before a device", fd, MEMORY, 4 * PAGE, 0)
        handle, _, _ = mock(fd, one)
        check_refs("with a device", fd, MEMORY, 4 * PAGE, 1)
        check_refs("pages that are not mapped", fd, MEMORY + 4 * PAGE, PAGE, 0)
        check_refs("wrong count", fd, MEMORY, PAGE, 2)
        check_refs("odd address", fd, MEMORY + 1, PAGE, 1)
        check_refs("odd length", fd, MEMORY, 1, 1)
        check_refs("length 0", fd, NOWHERE, 0, 1)
        check_refs("nowhere", fd, NOWHERE, PAGE, 1)
        must(fd, COPY, src_ioas_id=one, dst_ioas_id=two, src_iova=16 * MiB, dst_iova=16 * MiB, length=2 * PAGE, flags=7)
        check_refs("a copy without a device", fd, MEMORY, 4 * PAGE, 1)
        second, _, _ = mock(fd, two)
        check_refs("a copy with a device", fd, MEMORY, 4 * PAGE, 1)
        must(fd, MAP, ioas_id=two, user_va=MEMORY, length=PAGE, iova=32 * MiB, flags=FIXED | RW)
        check_refs("mapped once more", fd, MEMORY, PAGE, 2)
        ask("unmap the first", fd, UNMAP, ioas_id=one, iova=16 * MiB, length=4 * PAGE)
        check_refs("the copy holds two", fd, MEMORY + PAGE, PAGE, 1)
        check_refs("and no more", fd, MEMORY + 2 * PAGE, 2 * PAGE, 0)
        ask("destroy the second device", fd, DESTROY, id=second)
        check_refs("no device", fd, MEMORY, 4 * PAGE, 0)
        unmap_memory(MEMORY + PAGE, PAGE)
        ask("attach with a hole", fd, MOCK, op=2, id=two)
        check_refs("nothing is left pinned", fd, MEMORY, PAGE, 0)
        map_memory(PAGE, MEMORY + PAGE)
        answer = ask("attach with the hole filled", fd, MOCK, op=2, id=two)
        check_map("the new page", fd, answer["out_hwpt_id"], 16 * MiB + PAGE, PAGE, MEMORY + PAGE)
        unmap_memory(MEMORY + PAGE, PAGE)
        map_memory(PAGE, MEMORY + PAGE)
        check_map("replaced memory is another page", fd, answer["out_hwpt_id"], 16 * MiB + PAGE, PAGE, MEMORY + PAGE)
        ask("destroy the third device", fd, DESTROY, id=answer["out_stdev_id"])
        ask("destroy the first", fd, DESTROY, id=handle)


def permissions() -> None:
    """Protection of user memory against the flags of the mapping."""
    protections = {"none": 0, "r": mmap.PROT_READ, "w": mmap.PROT_WRITE, "rw": 3, "rx": 5}
    for sort, flags in (("shared", mmap.MAP_SHARED | mmap.MAP_ANONYMOUS), ("private", PRIVATE)):
        for name, protection in protections.items():
            with Files() as files, memory(PAGE, flags=flags):
                poke(MEMORY, b"1234")
                protect_memory(MEMORY, PAGE, protection)
                fd = files.iommufd()
                ioas = alloc(fd)
                mock(fd, ioas)
                for index, access in enumerate((READABLE, WRITEABLE, RW)):
                    iova = (16 + index) * MiB
                    what = f"{sort} {name} memory with flags {access}"
                    ask(what, fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=iova, flags=FIXED | access)
    exe = os.open("/proc/self/exe", os.O_RDONLY)
    for sort, flags, protection in (
        ("private", mmap.MAP_PRIVATE, 3),
        ("private r", mmap.MAP_PRIVATE, 1),
        ("shared r", mmap.MAP_SHARED, 1),
    ):
        with Files() as files, memory(PAGE, MEMORY, protection, flags, exe):
            fd = files.iommufd()
            ioas = alloc(fd)
            mock(fd, ioas)
            for index, access in enumerate((READABLE, RW)):
                iova = (16 + index) * MiB
                what = f"a file's page, {sort}, with flags {access}"
                ask(what, fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=iova, flags=FIXED | access)
    os.close(exe)


def memfds() -> None:
    """MAP_FILE when there is a page table."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        _, table, _ = mock(fd, ioas)
        memfd = files.keep(os.memfd_create("probe", os.MFD_ALLOW_SEALING))
        os.ftruncate(memfd, 4 * PAGE)
        fine = {"ioas_id": ioas, "fd": memfd, "length": PAGE, "iova": 16 * MiB, "flags": FIXED | RW}

        def tried(label: str, **values: int) -> None:
            ask(label, fd, MAP_FILE, **{**fine, **values})

        tried("beyond the end", start=4 * PAGE)
        tried("over the end", start=3 * PAGE, length=2 * PAGE)
        tried("over the end within the page", start=3 * PAGE + 2048, length=PAGE)
        tried("far beyond", start=1 << 62)
        tried("iommufd as file", fd=fd)
        tried("eventfd as file", fd=files.eventfd())
        pipe = os.pipe()
        tried("pipe as file", fd=files.keep(pipe[0]))
        files.keep(pipe[1])
        tried("the program's own file", fd=files.open("/proc/self/exe", os.O_RDONLY))
        tried("the program's own file, to read", fd=files.open("/proc/self/exe", os.O_RDONLY), flags=FIXED | READABLE)
        tried("directory", fd=files.open("/", os.O_RDONLY))
        tried("odd start", start=1)
        tried("half page", start=2048, length=2048)
        tried("fine", iova=17 * MiB)
        tried("all, one over the other", length=4 * PAGE, iova=18 * MiB)
        tried("automatic", flags=RW, start=PAGE)
        tried("read-only descriptor", fd=files.open(f"/proc/self/fd/{memfd}", os.O_RDONLY), iova=19 * MiB)
        with memory(4 * PAGE, fd=memfd):
            check_map("the file's pages", fd, table, 18 * MiB, 4 * PAGE, MEMORY)
            check_refs("pins of the file's first page", fd, MEMORY, PAGE, 2)
        os.ftruncate(memfd, 0)
        tried("cut to nothing", iova=20 * MiB)
        os.ftruncate(memfd, PAGE)
        tried("grown again", iova=20 * MiB)
        ask("unmap all", fd, UNMAP, ioas_id=ioas, iova=0, length=ULONG_MAX)
        small = files.keep(os.memfd_create("small"))
        os.ftruncate(small, 10)
        tried("a file of ten bytes", fd=small, iova=21 * MiB)
        tried("a file of ten bytes, two pages", fd=small, iova=22 * MiB, length=2 * PAGE)
        sealed = files.keep(os.memfd_create("sealed", os.MFD_ALLOW_SEALING))
        os.ftruncate(sealed, PAGE)
        import fcntl

        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        tried("a sealed file", fd=sealed, iova=23 * MiB)
        tried("a sealed file, to read", fd=sealed, iova=23 * MiB, flags=FIXED | READABLE)


def reserved() -> None:
    """What a device reserves against what is mapped and allowed."""
    with Files() as files, memory(PAGE):
        fd = files.iommufd()
        low, outside, promised = alloc(fd), alloc(fd), alloc(fd)
        must(fd, MAP, ioas_id=low, user_va=MEMORY, length=PAGE, iova=PAGE, flags=FIXED | RW)
        ask("mock with a mapping below the aperture", fd, MOCK, op=2, id=low)
        must(fd, MAP, ioas_id=outside, user_va=MEMORY, length=1, iova=20 * MiB, flags=FIXED | RW)
        ask("mock with odd bytes mapped", fd, MOCK, op=2, id=outside)
        allow("allow below the aperture", fd, promised, (0, 16 * MiB))
        ask("mock with the promise", fd, MOCK, op=2, id=promised)
        ranges_of("ranges after a refused mock", fd, promised)
        allow("allow inside the aperture", fd, promised, (16 * MiB, 17 * MiB - 1))
        answer = ask("mock with that promise", fd, MOCK, op=2, id=promised)
        ranges_of("ranges with the mock", fd, promised)
        allow("allow outside now", fd, promised, (0, PAGE))
        reserve("reserve inside", fd, promised, 32 * MiB, PAGE)
        ask("destroy the mock", fd, DESTROY, id=answer["out_stdev_id"])
        ranges_of("ranges without it", fd, promised)
        ask("ids were not lost", fd, IOAS_ALLOC)


def pasids() -> None:
    """PASIDs of mock devices."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        handle, table, device = mock(fd, ioas, WITH_PASID)
        plain, _, _ = mock(fd, ioas)
        ready = must(fd, HWPT_ALLOC, dev_id=device, pt_id=ioas, flags=8)["out_hwpt_id"]
        other = must(fd, HWPT_ALLOC, dev_id=device, pt_id=ioas, flags=8)["out_hwpt_id"]

        def tried(label: str, op: str, pasid: int, pt: int = 0, of: int = handle) -> None:
            ask(f"{label}: {op.lower()} {pasid:#x}", fd, PASID, op=OPS[f"PASID_{op}"], id=of, pasid=pasid, pt_id=pt)

        tried("RID not ready", "ATTACH", 100, ready)
        ask("RID to a table that is ready", fd, REPLACE, op=10, id=handle, pt_id=ready)
        tried("unknown table", "ATTACH", 100, 99)
        tried("unknown device", "ATTACH", 100, ready, 99)
        tried("table not ready", "ATTACH", 100, table)
        tried("IOAS", "ATTACH", 100, ioas)
        tried("device without PASID", "ATTACH", 100, ready, plain)
        tried("too wide", "ATTACH", 1 << 20, ready)
        tried("widest", "ATTACH", (1 << 20) - 1, ready)
        tried("detach before", "DETACH", 100)
        tried("replace before", "REPLACE", 100, ready)
        tried("fine", "ATTACH", 100, ready)
        tried("twice", "ATTACH", 100, ready)
        tried("other table", "ATTACH", 100, other)
        tried("is it", "CHECK_HWPT", 100, ready)
        tried("is it the other", "CHECK_HWPT", 100, other)
        tried("is it none", "CHECK_HWPT", 100, 0)
        tried("is it unknown", "CHECK_HWPT", 100, 99)
        tried("is it an IOAS", "CHECK_HWPT", 100, ioas)
        ask("RID to a table that is not ready", fd, REPLACE, op=10, id=handle, pt_id=ioas)
        tried("to the other", "REPLACE", 100, other)
        tried("to an IOAS", "REPLACE", 100, ioas)
        tried("to the same", "REPLACE", 100, other)
        tried("is it the other now", "CHECK_HWPT", 100, other)
        ask("destroy the other in use", fd, DESTROY, id=other)
        tried("fine", "DETACH", 100)
        tried("is it none now", "CHECK_HWPT", 100, 0)
        tried("again", "DETACH", 100)
        ask("destroy the other", fd, DESTROY, id=other)
        tried("bad one", "ATTACH", 1024, ready)
        tried("of an IOAS", "ATTACH", 5, ready, ioas)
        ask("destroy with a PASID attached", fd, DESTROY, id=handle)


SECTIONS = (devices, hwpts, hw_info, mapping, pinning, permissions, memfds, reserved, pasids)
