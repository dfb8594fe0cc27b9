"""A device file: opening, BIND_IOMMUFD, ATTACH, DETACH, closing."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import stat
import struct

from questions.calls import (
    MEMORY,
    NOWHERE,
    PAGE,
    U32_MAX,
    Files,
    ask,
    attempt,
    call,
    map_memory,
    memory,
    must,
    outcome,
    poke,
    pread,
    pwrite,
    raw_ioctl,
    say,
    shown,
)
from questions.shapes import (
    ATTACH,
    BIND,
    CONFIG,
    DESTROY,
    DETACH,
    DEVICE,
    DEVICE_INFO,
    FEATURE,
    FIXED,
    GET_HW_INFO,
    HOT_RESET,
    HOT_RESET_INFO,
    HWPT_ALLOC,
    IOAS_ALLOC,
    IOEVENTFD,
    IRQ_INFO,
    MAP,
    OPTION,
    REGION_INFO,
    RESET,
    RW,
    SET_IRQS,
    UNMAP,
)
from questions.space import MiB, alloc, allow, ranges_of, reserve

_STRUCTURES = (
    ATTACH,
    DETACH,
    DEVICE_INFO,
    REGION_INFO,
    IRQ_INFO,
    SET_IRQS,
    HOT_RESET_INFO,
    HOT_RESET,
    IOEVENTFD,
    FEATURE,
)


def bound(files: Files) -> tuple[int, int, int]:
    """A new iommufd and the device bound to it: both descriptors and the device's id."""
    iommufd, device = files.iommufd(), files.open(DEVICE)
    return iommufd, device, must(device, BIND, iommufd=iommufd)["out_devid"]


def before() -> None:
    """Everything that is refused before BIND."""
    with Files() as files, memory(PAGE):
        fd = files.open(DEVICE)
        for shape in _STRUCTURES:
            ask(shape.name, fd, shape)
            say(f"{shape.name} at NULL", outcome(raw_ioctl(fd, shape.request, 0)))
        say("RESET", outcome(raw_ioctl(fd, RESET, 0)))
        for request in (0, 0x3B00, 0x3B64, 0x3B67, 0x3B68, 0x3B79, 0x3B80, 0x3B81, 0x3BFF, 0x5401):
            say(f"request {request:#x}", outcome(raw_ioctl(fd, request, MEMORY)))
        for offset in (0, CONFIG, 9 << 40, 1 << 62, -1):
            say(f"pread at {offset:#x}", shown(pread(fd, 4, offset)))
            say(f"pwrite at {offset:#x}", outcome(pwrite(fd, b"1234", offset)))
            say(f"pread of nothing at {offset:#x}", shown(pread(fd, 0, offset)))
        attempt("read", lambda: os.read(fd, 4))
        attempt("write", lambda: os.write(fd, b"1234"))
        say("mmap", outcome(min(0, map_memory(PAGE, MEMORY + PAGE, 3, mmap.MAP_SHARED, fd, 0))))
        say("mmap private", outcome(min(0, map_memory(PAGE, MEMORY + PAGE, 3, mmap.MAP_PRIVATE, fd, 0))))


