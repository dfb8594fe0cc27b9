"""GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, features, hot reset, ioeventfds: what the device says of itself."""

from __future__ import annotations

import os

from questions.binding import bound
from questions.calls import (
    MEMORY,
    PAGE,
    U32_MAX,
    Files,
    ask,
    count_of,
    memory,
    outcome,
    pause,
    poke,
    pread,
    pwrite,
    raw_ioctl,
    say,
    shown,
)
from questions.shapes import (
    CONFIG,
    DEVICE_INFO,
    FEATURE,
    HOT_RESET,
    HOT_RESET_INFO,
    IOEVENTFD,
    IRQ_INFO,
    REGION_INFO,
    RESET,
)

_GET, _SET, _PROBE = 1 << 16, 1 << 17, 1 << 18


def device() -> None:
    """GET_INFO for every argsz, and requests that nobody knows."""
    with Files() as files, memory(PAGE):
        _, fd, _ = bound(files)
        for argsz in (0, 4, 15, 16, 17, 19, 20, 23, 24, 25, 64, PAGE, U32_MAX):
            ask(f"argsz {argsz}", fd, DEVICE_INFO, argsz=argsz, flags=9, num_regions=9, num_irqs=9, cap_offset=9, pad=9)
        say("NULL", outcome(raw_ioctl(fd, DEVICE_INFO.request, 0)))
        poke(MEMORY + PAGE - 16, DEVICE_INFO.pack(argsz=24)[:16])
        say(
            "the first version at the end of memory, argsz 24",
            outcome(raw_ioctl(fd, DEVICE_INFO.request, MEMORY + PAGE - 16)),
        )
        poke(MEMORY + PAGE - 16, DEVICE_INFO.pack(argsz=16)[:16])
        say(
            "the first version at the end of memory, argsz 16",
            outcome(raw_ioctl(fd, DEVICE_INFO.request, MEMORY + PAGE - 16)),
        )
        for request in (
            0,
            0x81,
            0x3B00,
            *range(0x3B64, 0x3B6B),
            0x3B72,
            0x3B73,
            *range(0x3B79, 0x3B82),
            0x3BFF,
            0x8481,
            0x5401,
        ):
            poke(MEMORY, bytes(64))
            say(f"request {request:#x}", outcome(raw_ioctl(fd, request, MEMORY)))
        for direction in (1, 2, 3):
            say(
                f"GET_INFO with direction {direction}",
                outcome(raw_ioctl(fd, direction << 30 | DEVICE_INFO.request, MEMORY)),
            )


def regions() -> None:
    """GET_REGION_INFO for every index and size."""
    with Files() as files, memory(PAGE):
        _, fd, _ = bound(files)
        for index in (*range(12), 100, 0x7FFFFFFF, U32_MAX):
            ask(f"region {index}", fd, REGION_INFO, index=index, flags=0x99, cap_offset=0x99, size=0x99, offset=0x99)
        for argsz in (0, 4, 31, 33, 64, PAGE, U32_MAX):
            for index in (0, 1, 7, 9):
                ask(f"region {index} argsz {argsz}", fd, REGION_INFO, argsz=argsz, index=index, tail=b"\x55" * 32)
        say("NULL", outcome(raw_ioctl(fd, REGION_INFO.request, 0)))


def interrupts() -> None:
    """GET_IRQ_INFO for every index and size."""
    with Files() as files:
        _, fd, _ = bound(files)
        for index in (*range(8), 100, 0x7FFFFFFF, U32_MAX):
            ask(f"index {index}", fd, IRQ_INFO, index=index, flags=0x99, count=0x99)
        for argsz in (0, 4, 15, 17, 64, U32_MAX):
            for index in (0, 2, 5):
                ask(f"index {index} argsz {argsz}", fd, IRQ_INFO, argsz=argsz, index=index)
        say("NULL", outcome(raw_ioctl(fd, IRQ_INFO.request, 0)))


