"""DMA of the device: where it lands, and where it does not."""

from __future__ import annotations

import os
import select
import struct

from questions.binding import bound
from questions.calls import (
    MEMORY,
    PAGE,
    U32_MAX,
    Files,
    map_memory,
    memory,
    must,
    peek,
    poke,
    pread,
    pwrite,
    say,
    shown,
    unmap_memory,
)
from questions.shapes import ATTACH, CONFIG, COPY, DETACH, FIXED, MAP, MAP_FILE, READABLE, RW, UNMAP, WRITEABLE
from questions.space import alloc

_BUFFER = 0x40000


def _transfer(fd: int, source: int, target: int, length: int, out: bool) -> None:
    for offset, value in ((0x80, source), (0x88, target), (0x90, length), (0x98, 3 if out else 1)):
        pwrite(fd, struct.pack("<Q", value), offset)
    for _ in range(400):
        state = pread(fd, 4, 0x98)
        if isinstance(state, int) or not state[0] & 1:
            return
        select.select([], [], [], 0.005)


def _read(fd: int, iova: int, length: int = 16) -> None:
    """Memory to device."""
    _transfer(fd, iova, _BUFFER, length, False)


def _write(fd: int, iova: int, length: int = 16) -> None:
    """Device to memory."""
    _transfer(fd, _BUFFER, iova, length, True)


def dma() -> None:
    """Through the page table, and not through it."""
    with Files() as files, memory(4 * PAGE):
        iommufd, fd, _ = bound(files)
        ioas, other = alloc(iommufd), alloc(iommufd)
        pwrite(fd, b"\x06\x00", CONFIG + 4)
        pwrite(fd, struct.pack("<I", U32_MAX), 0x64)
        poke(MEMORY, bytes(range(64)))
        base = {"ioas_id": ioas, "user_va": MEMORY, "length": PAGE}
        must(iommufd, MAP, **base, iova=0x100000, flags=FIXED | RW)
        must(iommufd, MAP, **base, iova=0x102000, flags=FIXED | READABLE)
        must(iommufd, MAP, **{**base, "user_va": MEMORY + PAGE}, iova=0x101000, flags=FIXED | RW)
        must(iommufd, MAP, **{**base, "user_va": MEMORY + PAGE}, iova=0x104000, flags=FIXED | WRITEABLE)
        must(fd, ATTACH, pt_id=ioas)

        def landed(label: str, at: int = MEMORY + PAGE) -> None:
            say(label, peek(at, 16).hex())
            poke(at, b"\x77" * 16)

        poke(MEMORY + PAGE, b"\x77" * PAGE)
        _read(fd, 0x100000)
        _write(fd, 0x101000)
        landed("there and back")
        _read(fd, 0x100010)
        _write(fd, 0x101000)
        landed("from an offset")
        _read(fd, 0x300000)
        _write(fd, 0x101000)
        landed("what a read of nothing leaves in the buffer")
        _read(fd, 0x100000)
        _write(fd, 0x102000 + 0x100)
        say("a write to read-only does not land", peek(MEMORY + 0x100, 16).hex())
        _read(fd, 0x102000)
        _write(fd, 0x104000)
        landed("read of read-only, write to write-only")
        _read(fd, 0x104000)
        _write(fd, 0x101000)
        landed("what a read of write-only leaves in the buffer")
        _read(fd, 0x100000)
        _write(fd, 0x101FF8)
        say("a write over the end of what is mapped", peek(MEMORY + 2 * PAGE - 16, 16).hex())
        pwrite(fd, b"\x02\x00", CONFIG + 4)
        _write(fd, 0x101000)
        landed("without bus master")
        pwrite(fd, b"\x06\x00", CONFIG + 4)
        must(iommufd, UNMAP, ioas_id=ioas, iova=0x101000, length=PAGE)
        _write(fd, 0x101000)
        landed("after UNMAP")
        must(iommufd, MAP, **{**base, "user_va": MEMORY + PAGE}, iova=0x101000, flags=FIXED | RW)
        _write(fd, 0x101000)
        landed("mapped again")
        must(fd, ATTACH, pt_id=other)
        _write(fd, 0x101000)
        landed("after replace by an empty IOAS")
        must(
            iommufd,
            COPY,
            src_ioas_id=ioas,
            dst_ioas_id=other,
            src_iova=0x101000,
            dst_iova=0x205000,
            length=PAGE,
            flags=FIXED | RW,
        )
        _write(fd, 0x205000)
        landed("through a copy")
        must(fd, DETACH)
        _write(fd, 0x205000)
        landed("after detach")
        must(fd, ATTACH, pt_id=ioas)
        unmap_memory(MEMORY + PAGE, PAGE)
        map_memory(PAGE, MEMORY + PAGE)
        poke(MEMORY + PAGE, b"\x66" * 16)
        _write(fd, 0x101000)
        landed("memory was replaced: it lands on the old page")
        must(iommufd, UNMAP, ioas_id=ioas, iova=0x101000, length=PAGE)
        memfd = files.keep(os.memfd_create("probe"))
        os.ftruncate(memfd, PAGE)
        must(iommufd, MAP_FILE, ioas_id=ioas, fd=memfd, length=PAGE, iova=0x108000, flags=FIXED | RW)
        _write(fd, 0x108008)
        say("to a file", os.pread(memfd, 32, 0).hex())
        _across_fork(fd, iommufd, ioas)
        say("registers after all that", shown(pread(fd, 4, 0)))


def _across_fork(fd: int, iommufd: int, ioas: int) -> None:
    """A child is forked after the mapping; the parent writes; the device sees the parent's page."""
    with memory(PAGE, MEMORY + 8 * PAGE):
        poke(MEMORY + 8 * PAGE, b"before the fork!")
        must(iommufd, MAP, ioas_id=ioas, user_va=MEMORY + 8 * PAGE, length=PAGE, iova=0x10A000, flags=FIXED | RW)
        ready, go = os.pipe()
        child = os.fork()
        if not child:
            os.close(go)
            os.read(ready, 1)
            os._exit(0)
        poke(MEMORY + 8 * PAGE, b"after the fork!!")
        _read(fd, 0x10A000)
        _write(fd, 0x10A100)
        say("after a fork and a write", peek(MEMORY + 8 * PAGE + 0x100, 16).decode())
        os.close(go)
        os.close(ready)
        os.waitpid(child, 0)


SECTIONS = (dma,)