def bind() -> None:
    """BIND_IOMMUFD: what it refuses, what wins, and twice."""
    with Files() as files, memory(PAGE), memory(PAGE, MEMORY + PAGE, mmap.PROT_READ):
        iommufd, fd, other = files.iommufd(), files.open(DEVICE), files.open(DEVICE)

        def tried(label: str, of: int = fd, **values: int) -> int:
            return ask(label, of, BIND, **{"iommufd": iommufd, **values})["out_devid"]

        say("NULL", outcome(raw_ioctl(fd, BIND.request, 0)))
        say("nowhere", outcome(raw_ioctl(fd, BIND.request, NOWHERE)))
        for argsz in (0, 8, 12, 15):
            tried(f"argsz {argsz}", argsz=argsz)
        tried("unknown flag", flags=2)
        tried("iommufd -1", iommufd=-1)
        tried("iommufd -2", iommufd=-2)
        tried("iommufd min", iommufd=-(1 << 31))
        tried("iommufd 999", iommufd=999)
        tried("iommufd is the device", iommufd=fd)
        tried("iommufd is another opening of it", iommufd=other)
        tried("iommufd is an eventfd", iommufd=files.eventfd())
        tried("iommufd is a file", iommufd=files.open("/proc/self/exe", os.O_RDONLY))
        tried("iommufd is a pipe", iommufd=_pipe(files))
        tried("iommufd by O_PATH", iommufd=files.open("/proc/self/exe", os.O_PATH))
        tried("argsz and iommufd", argsz=8, iommufd=-1)
        tried("flags and iommufd", flags=2, iommufd=999)
        tried("flags and negative iommufd", flags=2, iommufd=-1)
        tried("token NULL", flags=1)
        tried("token nowhere", flags=1, token_uuid_ptr=NOWHERE)
        tried("token", flags=1, token_uuid_ptr=MEMORY)
        tried("token and a bad iommufd", flags=1, token_uuid_ptr=MEMORY, iommufd=999)
        tried("token in the first version's size", flags=1, argsz=16, token_uuid_ptr=MEMORY)
        ask("tail not zero", fd, BIND, tail=b"\0\0\0\1", argsz=28, iommufd=iommufd)
        ask("tail not zero and flags", fd, BIND, tail=b"\0\0\0\1", argsz=28, iommufd=iommufd, flags=2)
        poke(MEMORY, BIND.pack(argsz=U32_MAX, iommufd=iommufd))
        say("4 GiB", outcome(raw_ioctl(fd, BIND.request, MEMORY)))
        poke(MEMORY + PAGE - 16, struct.pack("<IIiI", 24, 0, iommufd, 0))
        say("token not zero and no flag", tried("with a pointer that is not used", token_uuid_ptr=5) > 0)
        tried("twice")
        tried("twice, unknown flag", flags=2)
        tried("twice, bad iommufd", iommufd=999)
        tried("twice, iommufd -1", iommufd=-1)
        tried("twice, eventfd", iommufd=files.eventfd())
        tried("the other opening", other)
        tried("the other opening, another iommufd", other, iommufd=files.iommufd())
        tried("the other opening, bad iommufd", other, iommufd=999)
        ask("the other opening is not bound", other, DEVICE_INFO)
        ask("destroy the device", iommufd, DESTROY, id=1)
        ask("the next id", iommufd, IOAS_ALLOC)
        files.close(fd)
        ask("the device is gone", iommufd, DESTROY, id=1)
        tried("the other opening, now", other)
        ask("and works", other, DEVICE_INFO)
    with Files() as files, memory(PAGE), memory(PAGE, MEMORY + PAGE, mmap.PROT_READ):
        fd = files.open(DEVICE)
        poke(MEMORY, BIND.pack(argsz=16, iommufd=files.iommufd()))
        from questions.calls import protect_memory

        protect_memory(MEMORY, PAGE, mmap.PROT_READ)
        say("answer to read-only memory", outcome(raw_ioctl(fd, BIND.request, MEMORY)))
        protect_memory(MEMORY, PAGE, 3)
        ask("can be bound after that", fd, BIND, argsz=16, iommufd=files.iommufd())


def _pipe(files: Files) -> int:
    ends = os.pipe()
    files.keep(ends[1])
    return files.keep(ends[0])