def features() -> None:
    """FEATURE: every number with every combination of flags."""
    with Files() as files:
        _, fd, _ = bound(files)
        combinations = (0, _GET, _SET, _PROBE, _GET | _SET, _PROBE | _GET, _PROBE | _SET, _PROBE | _GET | _SET, 1 << 19)
        for number in (*range(16), 0xFFFF):
            for flags in combinations:
                if number in (3, 4) and flags == _SET:
                    continue  # asleep: that is asked elsewhere
                answer = f"feature {number} flags {flags:#x}"
                ask(answer, fd, FEATURE, argsz=8, flags=number | flags)
                ask(f"{answer} with data", fd, FEATURE, argsz=24, flags=number | flags, tail=bytes(64))
        ask("argsz 7", fd, FEATURE, argsz=7, flags=_PROBE | _SET | 3)
        ask("argsz 0", fd, FEATURE, argsz=0, flags=_PROBE | _SET | 3)
        ask("sleep", fd, FEATURE, flags=_SET | 3)
        ask("sleep twice", fd, FEATURE, flags=_SET | 3)
        ask("asleep: with wake-up", fd, FEATURE, argsz=16, flags=_SET | 4, tail=b"\xff" * 8)
        ask("asleep: info wakes for a while", fd, DEVICE_INFO, argsz=16)
        ask("wake", fd, FEATURE, flags=_SET | 5)
        ask("wake twice", fd, FEATURE, flags=_SET | 5)
        for name, eventfd in (("-1", -1), ("999", 999), ("a device", fd)):
            tail = eventfd.to_bytes(4, "little", signed=True) + bytes(4)
            ask(f"wake-up by {name}", fd, FEATURE, argsz=16, flags=_SET | 4, tail=tail)
        ask("wake-up, reserved", fd, FEATURE, argsz=16, flags=_SET | 4, tail=(999).to_bytes(4, "little") + b"\1\0\0\0")


def hot_reset() -> None:
    """GET_PCI_HOT_RESET_INFO, PCI_HOT_RESET and RESET."""
    with Files() as files:
        _, fd, _ = bound(files)
        for argsz in (0, 11, 12, 27, 28, 29, 44, PAGE):
            ask(f"info argsz {argsz}", fd, HOT_RESET_INFO, argsz=argsz, flags=7, count=7, tail=b"\x55" * 32)
        for name, values in (
            ("argsz 11", {"argsz": 11}),
            ("flags", {"flags": 1}),
            ("count 1", {"count": 1}),
            ("count 1, flags", {"count": 1, "flags": 1}),
            ("count max", {"count": U32_MAX}),
        ):
            ask(f"reset {name}", fd, HOT_RESET, tail=b"\xff" * 4, **values)
        pwrite(fd, b"\x07\x04", CONFIG + 4)
        say("command before", shown(pread(fd, 2, CONFIG + 4)))
        ask("hot reset", fd, HOT_RESET)
        say("command after the hot reset", shown(pread(fd, 2, CONFIG + 4)))
        pwrite(fd, b"\x07\x04", CONFIG + 4)
        for argument in (0, 1, MEMORY):
            say(f"RESET with {argument:#x}", outcome(raw_ioctl(fd, RESET, argument)))
        say("command after the reset", shown(pread(fd, 2, CONFIG + 4)))


def ioeventfds() -> None:
    """IOEVENTFD."""
    with Files() as files:
        iommufd, fd, _ = bound(files)
        pwrite(fd, b"\x06\x00", CONFIG + 4)
        pwrite(fd, b"\xff\xff\xff\xff", 4)
        event, second = files.eventfd(), files.eventfd()
        fine = {"flags": 4, "offset": 4, "data": 0x1234, "fd": event}

        def tried(label: str, **values: int) -> None:
            ask(label, fd, IOEVENTFD, **{**fine, **values})

        for argsz in (0, 27, 28, 31, 32):
            tried(f"argsz {argsz}", argsz=argsz, fd=-1)
        for flags in (0, 1, 2, 3, 4, 5, 8, 12, 15, 16, 20):
            tried(f"flags {flags} and nothing to end", flags=flags, fd=-1)
        tried("fd -2", fd=-2)
        tried("fd 999", fd=999)
        tried("fd is no eventfd", fd=iommufd)
        tried("config", offset=CONFIG)
        tried("ROM", offset=6 << 40)
        tried("a BAR that is not there", offset=1 << 40)
        tried("beyond the BAR", offset=1 << 20)
        tried("over the end", offset=(1 << 20) - 2)
        tried("misaligned", offset=6)
        tried("end the misaligned", offset=6, fd=-1)
        tried("far beyond", offset=1 << 62)
        tried("set")
        tried("set again")
        tried("set with another eventfd", fd=second)
        tried("other data", data=0x5678, fd=second)
        tried("other size", flags=1)
        tried("data with more bytes than the size", flags=2, data=0x1_0000_1234)
        os.eventfd_write(event, 1)
        say("liveness after the event", shown(_settled(fd)))
        say("the eventfd was read", count_of(event))
        tried("end", fd=-1)
        tried("end again", fd=-1)
        tried("end the other data", fd=-1, data=0x5678)
        tried("end the other size", fd=-1, flags=1)
        tried("end the long data", fd=-1, flags=2, data=0x1_0000_1234)
        os.eventfd_write(event, 1)
        pause()
        say("the eventfd is not read any more", count_of(event))


def _settled(fd: int) -> bytes | int:
    """The liveness register, once it has been written."""
    for _ in range(100):
        pause()
        value = pread(fd, 4, 4)
        if value != b"\0\0\0\0":
            break
    return value


SECTIONS = (device, regions, interrupts, features, hot_reset, ioeventfds)
