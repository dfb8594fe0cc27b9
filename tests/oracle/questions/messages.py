"""MSI-X and MSI with several vectors: of the first devices that have them, whose own interrupts stay silent."""

from __future__ import annotations

import os
import struct

from questions.calls import Files, call, count_of, must, outcome, pread, say
from questions.shapes import BIND, CONFIG, IRQ_INFO, RESET, SET_IRQS

_NODES = "/dev/vfio/devices"
_NONE, _BOOL, _EVENTFD = 1, 2, 4
_MASK, _UNMASK, _TRIGGER = 8, 16, 32
MSI, MSIX = 1, 2


def _device(files: Files, index: int, least: int) -> tuple[int, int]:
    """The first device with at least so many interrupts of an index, bound, and how many it has."""
    for name in sorted(os.listdir(_NODES)):
        fd = files.open(f"{_NODES}/{name}")
        must(fd, BIND, iommufd=files.iommufd())
        info = must(fd, IRQ_INFO, index=index)
        if info["count"] >= least:
            say("flags", f"{info['flags']:#x}")
            return fd, info["count"]
        files.close(fd)
    raise LookupError(f"no device has {least} interrupts of index {index}")


def _set(label: str, fd: int, flags: int, index: int, start: int, *data: int, count: int | None = None) -> None:
    """SET_IRQS, written down."""
    kind = "B" if flags & _BOOL else "i"
    tail = b"" if flags & _NONE else struct.pack(f"={len(data)}{kind}", *data)
    number = len(data) if count is None else count
    result = call(
        fd, SET_IRQS, tail=tail, argsz=20 + len(tail), flags=flags, index=index, start=start, count=number
    ).result
    say(label, outcome(result))


def _fired(label: str, fd: int, index: int, events: list[int], start: int, count: int) -> None:
    """Trigger `count` by hand, and write which eventfds have counted."""
    _set(f"{label}, triggered", fd, _NONE | _TRIGGER, index, start, count=count)
    say(f"{label}, counted", [count_of(event, 0) for event in events])


def _control(fd: int, capability: int) -> str:
    """The enable bits of the capability's message control."""
    place = pread(fd, 1, CONFIG + 0x34)
    while isinstance(place, bytes) and place[0]:
        head = pread(fd, 4, CONFIG + place[0])
        if isinstance(head, bytes) and head[0] == capability:
            control = int.from_bytes(head[2:4], "little")
            return f"{control & (0xC000 if capability == 0x11 else 0x71):#x}"
        place = head[1:2] if isinstance(head, bytes) else b""
    return "none"


def msix() -> None:
    """Vectors are added one by one, up to as many as there are."""
    with Files() as files:
        fd, most = _device(files, MSIX, 4)
        events = [files.eventfd() for _ in range(4)]
        on = _EVENTFD | _TRIGGER
        say("control", _control(fd, 0x11))
        _set("trigger by hand before", fd, _NONE | _TRIGGER, MSIX, 0, count=1)
        _set("disable before", fd, _NONE | _TRIGGER, MSIX, 0, count=0)
        _set("one behind the last", fd, on, MSIX, most, events[0])
        _set("over the last", fd, on, MSIX, most - 1, events[0], events[1])
        _set("no descriptor", fd, on, MSIX, 0, 998)
        say("control after it", _control(fd, 0x11))
        _set("vector 1", fd, on, MSIX, 1, events[1])
        say("control with it", _control(fd, 0x11))
        _fired("vectors 0 to 1", fd, MSIX, events, 0, 2)
        _set("vector 3 too", fd, on, MSIX, 3, events[3])
        _set("vector 0 too", fd, on, MSIX, 0, events[0])
        _set("the last one", fd, on, MSIX, most - 1, events[2])
        _fired("all", fd, MSIX, events, 0, most)
        _set("a hole", fd, on, MSIX, 0, events[0], -1, events[2])
        _fired("with a hole", fd, MSIX, events, 0, 4)
        _set("a bad one among three", fd, on, MSIX, 0, events[0], 998, events[2])
        _fired("after the bad one", fd, MSIX, events, 0, 4)
        _set("again", fd, on, MSIX, 0, events[0], events[1])
        _set("by truth values", fd, _BOOL | _TRIGGER, MSIX, 0, 1, 0, 1, 1)
        say("counted by truth values", [count_of(event, 0) for event in events])
        for flags, name in ((_MASK, "mask"), (_UNMASK, "unmask")):
            for kind in (_NONE, _BOOL, _EVENTFD):
                _set(f"{name} with data {kind}", fd, kind | flags, MSIX, 0, 1)
        _set("MSI beside it", fd, on, MSI, 0, events[0])
        _set("INTx beside it", fd, on, 0, 0, events[0])
        say("reset", outcome(call(fd, IRQ_INFO, request=RESET).result))
        say("control after the reset", _control(fd, 0x11))
        _fired("after the reset", fd, MSIX, events, 0, 2)
        _set("disable", fd, _NONE | _TRIGGER, MSIX, 0, count=0)
        say("control disabled", _control(fd, 0x11))
        _set("trigger by hand afterwards", fd, _NONE | _TRIGGER, MSIX, 0, count=1)


def msi() -> None:
    """As many as it was enabled with, and no more."""
    with Files() as files:
        fd, _ = _device(files, MSI, 1)
        events = [files.eventfd() for _ in range(2)]
        on = _EVENTFD | _TRIGGER
        _set("vector 0", fd, on, MSI, 0, events[0])
        say("control", _control(fd, 0x05))
        _fired("vector 0", fd, MSI, events, 0, 1)
        _set("another eventfd", fd, on, MSI, 0, events[1])
        _fired("the other", fd, MSI, events, 0, 1)
        _set("none", fd, on, MSI, 0, -1)
        _fired("none", fd, MSI, events, 0, 1)
        _set("vector 0 again", fd, on, MSI, 0, events[0])
        _set("no descriptor", fd, on, MSI, 0, 998)
        _fired("after no descriptor", fd, MSI, events, 0, 1)
        _set("disable", fd, _NONE | _TRIGGER, MSI, 0, count=0)
        say("control disabled", _control(fd, 0x05))


SECTIONS = (msix, msi)