def attach() -> None:
    """ATTACH and DETACH."""
    with Files() as files, memory(PAGE):
        iommufd, fd, device = bound(files)
        one, two = alloc(iommufd), alloc(iommufd)

        def attached(label: str, **values: int) -> int:
            return ask(f"attach {label}", fd, ATTACH, **{"pt_id": one, **values})["pt_id"]

        def detached(label: str, **values: int) -> None:
            ask(f"detach {label}", fd, DETACH, **values)

        say("attach at NULL", outcome(raw_ioctl(fd, ATTACH.request, 0)))
        for argsz in (0, 8, 11):
            attached(f"argsz {argsz}", argsz=argsz)
        attached("unknown flag", flags=2)
        attached("unknown flag and table", flags=2, pt_id=99)
        attached("argsz and flag", flags=2, argsz=8)
        attached("0", pt_id=0)
        attached("unknown", pt_id=99)
        attached("the device", pt_id=device)
        attached("PASID in 12 bytes", flags=1, argsz=12)
        attached("PASID in 15 bytes", flags=1, argsz=15)
        attached("PASID 0", flags=1)
        attached("PASID 5", flags=1, pasid=5)
        attached("PASID max", flags=1, pasid=U32_MAX)
        attached("PASID 2**31", flags=1, pasid=1 << 31)
        attached("PASID of an unknown table", flags=1, pasid=5, pt_id=99)
        detached("nothing")
        detached("argsz 4", argsz=4)
        detached("argsz 7", argsz=7)
        detached("argsz 8", argsz=8)
        detached("unknown flag", flags=2)
        detached("PASID in 8 bytes", flags=1, argsz=8)
        detached("PASID 0", flags=1)
        detached("PASID 5", flags=1, pasid=5)
        table = attached("an IOAS", argsz=12)
        ranges_of("the IOAS", iommufd, one)
        ask("destroy the IOAS", iommufd, DESTROY, id=one)
        ask("destroy the table", iommufd, DESTROY, id=table)
        ask("destroy the device", iommufd, DESTROY, id=device)
        attached("the same IOAS")
        attached("the same table", pt_id=table)
        attached("another IOAS", pt_id=two)
        ask("the old table is gone", iommufd, DESTROY, id=table)
        ranges_of("the first IOAS", iommufd, one)
        attached("unknown, while attached", pt_id=99)
        attached("the device, while attached", pt_id=device)
        by_hand = ask("HWPT_ALLOC", iommufd, HWPT_ALLOC, dev_id=device, pt_id=one)["out_hwpt_id"]
        attached("a table by hand", pt_id=by_hand)
        ask("destroy the table by hand", iommufd, DESTROY, id=by_hand)
        detached("it")
        detached("it again")
        ask("destroy the table by hand now", iommufd, DESTROY, id=by_hand)
        for flags in (1, 2, 3, 4, 5, 8, 9, 16):
            answer = ask(f"HWPT_ALLOC flags {flags}", iommufd, HWPT_ALLOC, dev_id=device, pt_id=one, flags=flags)
            if answer.result >= 0:
                attached(f"flags {flags}", pt_id=answer["out_hwpt_id"])
        detached("the last")
        ask(
            "HWPT_ALLOC with data",
            iommufd,
            HWPT_ALLOC,
            dev_id=device,
            pt_id=one,
            data_type=1,
            data_len=24,
            data_uptr=MEMORY,
        )
        must(iommufd, MAP, ioas_id=two, user_va=MEMORY, length=PAGE, iova=0xFEE00000, flags=FIXED | RW)
        attached("an IOAS with a mapping where interrupts are", pt_id=two)
        ask("unmap it", iommufd, UNMAP, ioas_id=two, iova=0xFEE00000, length=PAGE)
        must(iommufd, MAP, ioas_id=two, user_va=MEMORY, length=PAGE, iova=0xFEDFF000, flags=FIXED | RW)
        must(iommufd, MAP, ioas_id=two, user_va=MEMORY, length=PAGE, iova=0xFEF00000, flags=FIXED | RW)
        attached("an IOAS with mappings beside", pt_id=two)
        allow("allow interrupts", iommufd, two, (0xFEE00000, 0xFEE00FFF))
        reserve("reserve elsewhere", iommufd, two, 16 * MiB, PAGE)
        for name, values in (
            ("in the interrupt window", {"iova": 0xFEE01000}),
            ("into the interrupt window", {"iova": 0xFEDFE000, "length": 3 * PAGE}),
            ("odd", {"iova": 17 * MiB + 1}),
            ("odd length", {"iova": 17 * MiB, "length": PAGE + 1}),
            ("half", {"iova": 17 * MiB, "length": 2048}),
            ("odd address", {"iova": 17 * MiB, "user_va": MEMORY + 1}),
            ("the last page", {"iova": (1 << 48) - PAGE}),
            ("the last page of 39 bits", {"iova": (1 << 39) - PAGE}),
            ("beyond 39 bits", {"iova": 1 << 39}),
            ("beyond 48 bits", {"iova": 1 << 48}),
            ("fine", {"iova": 17 * MiB}),
            ("automatic", {"flags": RW}),
            ("nowhere", {"iova": 18 * MiB, "user_va": NOWHERE}),
            ("read only", {"iova": 18 * MiB, "flags": FIXED | 4}),
            ("write only", {"iova": 19 * MiB, "flags": FIXED | 2}),
        ):
            fine = {"ioas_id": two, "user_va": MEMORY, "length": PAGE, "flags": FIXED | RW}
            ask(f"map {name}", iommufd, MAP, **{**fine, **values})
        ask("small pages", iommufd, OPTION, option_id=1, object_id=two, val64=0)
        _hw_info(iommufd, device)
        ranges_of("everything", iommufd, two)


