"""BARs as dma-bufs: what is refused, what can be mapped, and what takes mappings back."""

from __future__ import annotations

import os
import struct

from questions.binding import bound
from questions.calls import MEMORY, NOWHERE, PAGE, Files, ask, call, memory, must, outcome, poke, pwrite, raw_ioctl, say
from questions.shapes import ATTACH, CONFIG, DETACH, FEATURE, FIXED, MAP_FILE, RESET, RW, UNMAP
from questions.space import alloc

_DMA_BUF, _GET, _SET = 11, 1 << 16, 1 << 17
_ENTRY, _EXIT = 3 | _SET, 5 | _SET
_BAR = 1 << 20
_IOVA = 1 << 28


def _export(fd: int, *ranges: tuple[int, int], index: int = 0, flags: int = 0, open_flags: int = os.O_CLOEXEC) -> int:
    """A descriptor or -errno."""
    tail = struct.pack("IIII", index, open_flags, flags, len(ranges))
    tail += b"".join(struct.pack("QQ", *(value & (1 << 64) - 1 for value in each)) for each in ranges)
    return call(fd, FEATURE, tail=tail, argsz=8 + len(tail), flags=_DMA_BUF | _GET).result


def _told(files: Files, label: str, result: int) -> int:
    """Write the outcome; a descriptor is `a descriptor`."""
    say(label, "a descriptor" if result >= 0 else outcome(result))
    return files.keep(result) if result >= 0 else result


