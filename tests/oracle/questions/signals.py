"""SET_IRQS: the validation matrix, INTx, MSI, error and request events."""

from __future__ import annotations

import os
import struct

from questions.binding import bound
from questions.calls import (
    MEMORY,
    PAGE,
    U32_MAX,
    Files,
    count_of,
    memory,
    outcome,
    poke,
    pread,
    pwrite,
    raw_ioctl,
    say,
    shown,
)
from questions.shapes import CONFIG, RESET, SET_IRQS

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
INTX, MSI, MSIX, ERR, REQ = range(5)
_RAISE, _ACKNOWLEDGE = 0x60, 0x64


class Line:
    """A bound device whose interrupts are asked about."""

    def __init__(self, files: Files) -> None:
        self.iommufd, self.fd, _ = bound(files)
        pwrite(self.fd, b"\x06\x00", CONFIG + 4)
        self.bar(_ACKNOWLEDGE, U32_MAX)

    def bar(self, offset: int, value: int) -> None:
        """Write a register."""
        pwrite(self.fd, struct.pack("<I", value), offset)

    def set(
        self, flags: int, index: int, start: int = 0, count: int = 0, data: bytes = b"", argsz: int | None = None
    ) -> int:
        """SET_IRQS; the result."""
        size = SET_IRQS.size + len(data) if argsz is None else argsz
        poke(MEMORY, SET_IRQS.pack(argsz=size, flags=flags, index=index, start=start, count=count) + data)
        return raw_ioctl(self.fd, SET_IRQS.request, MEMORY)

    def ask(
        self,
        label: str,
        flags: int,
        index: int,
        start: int = 0,
        count: int = 0,
        data: bytes = b"",
        argsz: int | None = None,
    ) -> None:
        """SET_IRQS, written down."""
        say(label, outcome(self.set(flags, index, start, count, data, argsz)))


def fds(*values: int) -> bytes:
    """Descriptors as SET_IRQS takes them."""
    return struct.pack(f"<{len(values)}i", *values)


def validation() -> None:
    """What is refused before anything is looked at."""
    with Files() as files, memory(PAGE):
        line = Line(files)
        for argsz in (0, 19, 20, 21, 23, 24, U32_MAX):
            line.ask(f"argsz {argsz} without data", NONE | TRIGGER, INTX, 0, 1, argsz=argsz)
            line.ask(f"argsz {argsz} with an eventfd", EVENTFD | TRIGGER, INTX, 0, 1, fds(-1), argsz=argsz)
        for index in (5, 6, 100, U32_MAX):
            line.ask(f"index {index}", NONE | TRIGGER, index, 0, 0)
        for flags in range(64):
            for index in (INTX, MSI):
                line.set(NONE | TRIGGER, INTX)
                line.set(NONE | TRIGGER, MSI)
                line.ask(f"flags {flags:#x} of index {index}", flags, index, 0, 1, fds(-1))
        line.set(NONE | TRIGGER, INTX)
        line.set(NONE | TRIGGER, MSI)
        for flags in (64, 128, 1 << 31):
            line.ask(f"flags {flags:#x}", flags | NONE | TRIGGER, INTX, 0, 1)
        for start, count in (
            (0, 2),
            (1, 0),
            (1, 1),
            (0, U32_MAX),
            (U32_MAX, 0),
            (U32_MAX, 1),
            (U32_MAX - 1, 1),
            (1, U32_MAX - 1),
            (0, 0),
        ):
            for index in range(5):
                line.ask(f"index {index} from {start} count {count}", NONE | TRIGGER, index, start, count)
                line.ask(f"index {index} from {start} count {count}, eventfds", EVENTFD | TRIGGER, index, start, count)
        line.ask("index and argsz", NONE | TRIGGER, 9, argsz=4)
        line.ask("index and flags", 64, 9)
        say("NULL", outcome(raw_ioctl(line.fd, SET_IRQS.request, 0)))
        poke(MEMORY + PAGE - 20, SET_IRQS.pack(argsz=24, flags=EVENTFD | TRIGGER, index=INTX, count=1))
        say("data beyond memory", outcome(raw_ioctl(line.fd, SET_IRQS.request, MEMORY + PAGE - 20)))
        poke(MEMORY + PAGE - 20, SET_IRQS.pack(argsz=24, flags=EVENTFD | MASK, index=MSI, count=1))
        say(
            "data beyond memory for what is not known",
            outcome(raw_ioctl(line.fd, SET_IRQS.request, MEMORY + PAGE - 20)),
        )


