"""Accesses of mock devices: software that reads and writes an IOAS, or pins its pages."""

from __future__ import annotations

import os

from questions.calls import (
    MEMORY,
    NOWHERE,
    PAGE,
    ULONG_MAX,
    Answer,
    Files,
    ask,
    memory,
    must,
    peek,
    poke,
    say,
    unmap_memory,
)
from questions.shapes import (
    ACCESS_PAGES,
    ACCESS_REPLACE,
    ACCESS_RW,
    COPY,
    CREATE_ACCESS,
    DESTROY,
    DESTROY_PAGES,
    FIXED,
    IOAS_ALLOC,
    MAP,
    MAP_FILE,
    OPS,
    OPTION,
    READABLE,
    RW,
    UNMAP,
    WRITEABLE,
)
from questions.space import MiB, alloc
from questions.tables import check_refs, mock


def create(label: str, fd: int, files: Files, ioas: int, flags: int = 0) -> int:
    """Ask for an access; its descriptor, or -1."""
    answer = ask(label, fd, CREATE_ACCESS, hide=("out_access_fd",), op=OPS["CREATE_ACCESS"], id=ioas, flags=flags)
    return files.keep(answer["out_access_fd"]) if answer.result >= 0 else -1


def pages(label: str, fd: int, access: int, iova: int, length: int, address: int, flags: int = 0) -> Answer:
    """Ask for pages to be pinned by an access."""
    op = OPS["ACCESS_PAGES"]
    return ask(label, fd, ACCESS_PAGES, op=op, id=access, iova=iova, length=length, uptr=address, flags=flags)


def access_rw(label: str, fd: int, access: int, iova: int, length: int, address: int, flags: int = 0) -> Answer:
    """Ask for a read into (or with flag 1 a write from) this process's memory."""
    return ask(
        label, fd, ACCESS_RW, op=OPS["ACCESS_RW"], id=access, iova=iova, length=length, uptr=address, flags=flags
    )