def _hw_info(iommufd: int, device: int) -> None:
    with memory(PAGE, MEMORY + 8 * PAGE):
        for room in (0, 4, 24, 25, 64):
            poke(MEMORY + 8 * PAGE, b"\x55" * 64)
            answer = call(iommufd, GET_HW_INFO, dev_id=device, data_len=room, data_uptr=MEMORY + 8 * PAGE)
            say(f"hw_info room {room}", f"{outcome(answer.result)} type {answer['data_type']} len {answer['data_len']}")
        for kind in (0, 1, 2, 4):
            answer = call(iommufd, GET_HW_INFO, dev_id=device, flags=1, data_type=kind)
            say(f"hw_info type {kind}", f"{outcome(answer.result)} type {answer['data_type']} len {answer['data_len']}")
        answer = must(iommufd, GET_HW_INFO, dev_id=device)
        say("hw_info PASID width", answer["out_max_pasid_log2"])
        say("hw_info capabilities", answer["out_capabilities"])


def closing() -> None:
    """Who may be closed first, and who keeps what alive."""
    with Files() as files, memory(PAGE):
        iommufd, fd, _ = bound(files)
        ioas = alloc(iommufd)
        must(fd, ATTACH, pt_id=ioas)
        files.close(iommufd)
        ask("iommufd closed: info", fd, DEVICE_INFO)
        ask("iommufd closed: attach", fd, ATTACH, pt_id=ioas)
        ask("iommufd closed: detach", fd, DETACH)
        ask("iommufd closed: attach after detach", fd, ATTACH, pt_id=ioas)
        again = files.open(DEVICE)
        ask("another opening cannot be bound", again, BIND, iommufd=files.iommufd())
        files.close(fd)
        ask("closed: it can", again, BIND, iommufd=files.iommufd())
        files.close(again)
        iommufd, fd, device = bound(files)
        ioas = alloc(iommufd)
        table = must(fd, ATTACH, pt_id=ioas)["pt_id"]
        copy = files.keep(os.dup(fd))
        files.close(fd)
        ask("a duplicate keeps it bound", copy, DEVICE_INFO)
        child = os.fork()
        if not child:
            ask("in a child", copy, DEVICE_INFO)
            ask("a child detaches", copy, DETACH)
            os._exit(0)
        os.waitpid(child, 0)
        ask("after the child", copy, DEVICE_INFO)
        ask("the table is gone since the child detached", iommufd, DESTROY, id=table)
        ready, go = os.pipe()
        child = os.fork()
        if not child:
            os.close(go)
            os.read(ready, 1)
            os._exit(0)
        os.close(ready)
        files.close(copy)
        ask("a child keeps it bound", iommufd, DESTROY, id=device)
        os.close(go)
        os.waitpid(child, 0)
        ask("the child is gone", iommufd, DESTROY, id=device)
        ask("the IOAS can go", iommufd, DESTROY, id=ioas)
        fresh = files.open(DEVICE)
        ask("bound again: the id", fresh, BIND, iommufd=iommufd)
        with_map = alloc(iommufd)
        must(fresh, ATTACH, pt_id=with_map)
        must(iommufd, MAP, ioas_id=with_map, user_va=MEMORY, length=PAGE, iova=MiB, flags=FIXED | RW)
        files.close(fresh)
        ask("closed while attached: unmap", iommufd, UNMAP, ioas_id=with_map, iova=MiB, length=PAGE)
        ask("closed while attached: destroy", iommufd, DESTROY, id=with_map)


