"""Without privileges: what they are for, and how much memory may be pinned.

Root gives its privileges up first, in a child; an ordinary user has none. The limit of locked memory is lowered to a few pages, which
anyone may do.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from questions.accesses import create, pages
from questions.binding import bound
from questions.calls import MEMORY, PAGE, ULONG_MAX, Files, ask, memory, must, outcome, raw_ioctl, say
from questions.shapes import (
    ATTACH,
    CHANGE_PROCESS,
    COPY,
    DESTROY,
    DESTROY_PAGES,
    FIXED,
    GET_PA,
    IOAS_ALLOC,
    MAP,
    MAP_FILE,
    MOCK,
    OPTION,
    RW,
    UNMAP,
    VFIO_DMA_MAP,
    VFIO_IOAS,
)
from questions.space import MiB, alloc

_NOBODY = 65534
_LIMIT = 8 * PAGE


def _in_a_child(body: Callable[[], None]) -> None:
    """Run `body` in a child, whose privileges are given up by `_give_up`."""
    child = os.fork()
    if not child:
        try:
            body()
        except Exception as error:
            say("ended early", f"{type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(child, 0)


def _give_up(limit: int = _LIMIT) -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _kept(label: str) -> None:
    """What the kernel says is pinned and locked by this process."""
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file if line.startswith(("VmPin", "VmLck"))]
    say(label, " ".join(f"{name[:-1]} {int(number)}" for name, number, _ in sorted(lines)))


def capabilities() -> None:
    """Calls that ask for a capability, and when they ask."""
    with Files() as files:
        fd = files.iommufd()

        def body() -> None:
            _give_up()
            ask("RLIMIT_MODE get", fd, OPTION, option_id=0, op=1)
            for value in (0, 1, 2):
                ask(f"RLIMIT_MODE set {value}", fd, OPTION, option_id=0, op=0, val64=value)
            ask("RLIMIT_MODE set of an object", fd, OPTION, option_id=0, op=0, object_id=1)
            ask("RLIMIT_MODE op 2", fd, OPTION, option_id=0, op=2)
            ask("RLIMIT_MODE reserved", fd, OPTION, option_id=0, op=0, __reserved=1)
            ioas = ask("alloc", fd, IOAS_ALLOC)["out_ioas_id"]
            ask("RLIMIT_MODE set with objects", fd, OPTION, option_id=0, op=0, val64=1)
            ask("HUGE_PAGES set", fd, OPTION, option_id=1, op=0, object_id=ioas, val64=0)
            ask("GET_PA", fd, GET_PA, ioas_id=ioas, iova=MiB, length=PAGE)
            ask("GET_PA flags", fd, GET_PA, flags=1)
            ask("GET_PA with zeros", fd, GET_PA)
            ask("GET_PA too short", fd, GET_PA, size=39)
            for kind in (1, 8):
                say(f"SET_IOMMU {kind}", outcome(raw_ioctl(fd, 0x3B66, kind)))

        _in_a_child(body)


def _limits(fd: int, prefix: str) -> None:
    """Map until the limit stands in the way."""
    one = alloc(fd)
    base = {"ioas_id": one, "user_va": MEMORY, "flags": FIXED | RW}

    def mapped(label: str, number: int, length: int, **values: int) -> None:
        ask(f"{prefix} {label}", fd, MAP, **{**base, "iova": (16 + number) * MiB, "length": length, **values})
        _kept(f"{prefix} {label}: kept")

    _kept(f"{prefix} at first")
    mapped("more than the limit, no device", 0, _LIMIT + PAGE)
    ask(f"{prefix} a device over it", fd, MOCK, op=2, id=one)
    ask(f"{prefix} unmap that", fd, UNMAP, ioas_id=one, iova=0, length=ULONG_MAX)
    handle = ask(f"{prefix} a device", fd, MOCK, op=2, id=one)["out_stdev_id"]
    mapped("more than the limit", 0, _LIMIT + PAGE)
    mapped("all of it", 0, _LIMIT)
    mapped("a page more", 1, PAGE)
    mapped("half a page more", 1, 2048)
    ask(
        f"{prefix} a copy",
        fd,
        COPY,
        src_ioas_id=one,
        dst_ioas_id=one,
        src_iova=16 * MiB,
        dst_iova=32 * MiB,
        length=PAGE,
        flags=7,
    )
    _kept(f"{prefix} a copy: kept")
    ask(f"{prefix} unmap all of it", fd, UNMAP, ioas_id=one, iova=16 * MiB, length=_LIMIT)
    _kept(f"{prefix} the copy is left: kept")
    mapped("what the copy leaves", 0, _LIMIT - PAGE)
    mapped("a page more than that", 1, PAGE)
    ask(f"{prefix} unmap everything", fd, UNMAP, ioas_id=one, iova=0, length=ULONG_MAX)
    _kept(f"{prefix} nothing: kept")
    mapped("half a page", 0, 2048)
    mapped("its other half", 1, 2048, user_va=MEMORY + 2048)
    mapped("the same page again", 2, PAGE)
    mapped("five more", 3, 5 * PAGE)
    mapped("and one more", 9, PAGE)
    memfd = os.memfd_create("probe")
    os.ftruncate(memfd, 16 * PAGE)
    fine = {"ioas_id": one, "fd": memfd, "iova": 64 * MiB, "flags": FIXED | RW}
    ask(f"{prefix} a file", fd, MAP_FILE, **{**fine, "length": PAGE})
    ask(f"{prefix} unmap everything again", fd, UNMAP, ioas_id=one, iova=0, length=ULONG_MAX)
    ask(f"{prefix} a file, all of it", fd, MAP_FILE, **{**fine, "length": _LIMIT})
    _kept(f"{prefix} a file: kept")
    ask(f"{prefix} change process", fd, CHANGE_PROCESS)
    _kept(f"{prefix} change process: kept")
    ask(f"{prefix} a file, too much of it", fd, MAP_FILE, **{**fine, "length": PAGE, "iova": 80 * MiB})
    ask(f"{prefix} destroy the device", fd, DESTROY, id=handle)
    _kept(f"{prefix} no device: kept")
    ask(f"{prefix} destroy the IOAS", fd, DESTROY, id=one)
    os.close(memfd)


def _accesses(fd: int, files: Files, prefix: str) -> None:
    one = alloc(fd)
    access = create(f"{prefix} an access", fd, files, one, 1)
    must(fd, MAP, ioas_id=one, user_va=MEMORY, length=16 * PAGE, iova=16 * MiB, flags=FIXED | RW)
    pages(f"{prefix} pages over the limit", fd, access, 16 * MiB, _LIMIT + PAGE, MEMORY)
    _kept(f"{prefix} over the limit: kept")
    first = pages(f"{prefix} five pages", fd, access, 16 * MiB, 5 * PAGE, MEMORY)["out_access_pages_id"]
    pages(f"{prefix} the same pages", fd, access, 16 * MiB, 5 * PAGE, MEMORY)
    _kept(f"{prefix} five pages twice: kept")
    pages(f"{prefix} three others", fd, access, 16 * MiB + 5 * PAGE, 3 * PAGE, MEMORY + 5 * PAGE)
    pages(f"{prefix} one other", fd, access, 16 * MiB + 8 * PAGE, PAGE, MEMORY + 8 * PAGE)
    ask(f"{prefix} give five back", fd, DESTROY_PAGES, op=6, id=access, access_pages_id=first)
    _kept(f"{prefix} given back once: kept")
    files.close(access)
    _kept(f"{prefix} access closed: kept")


def limits_of_users() -> None:
    """Memory is counted by user: the default of /dev/iommu."""
    with Files() as files, memory(32 * PAGE):
        fd = files.iommufd()

        def body() -> None:
            _give_up()
            _limits(fd, "user")
            _accesses(fd, files, "user")

        _in_a_child(body)


def limits_of_processes() -> None:
    """Memory is counted by process, for whoever opens /dev/vfio/vfio; here by RLIMIT_MODE, which root alone may set."""
    with Files() as files, memory(32 * PAGE):
        fd = files.iommufd()
        if ask("mode", fd, OPTION, option_id=0, op=0, val64=1).result < 0:
            return

        def body() -> None:
            _give_up()
            _limits(fd, "process")
            _accesses(fd, files, "process")

        _in_a_child(body)


def limits_of_both() -> None:
    """Two contexts of one user share the limit; a child is the same user; the container's MAP_DMA counts too."""
    with Files() as files, memory(32 * PAGE):
        first, second = files.iommufd(), files.iommufd()

        def body() -> None:
            _give_up()
            for fd, pages_each in ((first, 5), (second, 4)):
                ioas = alloc(fd)
                must(fd, MOCK, op=2, id=ioas)
                length = pages_each * PAGE
                ask(
                    f"{pages_each} pages",
                    fd,
                    MAP,
                    ioas_id=ioas,
                    user_va=MEMORY,
                    length=length,
                    iova=16 * MiB,
                    flags=FIXED | RW,
                )
            ask("3 pages", second, MAP, ioas_id=1, user_va=MEMORY, length=3 * PAGE, iova=32 * MiB, flags=FIXED | RW)
            must(second, VFIO_IOAS, op=1, ioas_id=1)
            ask(
                "a page by the container's request",
                second,
                VFIO_DMA_MAP,
                flags=3,
                vaddr=MEMORY,
                iova=48 * MiB,
                size=PAGE,
            )

            def deeper() -> None:
                ask(
                    "a page by a child",
                    second,
                    MAP,
                    ioas_id=1,
                    user_va=MEMORY,
                    length=PAGE,
                    iova=64 * MiB,
                    flags=FIXED | RW,
                )
                ask("unmap by a child", second, UNMAP, ioas_id=1, iova=32 * MiB, length=3 * PAGE)
                ask(
                    "a page by a child now",
                    second,
                    MAP,
                    ioas_id=1,
                    user_va=MEMORY,
                    length=PAGE,
                    iova=64 * MiB,
                    flags=FIXED | RW,
                )
                _kept("in the child")

            _in_a_child(deeper)
            _kept("in its parent")
            ask(
                "3 pages again",
                second,
                MAP,
                ioas_id=1,
                user_va=MEMORY,
                length=3 * PAGE,
                iova=32 * MiB,
                flags=FIXED | RW,
            )
            ask(
                "2 pages then", second, MAP, ioas_id=1, user_va=MEMORY, length=2 * PAGE, iova=32 * MiB, flags=FIXED | RW
            )

        _in_a_child(body)


def devices() -> None:
    """A device, bound and attached before the privileges went."""
    with Files() as files, memory(32 * PAGE):
        iommufd, fd, _ = bound(files)
        ioas = alloc(iommufd)

        def body() -> None:
            _give_up()
            must(fd, ATTACH, pt_id=ioas)
            base = {"ioas_id": ioas, "user_va": MEMORY, "flags": FIXED | RW}
            ask("too much", iommufd, MAP, **base, length=_LIMIT + PAGE, iova=MiB)
            ask("all", iommufd, MAP, **base, length=_LIMIT, iova=MiB)
            ask("one more", iommufd, MAP, **base, length=PAGE, iova=2 * MiB)
            _kept("kept")

        _in_a_child(body)


SECTIONS = (capabilities, limits_of_users, limits_of_processes, limits_of_both, devices)
