"""How commands reach iommufd: sizes, trailing bytes, pointers, request numbers; and the file itself."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import stat

from questions.calls import (
    MEMORY,
    NOWHERE,
    PAGE,
    PRIVATE,
    SHARED,
    U32_MAX,
    Files,
    Shape,
    ask,
    attempt,
    map_memory,
    memory,
    outcome,
    peek,
    poke,
    pread,
    pwrite,
    raw_ioctl,
    say,
    shown,
)
from questions.shapes import ALLOW_IOVAS, DESTROY, FAULT_ALLOC, IOAS_ALLOC, MINIMUM, OPTION, TEST

_COMMANDS = {**MINIMUM, TEST: 68}


def sizes() -> None:
    """Every command with every wrong size."""
    for shape, least in _COMMANDS.items():
        with Files() as files, memory(PAGE, MEMORY), memory(PAGE, MEMORY + PAGE, mmap.PROT_READ):
            _sizes_of(shape, least, files)


def _sizes_of(shape: Shape, least: int, files: Files) -> None:
    name = shape.name.removeprefix("IOMMU_").strip()
    edge = MEMORY + PAGE

    def attempt_at(what: str, address: int, size: int) -> None:
        poke(address, size.to_bytes(4, "little"))
        result = raw_ioctl(files.iommufd(), shape.request, address)
        if shape is FAULT_ALLOC and result >= 0:
            os.close(int.from_bytes(peek(address + 12, 4), "little"))
        say(f"{name} {what}", outcome(result))

    say(f"{name} at NULL", outcome(raw_ioctl(files.iommufd(), shape.request, 0)))
    say(f"{name} nowhere", outcome(raw_ioctl(files.iommufd(), shape.request, NOWHERE)))
    say(f"{name} in the kernel", outcome(raw_ioctl(files.iommufd(), shape.request, 0xFFFF_8000_0000_0000)))
    for size in (0, 4, least - 1, least - 4):
        if size != 4 or least != 8:
            attempt_at(f"size {size}", MEMORY, size)
        poke(MEMORY, bytes(128))
    for size in sorted({least, least + 1, shape.size, shape.size + 1, shape.size + 100}):
        attempt_at(f"zeros, size {size}", MEMORY, size)
        poke(MEMORY, bytes(256))
    poke(MEMORY + shape.size + 99, b"\1")
    attempt_at("tail that is not zero", MEMORY, shape.size + 100)
    attempt_at("tail that is zero as far as it is said to go", MEMORY, shape.size + 99)
    poke(MEMORY, bytes(256))
    poke(edge - least, bytes(least))
    attempt_at("a page with zeros behind", edge - shape.size, shape.size + PAGE)
    attempt_at("a page with zeros and nothing behind", edge - shape.size, shape.size + PAGE + 1)
    attempt_at("4 GiB", edge - shape.size, U32_MAX)


def pointers() -> None:
    """Structures that are partly there, read-only, misaligned."""
    with Files() as files, memory(2 * PAGE, MEMORY):
        fd, edge = files.iommufd(), MEMORY + 2 * PAGE
        for shape in (DESTROY, IOAS_ALLOC, OPTION):
            for cut in sorted({1, 3, 4, shape.size - 4, shape.size - 1}):
                poke(edge - cut, shape.size.to_bytes(4, "little")[:cut])
                say(f"{shape.name} with {cut} bytes there", outcome(raw_ioctl(fd, shape.request, edge - cut)))
        for offset in (1, 2, 3, 4093, 4094):
            poke(MEMORY + offset, IOAS_ALLOC.pack())
            result = raw_ioctl(fd, IOAS_ALLOC.request, MEMORY + offset)
            say(f"IOAS_ALLOC at +{offset}", f"{outcome(result)} {peek(MEMORY + offset, 12).hex()}")
    with Files() as files, memory(PAGE, MEMORY, mmap.PROT_READ, PRIVATE):
        fd = files.iommufd()
        say("a page of zeros, read-only", outcome(raw_ioctl(fd, IOAS_ALLOC.request, MEMORY)))
    with Files() as files, memory(PAGE, MEMORY, flags=SHARED):
        fd = files.iommufd()
        poke(MEMORY, IOAS_ALLOC.pack())
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(MEMORY), ctypes.c_size_t(PAGE), mmap.PROT_READ)
        say("answer to read-only memory", outcome(raw_ioctl(fd, IOAS_ALLOC.request, MEMORY)))
        ask("the next id after that", fd, IOAS_ALLOC)
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(MEMORY), ctypes.c_size_t(PAGE), 0)
        say("memory without access", outcome(raw_ioctl(fd, IOAS_ALLOC.request, MEMORY)))


def numbers() -> None:
    """Requests that are not quite those of iommufd."""
    with Files() as files, memory(PAGE, MEMORY):
        fd = files.iommufd()
        poke(MEMORY, IOAS_ALLOC.pack())
        for request in (
            0x3B7F,
            0x3B96,
            0x3B97,
            0x3B9F,
            0x3BA1,
            0x3BFF,
            0x3B00,
            0x0,
            0x81,
            0x8481,
            0x5401,
            0x5421,
            0x5450,
        ):
            say(f"request {request:#06x}", outcome(raw_ioctl(fd, request, MEMORY)))
        for name, direction in (("_IOW", 1), ("_IOR", 2), ("_IOWR", 3)):
            for size in (0, 12):
                request = direction << 30 | size << 16 | IOAS_ALLOC.request
                say(f"IOAS_ALLOC as {name} of {size} bytes", outcome(raw_ioctl(fd, request, MEMORY)))
        say("IOAS_ALLOC with high bits", outcome(raw_ioctl(fd, IOAS_ALLOC.request | 1 << 32, MEMORY)))
        say("wrong type of a number we have, at NULL", outcome(raw_ioctl(fd, 0x8481, 0)))
        say("wrong type of a number we have, nowhere", outcome(raw_ioctl(fd, 0x8485, NOWHERE)))
        say("a number between, at NULL", outcome(raw_ioctl(fd, 0x3B9F, 0)))
        say("FIONREAD", outcome(raw_ioctl(fd, 0x541B, MEMORY)))
        say("FIONBIO", outcome(raw_ioctl(fd, 0x5421, MEMORY)))
        say("FIOCLEX", outcome(raw_ioctl(fd, 0x5451, 0)))
        say("FIGETBSZ", outcome(raw_ioctl(fd, 2, MEMORY)))
        say("FS_IOC_GETFLAGS", outcome(raw_ioctl(fd, 0x80086601, MEMORY)))
        say("on a closed descriptor", outcome(raw_ioctl(999, IOAS_ALLOC.request, MEMORY)))
        say("on a negative descriptor", outcome(raw_ioctl(-1, IOAS_ALLOC.request, MEMORY)))
        say(
            "on a regular file",
            outcome(raw_ioctl(files.open("/proc/self/exe", os.O_RDONLY), IOAS_ALLOC.request, MEMORY)),
        )
        say("on an eventfd", outcome(raw_ioctl(files.eventfd(), IOAS_ALLOC.request, MEMORY)))
        ask("first id", fd, IOAS_ALLOC)


def the_file() -> None:
    """Everything that can be done with a file, done with /dev/iommu."""
    with Files() as files:
        fd = files.iommufd()
        attempt("read", lambda: os.read(fd, 8))
        attempt("read nothing", lambda: os.read(fd, 0))
        attempt("write", lambda: os.write(fd, b"12345678"))
        attempt("write nothing", lambda: os.write(fd, b""))
        for offset in (0, 8, -1, 1 << 62):
            say(f"pread at {offset:#x}", shown(pread(fd, 8, offset)))
            say(f"pwrite at {offset:#x}", outcome(pwrite(fd, b"12345678", offset)))
        attempt("readv", lambda: os.readv(fd, [bytearray(8)]))
        attempt("writev", lambda: os.writev(fd, [b"8"]))
        for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            attempt(f"lseek {whence}", lambda whence=whence: os.lseek(fd, 4, whence))
        attempt("ftruncate", lambda: os.ftruncate(fd, 0))
        attempt("fsync", lambda: os.fsync(fd))
        attempt("fallocate", lambda: os.posix_fallocate(fd, 0, 1))
        _mmaps(fd)
        poll = select.poll()
        poll.register(fd, 0xFFFF)
        say("poll", poll.poll(0)[0][1] if poll.poll(0) else "nothing")
        epoll = select.epoll()
        attempt("epoll", lambda: epoll.register(fd))
        status = os.fstat(fd)
        say("fstat mode", f"{status.st_mode:o}")
        say("fstat is a character device", stat.S_ISCHR(status.st_mode))
        say("fstat major", os.major(status.st_rdev))
        say("fstat size and blocks", (status.st_size, status.st_nlink))
        say("link", os.readlink(f"/proc/self/fd/{fd}"))
        say("isatty", os.isatty(fd))
        _flags(files)


def _mmaps(fd: int) -> None:
    for name, flags in (("shared", mmap.MAP_SHARED), ("private", mmap.MAP_PRIVATE)):
        for what, protection in (("rw", 3), ("r", 1), ("rx", 5), ("none", 0)):
            for offset in (0, PAGE):
                result = map_memory(PAGE, MEMORY, protection, flags, fd, offset)
                say(f"mmap {name} {what} at {offset}", outcome(min(result, 0)))
    say("mmap at an odd offset", outcome(map_memory(PAGE, MEMORY, 3, mmap.MAP_SHARED, fd, 1)))
    say("mmap of a few bytes", outcome(map_memory(100, MEMORY, 3, mmap.MAP_SHARED, fd, 0)))
    say("mmap MAP_SHARED_VALIDATE", outcome(map_memory(PAGE, MEMORY, 3, 3, fd, 0)))
    say("mmap of nothing", outcome(map_memory(0, MEMORY, 3, mmap.MAP_SHARED, fd, 0)))


def _flags(files: Files) -> None:
    path = "/dev/iommu"
    for name, flags in (
        ("O_RDONLY", os.O_RDONLY),
        ("O_WRONLY", os.O_WRONLY),
        ("O_RDWR|O_NONBLOCK", os.O_RDWR | os.O_NONBLOCK),
        ("O_RDWR|O_APPEND", os.O_RDWR | os.O_APPEND),
        ("O_RDWR|O_TRUNC", os.O_RDWR | os.O_TRUNC),
        ("O_RDWR|O_CREAT", os.O_RDWR | os.O_CREAT),
        ("O_RDWR|O_CREAT|O_EXCL", os.O_RDWR | os.O_CREAT | os.O_EXCL),
        ("O_RDWR|O_NOFOLLOW", os.O_RDWR | os.O_NOFOLLOW),
        ("O_DIRECTORY", os.O_DIRECTORY),
        ("O_PATH", os.O_PATH),
        ("accmode 3", 3),
    ):
        try:
            fd = files.open(path, flags)
        except OSError as error:
            say(f"open {name}", errno.errorcode[error.errno or 0])
            continue
        status = fcntl.fcntl(fd, fcntl.F_GETFL) & ~0o100000
        say(f"open {name}", f"flags {status:o}")
        ask(f"IOAS_ALLOC on {name}", fd, IOAS_ALLOC)
        attempt(f"read on {name}", lambda fd=fd: os.read(fd, 1))
        attempt(f"write on {name}", lambda fd=fd: os.write(fd, b"1"))
    attempt("open below", lambda: os.open(path + "/x", os.O_RDWR))
    attempt("open with a slash", lambda: os.open(path + "/", os.O_RDWR))
    attempt("open of a name that is not there", lambda: os.open("/dev/iommu0", os.O_RDWR))
    attempt("open by a longer way", lambda: os.close(os.open("/dev/../dev//./iommu", os.O_RDWR)))
    directory = files.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
    attempt("openat", lambda: os.close(os.open("iommu", os.O_RDWR, dir_fd=directory)))


def sharing() -> None:
    """One context by several descriptors and processes."""
    with Files() as files:
        fd = files.iommufd()
        ask("first", fd, IOAS_ALLOC)
        ask("by a duplicate", files.keep(os.dup(fd)), IOAS_ALLOC)
        ask("by dup2", files.keep(os.dup2(fd, 77)), IOAS_ALLOC)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
        say("F_SETFL", f"{fcntl.fcntl(fd, fcntl.F_GETFL) & ~0o100000:o}")
        say("F_GETFD", fcntl.fcntl(fd, fcntl.F_GETFD))
        child = os.fork()
        if not child:
            ask("by a child", fd, IOAS_ALLOC)
            ask("the child destroys the first", fd, DESTROY, id=1)
            os._exit(0)
        os.waitpid(child, 0)
        ask("the child is gone", fd, IOAS_ALLOC)
        other = files.iommufd()
        ask("another context", other, IOAS_ALLOC)
        ask("an id of the first in the other", other, DESTROY, id=4)
        files.close(fd)
        ask("one descriptor closed", 77, IOAS_ALLOC)
        again = files.open("/proc/self/fd/77")
        ask("opened by /proc/self/fd: a context of its own", again, IOAS_ALLOC)


def arrays() -> None:
    """Pointers inside structures."""
    with Files() as files, memory(PAGE, MEMORY):
        fd = files.iommufd()
        ask("alloc", fd, IOAS_ALLOC)
        ask("no ranges at NULL", fd, ALLOW_IOVAS, ioas_id=1)
        ask("one range at NULL", fd, ALLOW_IOVAS, ioas_id=1, num_iovas=1)
        ask(
            "a range across the end of memory", fd, ALLOW_IOVAS, ioas_id=1, num_iovas=1, allowed_iovas=MEMORY + PAGE - 8
        )
        poke(MEMORY + PAGE - 16, (0).to_bytes(8, "little") + (5).to_bytes(8, "little"))
        ask("the second beyond memory", fd, ALLOW_IOVAS, ioas_id=1, num_iovas=2, allowed_iovas=MEMORY + PAGE - 16)
        poke(MEMORY + PAGE - 16, (5).to_bytes(8, "little") * 2)
        ask(
            "the first wrong, the second beyond",
            fd,
            ALLOW_IOVAS,
            ioas_id=1,
            num_iovas=2,
            allowed_iovas=MEMORY + PAGE - 16,
        )


SECTIONS = (sizes, pointers, numbers, the_file, sharing, arrays)