def the_file() -> None:
    """Everything that can be done with a file, done with the device's."""
    with Files() as files:
        fd = files.open(DEVICE)
        status = os.fstat(fd)
        say("is a character device", stat.S_ISCHR(status.st_mode))
        say("minor of the node and the file", os.stat(DEVICE).st_rdev == status.st_rdev)
        with open("/sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/dev") as file:
            say("sysfs says so too", file.read().strip() == f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        say("poll", poll.poll(0)[0][1] if poll.poll(0) else "nothing")
        for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            attempt(f"lseek {whence}", lambda whence=whence: os.lseek(fd, 4, whence))
        attempt("ftruncate", lambda: os.ftruncate(fd, 0))
        attempt("fsync", lambda: os.fsync(fd))
        say("F_GETFL", f"{fcntl.fcntl(fd, fcntl.F_GETFL) & ~0o100000:o}")
        say("FIONREAD", outcome(raw_ioctl(fd, 0x541B, MEMORY)))
        must(fd, BIND, iommufd=files.iommufd())
        os.lseek(fd, 0, os.SEEK_SET) if attempt("position", lambda: os.lseek(fd, 0, os.SEEK_CUR)) is not None else None
        attempt("read moves the position", lambda: os.read(fd, 4))
        attempt("position after", lambda: os.lseek(fd, 0, os.SEEK_CUR))
        for whence, offset in ((0, CONFIG), (1, 4), (2, 0), (0, -1), (1, -(1 << 62)), (0, 1 << 62)):
            attempt(
                f"bound: lseek {whence} {offset:#x}", lambda whence=whence, offset=offset: os.lseek(fd, offset, whence)
            )
            attempt(f"bound: then read {whence} {offset:#x}", lambda: os.read(fd, 4))
        for offset in (-1, -(1 << 40), (1 << 63) - 1, (1 << 63) - 4, 1 << 62, 100 << 40):
            say(f"pread at {offset:#x}", shown(pread(fd, 4, offset)))
            say(f"pwrite at {offset:#x}", outcome(pwrite(fd, b"1234", offset)))
        attempt("preadv", lambda: os.preadv(fd, [bytearray(2), bytearray(2)], CONFIG))
        attempt("pwritev", lambda: os.pwritev(fd, [b"\0"], CONFIG))
        attempt("readv", lambda: os.readv(fd, [bytearray(2)]))
        with memory(PAGE):
            _to_bad_memory(fd)


def _to_bad_memory(fd: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for name, address, length in (("nowhere", NOWHERE, 4), ("half there", MEMORY + PAGE - 2, 4), ("NULL", 0, 4)):
        for call_name in ("pread", "pwrite"):
            function = getattr(libc, call_name)
            function.restype = ctypes.c_ssize_t
            for what, offset in (("config", CONFIG), ("BAR", 0)):
                result = function(fd, ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_long(offset))
                say(f"{call_name} of {what}, memory {name}", outcome(result if result >= 0 else -ctypes.get_errno()))


def openings() -> None:
    """Flags of open."""
    for name, flags in (
        ("O_RDONLY", os.O_RDONLY),
        ("O_WRONLY", os.O_WRONLY),
        ("O_RDWR", os.O_RDWR),
        ("O_RDWR|O_NONBLOCK", os.O_RDWR | os.O_NONBLOCK),
        ("O_RDWR|O_SYNC", os.O_RDWR | os.O_SYNC),
        ("O_RDWR|O_CREAT|O_EXCL", os.O_RDWR | os.O_CREAT | os.O_EXCL),
        ("O_DIRECTORY", os.O_DIRECTORY),
    ):
        with Files() as files:
            try:
                fd = files.open(DEVICE, flags)
            except OSError as error:
                say(f"open {name}", outcome(-(error.errno or 0)))
                continue
            ask(f"bind {name}", fd, BIND, iommufd=files.iommufd())
            say(f"pread {name}", shown(pread(fd, 2, CONFIG)))
            say(f"pwrite {name}", outcome(pwrite(fd, b"\0", CONFIG + 0x3C)))
            for protection in (0, 1, 2, 3):
                result = map_memory(PAGE, MEMORY, protection, mmap.MAP_SHARED, fd, CONFIG)
                say(f"mmap of config {protection} {name}", outcome(min(0, result)))
    attempt("vfio1", lambda: os.open("/dev/vfio/devices/vfio1", os.O_RDWR))
    attempt("directory", lambda: sorted(os.listdir("/dev/vfio/devices")))
    attempt("directory of groups", lambda: len(os.listdir("/dev/vfio")))


SECTIONS = (before, bind, attach, closing, the_file, openings)