def idle() -> None:
    """Every action on every index while nothing is enabled."""
    with Files() as files, memory(PAGE):
        line = Line(files)
        for index in range(5):
            for action in (MASK, UNMASK, TRIGGER):
                for kind, data in (
                    (NONE, b""),
                    (BOOL, b"\1"),
                    (BOOL, b"\0"),
                    (EVENTFD, fds(-1)),
                    (EVENTFD, fds(-2)),
                    (EVENTFD, fds(999)),
                ):
                    for count in (0, 1):
                        label = f"index {index} action {action} kind {kind} data {data.hex()} count {count}"
                        line.ask(label, kind | action, index, 0, count, data if count else b"")
                        line.set(NONE | TRIGGER, index)
        for index in range(5):
            line.ask(f"index {index}: no eventfd", EVENTFD | TRIGGER, index, 0, 1, fds(line.iommufd))
            line.ask(f"index {index}: not even open", EVENTFD | TRIGGER, index, 0, 1, fds(998))


def intx() -> None:
    """INTx: raised, masked by itself, unmasked, by loopback, by eventfd."""
    with Files() as files, memory(PAGE):
        line = Line(files)
        first, second, third = files.eventfd(), files.eventfd(), files.eventfd()
        line.ask("enable", EVENTFD | TRIGGER, INTX, 0, 1, fds(first))
        say("at first", count_of(first))
        line.bar(_RAISE, 1)
        say("raised", count_of(first))
        say("status and command while masked", shown(pread(line.fd, 4, CONFIG + 4)))
        line.bar(_RAISE, 2)
        say("raised more", count_of(first))
        line.ask("unmask while asserted", NONE | UNMASK, INTX, 0, 1)
        say("fires again", count_of(first))
        line.bar(_ACKNOWLEDGE, 3)
        line.ask("unmask", NONE | UNMASK, INTX, 0, 1)
        say("silent", count_of(first))
        line.ask("unmask twice", NONE | UNMASK, INTX, 0, 1)
        line.ask("mask", NONE | MASK, INTX, 0, 1)
        line.ask("mask twice", NONE | MASK, INTX, 0, 1)
        line.bar(_RAISE, 1)
        say("masked", count_of(first))
        line.ask("unmask by 0", BOOL | UNMASK, INTX, 0, 1, b"\0")
        say("still masked", count_of(first))
        line.ask("unmask by 2", BOOL | UNMASK, INTX, 0, 1, b"\2")
        say("unmasked", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        line.set(NONE | UNMASK, INTX, 0, 1)
        for name, flags, data in (("none", NONE, b""), ("1", BOOL, b"\1"), ("0", BOOL, b"\0"), ("255", BOOL, b"\xff")):
            line.ask(f"loopback by {name}", flags | TRIGGER, INTX, 0, 1, data)
            say(f"after loopback by {name}", count_of(first))
        line.ask("mask by eventfd", EVENTFD | MASK, INTX, 0, 1, fds(second))
        line.ask("unmask by eventfd", EVENTFD | UNMASK, INTX, 0, 1, fds(second))
        line.ask("unmask by another eventfd", EVENTFD | UNMASK, INTX, 0, 1, fds(third))
        line.ask("unmask by the same eventfd", EVENTFD | UNMASK, INTX, 0, 1, fds(second))
        line.ask("unmask by a bad descriptor", EVENTFD | UNMASK, INTX, 0, 1, fds(999))
        line.ask("unmask by no eventfd", EVENTFD | UNMASK, INTX, 0, 1, fds(line.iommufd))
        line.bar(_RAISE, 1)
        say("raised, to be unmasked by eventfd", count_of(first))
        os.eventfd_write(second, 1)
        say("unmasked by eventfd, still asserted", count_of(first, 500))
        line.bar(_ACKNOWLEDGE, 1)
        os.eventfd_write(second, 1)
        say("unmasked by eventfd, not asserted", count_of(first))
        line.ask("unmask by nothing", EVENTFD | UNMASK, INTX, 0, 1, fds(-1))
        os.eventfd_write(second, 5)
        say("the eventfd is not read any more", count_of(second))
        line.ask("another trigger", EVENTFD | TRIGGER, INTX, 0, 1, fds(third))
        line.bar(_RAISE, 1)
        say("the old one", count_of(first))
        say("the new one", count_of(third))
        line.bar(_ACKNOWLEDGE, 1)
        line.set(NONE | UNMASK, INTX, 0, 1)
        line.ask("a bad trigger", EVENTFD | TRIGGER, INTX, 0, 1, fds(999))
        line.ask("loopback after the bad trigger", NONE | TRIGGER, INTX, 0, 1)
        say("after the bad trigger", count_of(third))
        line.ask("no trigger", EVENTFD | TRIGGER, INTX, 0, 1, fds(-1))
        line.ask("loopback without a trigger", NONE | TRIGGER, INTX, 0, 1)
        line.bar(_RAISE, 1)
        line.ask("a trigger while asserted", EVENTFD | TRIGGER, INTX, 0, 1, fds(first))
        say("fires", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        line.set(NONE | UNMASK, INTX, 0, 1)
        count_of(first)
        pwrite(line.fd, b"\x06\x04", CONFIG + 4)
        line.bar(_RAISE, 1)
        say("disabled by the command register", count_of(first))
        line.ask("unmask does not enable", NONE | UNMASK, INTX, 0, 1)
        say("still disabled", count_of(first))
        pwrite(line.fd, b"\x06\x00", CONFIG + 4)
        say("enabled by the command register", count_of(first))
        say("RESET while asserted", outcome(raw_ioctl(line.fd, RESET, 0)))
        say("command after", shown(pread(line.fd, 4, CONFIG + 4)))
        pwrite(line.fd, b"\x06\x00", CONFIG + 4)
        line.bar(_ACKNOWLEDGE, U32_MAX)
        line.ask("disable", NONE | TRIGGER, INTX, 0, 0)
        line.ask("disable again", NONE | TRIGGER, INTX, 0, 0)
        line.bar(_RAISE, 1)
        say("nothing after", count_of(first))
        line.ask("enable while asserted", EVENTFD | TRIGGER, INTX, 0, 1, fds(first))
        say("fires at once", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        line.ask("disable without count by eventfd", EVENTFD | TRIGGER, INTX, 0, 0)
        line.ask("disable with BOOL", BOOL | TRIGGER, INTX, 0, 0)
        line.ask("mask with count 0", NONE | MASK, INTX, 0, 0)
        line.ask("MSI while INTx is enabled", EVENTFD | TRIGGER, MSI, 0, 1, fds(second))
        line.ask("MSI loopback while INTx is enabled", NONE | TRIGGER, MSI, 0, 1)
        line.ask("MSI off while INTx is enabled", NONE | TRIGGER, MSI, 0, 0)
        line.ask("INTx is still there", NONE | TRIGGER, INTX, 0, 1)


def msi() -> None:
    """MSI."""
    with Files() as files, memory(PAGE):
        line = Line(files)
        first, second = files.eventfd(), files.eventfd()

        def capability(label: str) -> None:
            say(f"capability {label}", shown(pread(line.fd, 24, CONFIG + 0x40)))

        capability("at first")
        line.ask("enable with a bad descriptor", EVENTFD | TRIGGER, MSI, 0, 1, fds(999))
        capability("after that")
        line.ask("enable with count 0", EVENTFD | TRIGGER, MSI, 0, 0)
        line.ask("enable with two", EVENTFD | TRIGGER, MSI, 0, 2, fds(first, second))
        line.ask("enable without an eventfd", EVENTFD | TRIGGER, MSI, 0, 1, fds(-1))
        line.ask("loopback then", NONE | TRIGGER, MSI, 0, 1)
        line.ask("INTx then", EVENTFD | TRIGGER, INTX, 0, 1, fds(first))
        line.ask("set", EVENTFD | TRIGGER, MSI, 0, 1, fds(first))
        capability("enabled")
        say("command", shown(pread(line.fd, 4, CONFIG + 4)))
        line.bar(_RAISE, 1)
        say("raised", count_of(first))
        line.bar(_RAISE, 1)
        say("raised again, not acknowledged", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        for name, flags, data in (("none", NONE, b""), ("1", BOOL, b"\1"), ("0", BOOL, b"\0")):
            line.ask(f"loopback by {name}", flags | TRIGGER, MSI, 0, 1, data)
            say(f"after loopback by {name}", count_of(first))
        line.ask("mask", NONE | MASK, MSI, 0, 1)
        line.ask("unmask", NONE | UNMASK, MSI, 0, 1)
        line.ask("mask by eventfd", EVENTFD | MASK, MSI, 0, 1, fds(first))
        line.ask("INTx while MSI", EVENTFD | TRIGGER, INTX, 0, 1, fds(second))
        line.ask("INTx off while MSI", NONE | TRIGGER, INTX, 0, 0)
        line.ask("INTx mask while MSI", NONE | MASK, INTX, 0, 1)
        line.ask("MSI-X while MSI", NONE | TRIGGER, MSIX, 0, 0)
        line.ask("from 1", EVENTFD | TRIGGER, MSI, 1, 1, fds(second))
        line.ask("another", EVENTFD | TRIGGER, MSI, 0, 1, fds(second))
        line.bar(_RAISE, 1)
        say("the old one", count_of(first))
        say("the new one", count_of(second))
        line.bar(_ACKNOWLEDGE, 1)
        line.ask("a bad one", EVENTFD | TRIGGER, MSI, 0, 1, fds(999))
        line.ask("loopback after the bad one", NONE | TRIGGER, MSI, 0, 1)
        say("after the bad one", (count_of(first), count_of(second)))
        line.ask("none", EVENTFD | TRIGGER, MSI, 0, 1, fds(-1))
        line.ask("loopback with none", NONE | TRIGGER, MSI, 0, 1)
        line.ask("set again", EVENTFD | TRIGGER, MSI, 0, 1, fds(first))
        pwrite(line.fd, b"\x80", CONFIG + 0x42)
        capability("off by hand")
        line.bar(_RAISE, 1)
        say("raised while off by hand", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        pwrite(line.fd, b"\x81", CONFIG + 0x42)
        capability("on by hand")
        line.bar(_RAISE, 1)
        say("raised while on by hand", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        pwrite(line.fd, b"\x02\x00", CONFIG + 4)
        line.bar(_RAISE, 1)
        say("raised without bus master", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        pwrite(line.fd, b"\x06\x00", CONFIG + 4)
        say("bus master again", count_of(first))
        say("RESET", outcome(raw_ioctl(line.fd, RESET, 0)))
        capability("after RESET")
        say("command after RESET", shown(pread(line.fd, 4, CONFIG + 4)))
        pwrite(line.fd, b"\x06\x00", CONFIG + 4)
        line.bar(_RAISE, 1)
        say("raised after RESET", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        line.ask("disable with BOOL", BOOL | TRIGGER, MSI, 0, 0)
        line.ask("disable with start 1", NONE | TRIGGER, MSI, 1, 0)
        line.ask("disable", NONE | TRIGGER, MSI, 0, 0)
        capability("disabled")
        line.ask("disable again", NONE | TRIGGER, MSI, 0, 0)
        line.bar(_RAISE, 1)
        say("raised while disabled", count_of(first))
        line.ask("enable while asserted", EVENTFD | TRIGGER, MSI, 0, 1, fds(first))
        say("does not fire for the past", count_of(first))
        line.bar(_ACKNOWLEDGE, 1)
        files.close(first)
        line.bar(_RAISE, 1)
        line.ask("loopback after the eventfd was closed", NONE | TRIGGER, MSI, 0, 1)
        line.bar(_ACKNOWLEDGE, 1)


def events() -> None:
    """Errors and requests."""
    with Files() as files, memory(PAGE):
        line = Line(files)
        event = files.eventfd()
        for index in (ERR, REQ):

            def tried(
                label: str, flags: int, start: int = 0, count: int = 0, data: bytes = b"", index: int = index
            ) -> None:
                line.ask(f"{index}: {label}", flags, index, start, count, data)
                say(f"{index}: after {label}", count_of(event, 5))

            tried("trigger without one", NONE | TRIGGER, 0, 1)
            tried("set", EVENTFD | TRIGGER, 0, 1, fds(event))
            tried("trigger", NONE | TRIGGER, 0, 1)
            tried("trigger by 1", BOOL | TRIGGER, 0, 1, b"\1")
            tried("trigger by 0", BOOL | TRIGGER, 0, 1, b"\0")
            tried("mask", NONE | MASK, 0, 1)
            tried("unmask", NONE | UNMASK, 0, 1)
            tried("count 0 by eventfd", EVENTFD | TRIGGER, 0, 0)
            tried("count 0 by bool", BOOL | TRIGGER, 0, 0)
            tried("set again", EVENTFD | TRIGGER, 0, 1, fds(event))
            tried("set bad", EVENTFD | TRIGGER, 0, 1, fds(999))
            tried("trigger after bad", NONE | TRIGGER, 0, 1)
            tried("set -2", EVENTFD | TRIGGER, 0, 1, fds(-2))
            tried("trigger after -2", NONE | TRIGGER, 0, 1)
            tried("set -1", EVENTFD | TRIGGER, 0, 1, fds(-1))
            tried("trigger after -1", NONE | TRIGGER, 0, 1)
            tried("off after -1", NONE | TRIGGER)
            tried("set once more", EVENTFD | TRIGGER, 0, 1, fds(event))
            tried("off", NONE | TRIGGER)
            tried("off again", NONE | TRIGGER)
            tried("trigger by 1 after off", BOOL | TRIGGER, 0, 1, b"\1")


SECTIONS = (validation, idle, intx, msi, events)
