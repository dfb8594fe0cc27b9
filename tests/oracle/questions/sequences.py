"""Random sequences of calls on a few objects: what a list of questions does not think of.

Each sequence has its own seed, a context of its own and the same memory. Arguments come from small pools, so that calls meet each
other: the same pages, neighbouring addresses, ids that were just freed. IOAS_SEQUENCES says how many (default 12).
"""

from __future__ import annotations

import mmap
import os
import random

from questions.calls import (
    MEMORY,
    PAGE,
    READ_WRITE,
    ULONG_MAX,
    Answer,
    Files,
    Shape,
    call,
    map_memory,
    memory,
    outcome,
    poke,
    raw_ioctl,
    say,
    unmap_memory,
)
from questions.shapes import (
    ACCESS_PAGES,
    ACCESS_REPLACE,
    ACCESS_RW,
    ALLOW_IOVAS,
    CHECK_MAP,
    CHECK_REFS,
    COPY,
    CREATE_ACCESS,
    DESTROY,
    DESTROY_PAGES,
    HWPT_ALLOC,
    IOAS_ALLOC,
    IOVA_RANGES,
    MAP,
    MAP_FILE,
    MOCK,
    OPTION,
    REPLACE,
    RESERVE,
    UNMAP,
    VFIO_DMA_MAP,
    VFIO_DMA_UNMAP,
    VFIO_IOAS,
)

_PAGES = 16
_BASE = 16 << 20
_SCRATCH = MEMORY + (64 << 20)
_STEPS = int(os.environ.get("IOAS_STEPS") or 150)