def arguments() -> None:
    """What makes a dma-buf and what does not."""
    with Files() as files, memory(PAGE):
        _, fd, _ = bound(files)
        for label, ranges in (
            ("no ranges", ()),
            ("a page", ((0, PAGE),)),
            ("the whole BAR", ((0, _BAR),)),
            ("nothing", ((0, 0),)),
            ("half a page", ((0, PAGE // 2),)),
            ("misaligned", ((1, PAGE),)),
            ("more than the BAR", ((0, _BAR + PAGE),)),
            ("behind the BAR", ((_BAR, PAGE),)),
            ("far behind the BAR", ((1 << 40, PAGE),)),
            ("two ranges", ((0, PAGE), (2 * PAGE, PAGE))),
            ("two ranges that overlap", ((0, 2 * PAGE), (PAGE, PAGE))),
            ("a good one and an empty one", ((0, PAGE), (PAGE, 0))),
            ("a good one and one behind the BAR", ((0, PAGE), (_BAR, PAGE))),
            ("the last page there is", ((-PAGE, PAGE),)),
            ("lengths that overflow", ((0, -PAGE), (0, 2 * PAGE))),
            ("half of all", ((0, 1 << 63),)),
            ("wrapping around behind a good one", ((0, PAGE), (1 << 63, 1 << 63))),
        ):
            _told(files, label, _export(fd, *ranges))
        for index in (1, 5, 6, 7, 8, 9, 100, (1 << 32) - 1):
            _told(files, f"region {index}", _export(fd, (0, PAGE), index=index))
        _told(files, "flags 1", _export(fd, (0, PAGE), flags=1))
        _told(files, "flags 1 and no ranges of no BAR", _export(fd, index=9, flags=1))
        for open_flags in (0, os.O_RDWR, os.O_CLOEXEC | os.O_RDWR, os.O_NONBLOCK, 1 << 31):
            _told(files, f"open flags {open_flags:#o}", _export(fd, (0, PAGE), open_flags=open_flags))
        head = struct.pack("IIIIII", 24, _DMA_BUF | _GET, 0, 0, 0, 2)
        poke(MEMORY + PAGE - len(head), head)
        say("ranges behind the end of memory", outcome(raw_ioctl(fd, FEATURE.request, MEMORY + PAGE - len(head))))
        for count in ((1 << 18) + 1, (1 << 32) - 1):
            poke(MEMORY, struct.pack("IIIIII", 24, _DMA_BUF | _GET, 0, 0, 0, count))
            say(f"{count} ranges", outcome(raw_ioctl(fd, FEATURE.request, MEMORY)))
        for argsz in (8, 23, 24):
            poke(MEMORY, struct.pack("IIIIIIQQ", argsz, _DMA_BUF | _GET, 0, 0, 0, 1, 0, PAGE))
            result = raw_ioctl(fd, FEATURE.request, MEMORY)
            _told(files, f"argsz {argsz}", result)
        say("at nothing", outcome(raw_ioctl(fd, FEATURE.request, NOWHERE)))


def mapping() -> None:
    """IOMMU_IOAS_MAP_FILE of a dma-buf."""
    with Files() as files:
        iommufd, fd, _ = bound(files)
        pwrite(fd, b"\x06\x00", CONFIG + 4)
        ioas = alloc(iommufd)
        must(fd, ATTACH, pt_id=ioas)
        buffer = files.keep(_export(fd, (PAGE, 4 * PAGE)))
        fine = {"flags": FIXED | RW, "ioas_id": ioas, "fd": buffer, "length": PAGE, "iova": _IOVA}
        for label, values in (
            ("a page", {}),
            ("the same IOVA", {}),
            ("behind the end", {"start": 4 * PAGE, "iova": _IOVA + PAGE}),
            ("over the end", {"start": 3 * PAGE, "length": 2 * PAGE, "iova": _IOVA + PAGE}),
            ("nothing", {"length": 0, "iova": _IOVA + PAGE}),
            ("the last page", {"start": 3 * PAGE, "iova": _IOVA + PAGE}),
            ("read only", {"flags": FIXED | 4, "iova": _IOVA + 2 * PAGE}),
            ("half a page", {"length": PAGE // 2, "iova": _IOVA + 3 * PAGE}),
            ("all of it", {"length": 4 * PAGE, "iova": _IOVA + 8 * PAGE}),
        ):
            ask(label, iommufd, MAP_FILE, **{**fine, **values})
        two = files.keep(_export(fd, (0, PAGE), (2 * PAGE, PAGE)))
        ask("of two ranges", iommufd, MAP_FILE, **{**fine, "fd": two, "iova": _IOVA + 16 * PAGE})
        files.close(buffer)
        ask("unmap", iommufd, UNMAP, ioas_id=ioas, iova=_IOVA, length=16 * PAGE)
        ask("unmap again", iommufd, UNMAP, ioas_id=ioas, iova=_IOVA, length=16 * PAGE)


def taking_back() -> None:
    """What takes a dma-buf back, and what gives it again."""
    with Files() as files:
        iommufd, fd, _ = bound(files)
        ioas = alloc(iommufd)
        buffer = files.keep(_export(fd, (0, PAGE)))
        spot = iter(range(_IOVA, 2 * _IOVA, PAGE))

        def tried(label: str) -> None:
            fields = {"flags": FIXED | RW, "ioas_id": ioas, "length": PAGE, "iova": next(spot)}
            ask(label, iommufd, MAP_FILE, fd=buffer, **fields)

        tried("at first")
        for value in (0, 4, 1, 5, 2, 6, 0x402, 7):
            pwrite(fd, struct.pack("<H", value), CONFIG + 4)
            tried(f"after command {value:#x}")
        pwrite(fd, b"\x00", CONFIG + 4)
        tried("after one byte of the command register")
        pwrite(fd, b"\x02\x00\x00\x00", CONFIG + 4)
        tried("after command and status at once")
        pwrite(fd, bytes(4), CONFIG + 0x10)
        tried("after another address in the BAR")
        say("reset", outcome(raw_ioctl(fd, RESET, 0)))
        tried("after a reset")
        call(fd, FEATURE, flags=_ENTRY)
        tried("in low power")
        call(fd, FEATURE, flags=_EXIT)
        tried("after low power")
        pwrite(fd, b"\x00\x00", CONFIG + 4)
        call(fd, FEATURE, flags=_ENTRY)
        call(fd, FEATURE, flags=_EXIT)
        tried("after low power with decoding off")
        late = files.keep(_export(fd, (0, PAGE)))
        fields = {"flags": FIXED | RW, "ioas_id": ioas, "fd": late, "length": PAGE, "iova": next(spot)}
        ask("made with decoding off", iommufd, MAP_FILE, **fields)
        pwrite(fd, b"\x06\x00", CONFIG + 4)
        ask("and decoding on again", iommufd, MAP_FILE, **fields)
        must(fd, ATTACH, pt_id=ioas)
        tried("attached")
        must(fd, DETACH)
        ask("unmap all", iommufd, UNMAP, ioas_id=ioas, iova=0, length=(1 << 64) - 1)
        files.close(fd)
        tried("after the device is closed")
        again = bound(files)[1]
        pwrite(again, b"\x06\x00", CONFIG + 4)
        tried("after it is opened again")


SECTIONS = (arguments, mapping, taking_back)