def files_of() -> None:
    """The access's file, and what its existence does."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        create("unknown flag", fd, files, ioas, 2)
        create("unknown flag and id", fd, files, 99, 2)
        create("unknown id", fd, files, 99)
        access = create("fine", fd, files, ioas)
        ask("the next id", fd, IOAS_ALLOC)
        ask("destroy the IOAS", fd, DESTROY, id=ioas)
        ask("destroy the access", fd, DESTROY, id=2)
        ask("replace by unknown", fd, ACCESS_REPLACE, op=11, id=access, ioas_id=99)
        ask("replace by another", fd, ACCESS_REPLACE, op=11, id=access, ioas_id=3)
        ask("replace by the same", fd, ACCESS_REPLACE, op=11, id=access, ioas_id=3)
        ask("replace of the iommufd", fd, ACCESS_REPLACE, op=11, id=fd, ioas_id=3)
        ask("replace of nothing", fd, ACCESS_REPLACE, op=11, id=999, ioas_id=3)
        ask("destroy the first IOAS now", fd, DESTROY, id=ioas)
        ask("destroy the second", fd, DESTROY, id=3)
        status = os.fstat(access)
        say("mode", f"{status.st_mode:o}")
        for name, function in (("read", lambda: os.read(access, 8)), ("write", lambda: os.write(access, b"12345678"))):
            try:
                say(name, function())
            except OSError as error:
                say(name, error.errno)
        files.close(access)
        ask("closed: destroy the second", fd, DESTROY, id=3)
        again = create("of another context", files.iommufd(), files, 1)
        say("refused", again)
        second = files.iommufd()
        third = create("an access that outlives its iommufd", second, files, alloc(second))
        files.close(second)
        access_rw("is refused memory", fd, third, 0, 1, MEMORY)


def reading() -> None:
    """ACCESS_RW."""
    with Files() as files, memory(16 * PAGE), memory(4 * PAGE, MEMORY + 32 * MiB):
        fd = files.iommufd()
        ioas = alloc(fd)
        access = create("access", fd, files, ioas)
        other = MEMORY + 32 * MiB
        poke(MEMORY, bytes(range(256)) * 16)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=16 * MiB, flags=FIXED | RW)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY + 8 * PAGE, length=PAGE, iova=16 * MiB + PAGE, flags=FIXED | RW)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=17 * MiB, flags=FIXED | READABLE)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=18 * MiB, flags=FIXED | WRITEABLE)
        must(fd, MAP, ioas_id=ioas, user_va=NOWHERE, length=PAGE, iova=19 * MiB, flags=FIXED | RW)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY + 5, length=7, iova=20 * MiB + 3, flags=FIXED | RW)
        for slow in (0, 4):

            def tried(
                label: str, iova: int, length: int, address: int = other, flags: int = 0, slow: int = slow
            ) -> None:
                access_rw(f"{label}, flags {flags | slow}", fd, access, iova, length, address, flags | slow)

            tried("length 0", 16 * MiB, 0)
            tried("wraps", ULONG_MAX, 2)
            tried("nothing there", 32 * MiB, 1)
            tried("runs into nothing", 16 * MiB + PAGE, PAGE + 1)
            tried("before", 16 * MiB - 1, 2)
            tried("too long", 0, 17 * MiB)
            tried("bytes", 16 * MiB + 1, 5)
            say(f"bytes {slow}", peek(other, 8).hex())
            tried("across areas", 16 * MiB + PAGE - 3, 6)
            say(f"bytes across {slow}", peek(other, 8).hex())
            poke(other, b"abcdefgh")
            tried("write across areas", 16 * MiB + PAGE - 4, 8, flags=1)
            say(f"written {slow}", (peek(MEMORY + PAGE - 5, 5) + peek(MEMORY + 8 * PAGE, 5)).hex())
            tried("write to read-only", 17 * MiB, 1, flags=1)
            tried("read of write-only", 18 * MiB, 1)
            tried("read of nowhere", 19 * MiB, 1)
            tried("write to nowhere", 19 * MiB, 1, flags=1)
            tried("to nowhere", 16 * MiB, 1, NOWHERE)
            tried("from nowhere", 16 * MiB, 1, NOWHERE, flags=1)
            tried("odd area", 20 * MiB + 4, 3)
            say(f"odd bytes {slow}", peek(other, 4).hex())
        access_rw("unknown flag", fd, access, 16 * MiB, 1, other, 2)
        access_rw("unknown descriptor", fd, 999, 16 * MiB, 1, other)
        access_rw("iommufd as descriptor", fd, fd, 16 * MiB, 1, other)
        unmap_memory(MEMORY, PAGE)
        access_rw("memory unmapped", fd, access, 16 * MiB, 1, other)
        mock_refused = ask(
            "attach a device over the odd area", fd, CREATE_ACCESS, hide=("out_access_fd",), op=5, id=ioas, flags=0
        )
        if mock_refused.result >= 0:
            files.keep(mock_refused["out_access_fd"])


def pinning() -> None:
    """ACCESS_PAGES."""
    with Files() as files, memory(16 * PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        plain = create("access without pins", fd, files, ioas)
        access = create("access", fd, files, ioas, 1)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=4 * PAGE, iova=16 * MiB, flags=FIXED | RW)
        must(
            fd,
            MAP,
            ioas_id=ioas,
            user_va=MEMORY + 4 * PAGE,
            length=2 * PAGE,
            iova=16 * MiB + 4 * PAGE,
            flags=FIXED | RW,
        )
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=17 * MiB, flags=FIXED | READABLE)
        must(fd, MAP, ioas_id=ioas, user_va=NOWHERE, length=PAGE, iova=18 * MiB, flags=FIXED | RW)
        ask(
            "map half a page with pins",
            fd,
            MAP,
            ioas_id=ioas,
            user_va=MEMORY + 6 * PAGE,
            length=2048,
            iova=19 * MiB,
            flags=FIXED | RW,
        )
        ask(
            "map half-way to half-way",
            fd,
            MAP,
            ioas_id=ioas,
            user_va=MEMORY + 8 * PAGE + 2048,
            length=PAGE,
            iova=20 * MiB + 2048,
            flags=FIXED | RW,
        )
        ask(
            "map half-way to whole",
            fd,
            MAP,
            ioas_id=ioas,
            user_va=MEMORY + 8 * PAGE + 2048,
            length=PAGE,
            iova=21 * MiB,
            flags=FIXED | RW,
        )
        pages("without pins", fd, plain, 16 * MiB, PAGE, MEMORY)
        pages("unknown flag", fd, access, 16 * MiB, PAGE, MEMORY, 2)
        pages("too long", fd, access, 16 * MiB, 16 * MiB + 1, MEMORY)
        pages("too long and unknown flag", fd, access, 16 * MiB, 16 * MiB + 1, MEMORY, 2)
        pages("unknown descriptor", fd, 999, 16 * MiB, PAGE, MEMORY)
        pages("length 0", fd, access, 16 * MiB, 0, MEMORY)
        pages("nothing there", fd, access, 32 * MiB, PAGE, MEMORY)
        pages("runs into nothing", fd, access, 16 * MiB, 7 * PAGE, MEMORY)
        pages("write to read-only", fd, access, 17 * MiB, PAGE, MEMORY, 1)
        pages("nowhere", fd, access, 18 * MiB, PAGE, 0)
        pages("half a page", fd, access, 19 * MiB, 2048, MEMORY + 6 * PAGE)
        pages("half a page and nothing", fd, access, 19 * MiB, PAGE, MEMORY + 6 * PAGE)
        pages("same offset", fd, access, 20 * MiB + 2048, PAGE, MEMORY + 8 * PAGE + 2048)
        pages("other offset", fd, access, 21 * MiB, PAGE, MEMORY + 8 * PAGE + 2048)
        pages("other offset, bytes", fd, access, 21 * MiB, 16, MEMORY + 8 * PAGE + 2048)
        pages("wrong memory", fd, access, 16 * MiB, PAGE, MEMORY + PAGE)
        check_refs("nothing pinned", fd, MEMORY, 4 * PAGE, 0)
        first = pages("a page", fd, access, 16 * MiB, PAGE, MEMORY)["out_access_pages_id"]
        check_refs("pinned", fd, MEMORY, PAGE, 1)
        second = pages("across areas, to write", fd, access, 16 * MiB, 6 * PAGE, MEMORY, 1)["out_access_pages_id"]
        check_refs("pinned again", fd, MEMORY, 6 * PAGE, 1)
        third = pages("unaligned", fd, access, 16 * MiB + 5, PAGE, MEMORY + 5)["out_access_pages_id"]
        ask("give back unknown", fd, DESTROY_PAGES, op=6, id=access, access_pages_id=99)
        ask("give back of no access", fd, DESTROY_PAGES, op=6, id=999, access_pages_id=first)
        ask("give back the first", fd, DESTROY_PAGES, op=6, id=access, access_pages_id=first)
        ask("give back the first again", fd, DESTROY_PAGES, op=6, id=access, access_pages_id=first)
        check_refs("still pinned", fd, MEMORY, 6 * PAGE, 1)
        ask("give back the second", fd, DESTROY_PAGES, op=6, id=access, access_pages_id=second)
        check_refs("two pages left", fd, MEMORY, 2 * PAGE, 1)
        check_refs("others not", fd, MEMORY + 2 * PAGE, 4 * PAGE, 0)
        ask("small pages while pinned", fd, OPTION, option_id=1, object_id=ioas, val64=0)
        ask(
            "copy while pinned",
            fd,
            COPY,
            src_ioas_id=ioas,
            dst_ioas_id=ioas,
            src_iova=16 * MiB,
            dst_iova=48 * MiB,
            length=PAGE,
            flags=7,
        )
        ask("unmap while pinned", fd, UNMAP, ioas_id=ioas, iova=16 * MiB, length=4 * PAGE)
        check_refs("unmapped", fd, MEMORY, 4 * PAGE, 0)
        ask("give back what unmap took", fd, DESTROY_PAGES, op=6, id=access, access_pages_id=third)
        pages("the copy", fd, access, 48 * MiB, PAGE, MEMORY)
        ask("replace while pinned", fd, ACCESS_REPLACE, op=11, id=access, ioas_id=alloc(fd))
        check_refs("after replace", fd, MEMORY, PAGE, 0)
        pages("the old IOAS's pages", fd, access, 48 * MiB, PAGE, MEMORY)
        ask("an IOAS with odd bytes", fd, MAP, ioas_id=ioas, user_va=MEMORY, length=5, iova=64 * MiB, flags=FIXED | RW)
        create("an access with pins on odd bytes", fd, files, ioas, 1)
        create("an access without pins on odd bytes", fd, files, ioas, 0)
        with_pins = alloc(fd)
        create("keeps it aligned", fd, files, with_pins, 1)
        ask(
            "odd bytes under an access with pins",
            fd,
            MAP,
            ioas_id=with_pins,
            user_va=MEMORY,
            length=5,
            iova=64 * MiB,
            flags=FIXED | RW,
        )
        ask(
            "half a page under an access with pins",
            fd,
            MAP,
            ioas_id=with_pins,
            user_va=MEMORY,
            length=2048,
            iova=64 * MiB,
            flags=FIXED | RW,
        )


def together() -> None:
    """Accesses and page tables on the same pages; files."""
    with Files() as files, memory(8 * PAGE):
        fd = files.iommufd()
        ioas = alloc(fd)
        access = create("access", fd, files, ioas, 1)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=4 * PAGE, iova=16 * MiB, flags=FIXED | RW)
        held = pages("pages", fd, access, 16 * MiB + PAGE, 2 * PAGE, MEMORY + PAGE)["out_access_pages_id"]
        handle, table, _ = mock(fd, ioas)
        check_refs("all", fd, MEMORY, 4 * PAGE, 1)
        ask("destroy the device", fd, DESTROY, id=handle)
        check_refs("held", fd, MEMORY + PAGE, 2 * PAGE, 1)
        check_refs("not held", fd, MEMORY, PAGE, 0)
        ask("destroy the IOAS", fd, DESTROY, id=ioas)
        ask("give back", fd, DESTROY_PAGES, op=6, id=access, access_pages_id=held)
        check_refs("none", fd, MEMORY, 4 * PAGE, 0)
        memfd = files.keep(os.memfd_create("probe"))
        os.ftruncate(memfd, 2 * PAGE)
        must(fd, MAP_FILE, ioas_id=ioas, fd=memfd, length=2 * PAGE, iova=32 * MiB, flags=FIXED | RW)
        poke(MEMORY, b"hello")
        access_rw("write to a file", fd, access, 32 * MiB + PAGE - 2, 5, MEMORY, 1)
        say("the file", os.pread(memfd, 5, PAGE - 2).hex())
        access_rw("read of a file", fd, access, 32 * MiB + PAGE - 1, 3, MEMORY + PAGE)
        say("read", peek(MEMORY + PAGE, 4).hex())
        pages("pages of a file", fd, access, 32 * MiB, PAGE, 0)
        os.ftruncate(memfd, 0)
        access_rw("read of a file cut to nothing", fd, access, 32 * MiB + PAGE, 3, MEMORY + PAGE)
        pages("pages of a file cut to nothing", fd, access, 32 * MiB + PAGE, PAGE, 0)
        say("table and device", (table > 0, handle > 0))


SECTIONS = (files_of, reading, pinning, together)