class Sequence:
    """One random sequence; `run` writes a line for each call."""

    def __init__(self, name: str, seed: int, files: Files, granule: int) -> None:
        """`granule`: what most lengths and addresses are multiples of."""
        self.name = name
        self.random = random.Random(seed)
        self.files = files
        self.granule = granule
        self.fd = files.iommufd()
        self.memfd = files.keep(os.memfd_create("probe"))
        os.ftruncate(self.memfd, _PAGES * PAGE)
        self.accesses: list[int] = []
        self.ids: dict[str, list[int]] = {"ioas": [], "handle": [], "table": [], "device": []}
        self.step = 0
        self.actions = (
            [self.alloc] * 2
            + [self.destroy] * 2
            + [self.map] * 12
            + [self.map_file] * 3
            + [self.copy] * 6
            + [self.unmap] * 7
            + [self.ranges] * 2
            + [self.mock] * 2
            + [self.replace] * 3
            + [self.table] * 2
            + [self.access] * 2
            + [self.access_pages] * 4
            + [self.access_rw] * 2
            + [self.refs] * 3
            + [self.check_map] * 4
            + [self.remap] * 3
            + [self.reserve, self.allow, self.option, self.compat, self.compat_map, self.compat_unmap, self.resize]
        )

    def run(self) -> None:
        """Ask all of it."""
        for self.step in (-2, -1):
            self.alloc()
        for self.step in range(_STEPS):
            self.random.choice(self.actions)()

    # -- arguments

    def pick(self, *kinds: str) -> int:
        """An id, nearly always of something of these kinds that is there."""
        known = [number for kind in kinds for number in self.ids[kind]]
        if known and self.random.random() < 0.95:
            return self.random.choice(known[-4:])
        return self.random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99))

    def bytes(self, most: int = 8) -> int:
        """A length."""
        if self.random.random() < 0.05:
            return self.random.choice((0, 1, 7, 2048, ULONG_MAX, ULONG_MAX - 1, 1 << 63))
        return self.granule * self.random.randrange(1, most + 1)

    def iova(self) -> int:
        """An IOVA, mostly near the others."""
        if self.random.random() < 0.05:
            return self.random.choice(
                (0, 5, PAGE, _BASE - PAGE, (1 << 31) - PAGE, 1 << 31, ULONG_MAX, ULONG_MAX - PAGE)
            )
        return _BASE + self.granule * self.random.randrange(24)

    def address(self) -> int:
        """A user address; seldom outside of the memory that is there."""
        return MEMORY + self.granule * self.random.randrange(_PAGES * PAGE // self.granule + 2)

    def flags(self) -> int:
        """Flags of MAP."""
        return self.random.choice((7, 7, 7, 7, 6, 6, 6, 5, 3, 4, 2, 1, 0, 15))

    # -- calls

    def ask(self, what: str, shape: Shape, show: tuple[str, ...] = (), **values: int) -> Answer:
        """Make a call and write down its result and the fields in `show`."""
        answer = call(self.fd, shape, **values)
        fields = " ".join(f"{name}={answer[name]:#x}" for name in show)
        say(f"{self.name} {self.step} {what}", f"{outcome(answer.result)} {fields}".strip())
        return answer

    def alloc(self) -> None:
        answer = self.ask("alloc", IOAS_ALLOC, ("out_ioas_id",))
        self.ids["ioas"].append(answer["out_ioas_id"])

    def destroy(self) -> None:
        number = self.pick("ioas", "handle", "handle", "table", "device")
        if self.ask(f"destroy {number}", DESTROY, id=number).result == 0:
            self.forget(number)

    def forget(self, number: int) -> None:
        """An object is gone."""
        for numbers in self.ids.values():
            if number in numbers:
                numbers.remove(number)

    def map(self) -> None:
        ioas, flags, address, length, iova = self.pick("ioas"), self.flags(), self.address(), self.bytes(), self.iova()
        what = f"map {ioas} {flags} {address - MEMORY:#x} {length:#x} {iova:#x}"
        self.ask(what, MAP, ("iova",), ioas_id=ioas, flags=flags, user_va=address, length=length, iova=iova)

    def map_file(self) -> None:
        ioas, flags, start, length, iova = (
            self.pick("ioas"),
            self.flags(),
            self.address() - MEMORY,
            self.bytes(),
            self.iova(),
        )
        what = f"map_file {ioas} {flags} {start:#x} {length:#x} {iova:#x}"
        values = {"ioas_id": ioas, "flags": flags, "start": start, "length": length, "iova": iova}
        self.ask(what, MAP_FILE, ("iova",), **values, fd=self.memfd)

    def copy(self) -> None:
        source, target, flags = self.pick("ioas"), self.pick("ioas"), self.flags()
        here, there, length = self.iova(), self.iova(), self.bytes()
        what = f"copy {source}:{here:#x} to {target}:{there:#x} {length:#x} {flags}"
        values = {"src_ioas_id": source, "dst_ioas_id": target, "src_iova": here, "dst_iova": there}
        self.ask(what, COPY, ("dst_iova",), **values, length=length, flags=flags)

    def unmap(self) -> None:
        ioas, iova, length = self.pick("ioas"), self.iova(), self.bytes(16)
        if self.random.random() < 0.1:
            iova, length = 0, ULONG_MAX
        self.ask(f"unmap {ioas} {iova:#x} {length:#x}", UNMAP, ("length",), ioas_id=ioas, iova=iova, length=length)

    def ranges(self) -> None:
        ioas = self.pick("ioas")
        fields = ("num_iovas", "out_iova_alignment")
        self.ask(f"ranges {ioas}", IOVA_RANGES, fields, ioas_id=ioas, num_iovas=8, allowed_iovas=_SCRATCH)

    def reserve(self) -> None:
        ioas, start, length = self.pick("ioas"), self.iova() + (8 << 20), self.bytes()
        self.ask(f"reserve {ioas} {start:#x} {length:#x}", RESERVE, op=1, id=ioas, start=start, length=length)

    def allow(self) -> None:
        ioas, start, length = self.pick("ioas"), self.iova(), self.bytes(64)
        last = min(start + length, ULONG_MAX)
        poke(_SCRATCH, start.to_bytes(8, "little") + last.to_bytes(8, "little"))
        count = self.random.choice((0, 0, 1, 1, 2))
        what = f"allow {ioas} {count} {start:#x}-{last:#x}"
        self.ask(what, ALLOW_IOVAS, ioas_id=ioas, num_iovas=count, allowed_iovas=_SCRATCH)
        poke(_SCRATCH, bytes(64))

    def option(self) -> None:
        ioas, value = self.pick("ioas"), self.random.choice((0, 0, 1))
        self.ask(f"small pages {ioas} {value}", OPTION, option_id=1, object_id=ioas, val64=value)

    def mock(self) -> None:
        pt, flags = self.pick("ioas", "ioas", "table"), self.random.choice((0, 0, 0, 1))
        fields = ("out_stdev_id", "out_hwpt_id", "out_idev_id")
        answer = self.ask(f"mock {pt} {flags}", MOCK, fields, op=12, id=pt, dev_flags=flags)
        if answer.result == 0:
            for kind, name in zip(("handle", "table", "device"), fields, strict=True):
                self.ids[kind].append(answer[name])

    def replace(self) -> None:
        device, pt = self.pick("handle"), self.pick("ioas", "table")
        answer = self.ask(f"replace {device} by {pt}", REPLACE, ("pt_id",), op=10, id=device, pt_id=pt)
        if answer.result == 0:
            self.ids["table"].append(answer["pt_id"])

    def table(self) -> None:
        device, pt, flags = self.pick("device"), self.pick("ioas", "ioas", "table"), self.random.choice((0, 0, 1, 2, 8))
        what = f"table {device} {pt} {flags}"
        answer = self.ask(what, HWPT_ALLOC, ("out_hwpt_id",), dev_id=device, pt_id=pt, flags=flags)
        if answer.result == 0:
            self.ids["table"].append(answer["out_hwpt_id"])

    def access(self) -> None:
        if len(self.accesses) > 2:
            self.files.close(self.accesses.pop(0))
        ioas, flags = self.pick("ioas"), self.random.choice((0, 1, 1))
        answer = self.ask(f"access {ioas} {flags}", CREATE_ACCESS, op=5, id=ioas, flags=flags)
        if answer.result >= 0:
            self.accesses.append(self.files.keep(answer["out_access_fd"]))

    def _access(self) -> int:
        return self.random.choice(self.accesses) if self.accesses else 999

    def access_pages(self) -> None:
        access = self._access()
        if self.random.random() < 0.3:
            held = self.random.randrange(4)
            self.ask(f"give back {held}", DESTROY_PAGES, op=6, id=access, access_pages_id=held)
        elif self.random.random() < 0.1:
            ioas = self.pick("ioas")
            self.ask(f"access to {ioas}", ACCESS_REPLACE, op=11, id=access, ioas_id=ioas)
        else:
            iova, length, flags = self.iova(), min(self.bytes(), 1 << 20), self.random.choice((0, 1))
            what = f"pages {iova:#x} {length:#x} {flags}"
            values = {"iova": iova, "length": length, "flags": flags}
            self.ask(what, ACCESS_PAGES, ("out_access_pages_id",), op=7, id=access, **values)

    def access_rw(self) -> None:
        iova, length, flags = self.iova(), min(self.bytes(), 16 * PAGE), self.random.choice((0, 4))
        what = f"read {iova:#x} {length:#x} {flags}"
        self.ask(what, ACCESS_RW, op=8, id=self._access(), iova=iova, length=length, flags=flags, uptr=_SCRATCH)

    def refs(self) -> None:
        page = self.random.randrange(_PAGES)
        for count in range(8):
            values = {"op": 4, "length": PAGE, "uptr": MEMORY + page * PAGE, "refs": count}
            if call(self.fd, CHECK_REFS, **values).result >= 0:
                say(f"{self.name} {self.step} page {page} is pinned", count)
                return
        say(f"{self.name} {self.step} page {page} is pinned", "often")

    def check_map(self) -> None:
        table, iova, address = self.pick("table"), self.iova(), self.address() & -PAGE
        what = f"check {table} {iova:#x} {address - MEMORY:#x}"
        self.ask(what, CHECK_MAP, op=3, id=table, iova=iova, length=2048, uptr=address)

    def remap(self) -> None:
        """Other memory in the place of a page, or none, or memory that cannot be written."""
        page, sort = self.random.randrange(_PAGES), self.random.choice(("new", "new", "new", "hole", "read-only"))
        where = MEMORY + page * PAGE
        unmap_memory(where, PAGE)
        if sort != "hole":
            map_memory(PAGE, where, READ_WRITE if sort == "new" else mmap.PROT_READ)
        say(f"{self.name} {self.step} page {page}", sort)

    def resize(self) -> None:
        """Another length of the file; no page goes, for pinned pages that go are asked about in `tables`."""
        length = self.random.choice((_PAGES * PAGE, _PAGES * PAGE + 1, _PAGES * PAGE - 5))
        os.ftruncate(self.memfd, length)
        say(f"{self.name} {self.step} the file has", length)

    def compat(self) -> None:
        op, ioas = self.random.choice((0, 1, 1, 2)), self.pick("ioas")
        self.ask(f"compat {op} {ioas}", VFIO_IOAS, ("ioas_id",), op=op, ioas_id=ioas)
        if self.random.random() < 0.3:
            say(f"{self.name} {self.step} type 1", outcome(raw_ioctl(self.fd, 0x3B66, 1)))

    def compat_map(self) -> None:
        address, length, iova = self.address(), self.bytes(), self.iova()
        what = f"compat map {address - MEMORY:#x} {length:#x} {iova:#x}"
        self.ask(what, VFIO_DMA_MAP, flags=3, vaddr=address, size=length, iova=iova)

    def compat_unmap(self) -> None:
        length, iova = self.bytes(), self.iova()
        self.ask(f"compat unmap {length:#x} {iova:#x}", VFIO_DMA_UNMAP, ("size",), size=length, iova=iova)


def _run(granule: int) -> None:
    first = int(os.environ.get("IOAS_FIRST_SEQUENCE") or 0)
    for seed in range(first, first + int(os.environ.get("IOAS_SEQUENCES") or 12)):
        with Files() as files, memory(_PAGES * PAGE), memory(16 * PAGE, _SCRATCH):
            poke(MEMORY, bytes(_PAGES * PAGE))
            Sequence(f"{seed}:", seed * 10000 + granule, files, granule).run()


def pages() -> None:
    """Whole pages."""
    _run(PAGE)


def halves() -> None:
    """Half pages, which is what the mock devices' IOMMU can do."""
    _run(2048)


def odd() -> None:
    """Any bytes."""
    _run(509)


SECTIONS = (pages, halves, odd)
