"""Where MAP without FIXED_IOVA puts things."""

from __future__ import annotations

from questions.calls import MEMORY, PAGE, ULONG_MAX, Files, ask, memory, must
from questions.shapes import FIXED, MAP, RW, UNMAP
from questions.space import MiB, alloc, allow, reserve


def sequence() -> None:
    """One mapping after the other, of many lengths and offsets; then holes are filled."""
    with Files() as files, memory(8 * MiB):
        fd = files.iommufd()
        ioas = alloc(fd)
        for length in (
            1,
            PAGE - 1,
            PAGE,
            PAGE + 1,
            2 * PAGE,
            3 * PAGE,
            64 * 1024,
            65 * 1024,
            MiB,
            2 * MiB,
            3 * MiB,
            7 * MiB,
        ):
            for offset in (0, 1, 8, 2048, PAGE, PAGE + 512, 2 * PAGE, 64 * 1024, MiB):
                label = f"length {length:#x} of offset {offset:#x}"
                ask(label, fd, MAP, ioas_id=ioas, user_va=MEMORY + offset, length=length, flags=RW)
        for iova in (0x1000, 0x3000, 0x200000):
            ask(f"unmap at {iova:#x}", fd, UNMAP, ioas_id=ioas, iova=iova, length=PAGE)
        for length in (PAGE, 2 * PAGE, 1):
            ask(f"then length {length:#x}", fd, MAP, ioas_id=ioas, user_va=MEMORY, length=length, flags=RW)


def hints() -> None:
    """The iova given is no hint; addresses nowhere are placed as well."""
    with Files() as files:
        fd = files.iommufd()
        ioas = alloc(fd)
        for iova in (0, 5, 1 << 40, ULONG_MAX - 1):
            ask(f"with iova {iova:#x}", fd, MAP, ioas_id=ioas, user_va=1 << 31, length=PAGE, iova=iova, flags=RW)
        ask("with iova max", fd, MAP, ioas_id=ioas, user_va=1 << 31, length=PAGE, iova=ULONG_MAX, flags=RW)
        for address in (0, PAGE, 1 << 20, 1 << 21, 1 << 22, 1 << 30, (1 << 47) - PAGE, 1 << 62, 0x7FFF_FFFF_FFF8):
            ask(f"from {address:#x}", fd, MAP, ioas_id=ioas, user_va=address, length=PAGE, flags=RW)
        for length in (1 << 30, 1 << 40, 1 << 62, 1 << 63, 3 << 62, ULONG_MAX - (1 << 20)):
            ask(f"length {length:#x}", fd, MAP, ioas_id=ioas, user_va=0, length=length, flags=RW)
        ask("length 0", fd, MAP, ioas_id=ioas, length=0, flags=RW)
        ask("a wrap", fd, MAP, ioas_id=ioas, user_va=ULONG_MAX, length=1, flags=RW)


def windows() -> None:
    """Between reserved and inside allowed ranges."""
    with Files() as files, memory(4 * MiB):
        fd = files.iommufd()
        ioas = alloc(fd)

        def put(label: str, length: int, offset: int = 0) -> None:
            ask(label, fd, MAP, ioas_id=ioas, user_va=MEMORY + offset, length=length, flags=RW)

        reserve("reserve the first MiB", fd, ioas, 0, MiB)
        reserve("reserve 2 to 3 MiB", fd, ioas, 2 * MiB, MiB)
        put("a page", PAGE)
        put("a MiB", MiB)
        put("half a MiB", MiB // 2)
        put("a page and a byte", PAGE + 1)
        reserve("reserve a byte in the middle of a page", fd, ioas, 9 * MiB + 5, 1)
        put("4 MiB", 4 * MiB)
        put("4 MiB again", 4 * MiB)
        allow("allow a page", fd, ioas, (64 * MiB, 64 * MiB + PAGE - 1))
        put("into the allowed page", PAGE)
        put("into the allowed page again", PAGE)
        put("two pages", 2 * PAGE)
        allow("allow odd bytes", fd, ioas, (65 * MiB + 1, 65 * MiB + 3 * PAGE))
        put("a page of odd bytes", PAGE)
        put("bytes of odd bytes", 64, 64)
        put("page offset 0xfff", 1, 0xFFF)
        allow("allow two ranges", fd, ioas, (80 * MiB, 81 * MiB - 1), (70 * MiB, 70 * MiB + PAGE - 1))
        put("fits the second only", 64 * 1024)
        put("fits the first", PAGE)
        put("goes on", PAGE)
        allow(
            "allow adjacent ranges",
            fd,
            ioas,
            (90 * MiB, 90 * MiB + PAGE - 1),
            (90 * MiB + PAGE, 90 * MiB + 2 * PAGE - 1),
        )
        put("across both", 2 * PAGE)
        put("in one", PAGE)
        allow("allow the lowest", fd, ioas, (0, 2 * PAGE))
        allow("allow nothing", fd, ioas)
        put("anywhere", PAGE)
        reserve("reserve all the rest", fd, ioas, 100 * MiB, ULONG_MAX - 100 * MiB)
        put("no room for 64 MiB", 64 * MiB)
        must(fd, MAP, ioas_id=ioas, user_va=MEMORY, length=PAGE, iova=95 * MiB, flags=FIXED | RW)
        put("room for 2 MiB", 2 * MiB)


def edges() -> None:
    """The ends of the IOVA space."""
    with Files() as files, memory(4 * MiB):
        fd = files.iommufd()
        ioas = alloc(fd)

        def put(label: str, length: int, offset: int = 0) -> None:
            ask(label, fd, MAP, ioas_id=ioas, user_va=MEMORY + offset, length=length, flags=RW)

        last = ULONG_MAX - 3 * PAGE + 1
        reserve("all but the last three pages", fd, ioas, 0, last)
        put("two pages at the end", 2 * PAGE)
        put("a page at the end", PAGE)
        put("another", PAGE)
        put("and another", PAGE)
        second = alloc(fd)
        reserve("all but the first three pages", fd, second, 3 * PAGE, ULONG_MAX - 3 * PAGE + 1)
        for index in range(3):
            ask(f"page {index} at the start", fd, MAP, ioas_id=second, user_va=MEMORY, length=PAGE, flags=RW)
        third = alloc(fd)
        ask("one byte with offset 0xfff", fd, MAP, ioas_id=third, user_va=MEMORY + 0xFFF, length=1, flags=RW)
        ask("two bytes with offset 0xfff", fd, MAP, ioas_id=third, user_va=MEMORY + 0xFFF, length=2, flags=RW)
        ask("one byte with offset 0", fd, MAP, ioas_id=third, user_va=MEMORY, length=1, flags=RW)
        ask("one byte with offset 1", fd, MAP, ioas_id=third, user_va=MEMORY + 1, length=1, flags=RW)
        ask("and again", fd, MAP, ioas_id=third, user_va=MEMORY + 1, length=1, flags=RW)


SECTIONS = (sequence, hints, windows, edges)
