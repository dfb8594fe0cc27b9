"""Power states of the first device that has some: what answers in them, and what is left afterwards."""

from __future__ import annotations

import os
import struct

from questions.calls import Files, call, must, outcome, pread, pwrite, raw_ioctl, say, shown
from questions.shapes import BIND, CONFIG, FEATURE, FIXED, MAP_FILE, RESET, RW, SET_IRQS
from questions.space import alloc

_NODES = "/dev/vfio/devices"
_POWER, _MSIX = 0x01, 0x11
_ENTRY, _EXIT, _DMA_BUF = 3 | 1 << 17, 5 | 1 << 17, 11 | 1 << 16


def _find(fd: int, wanted: int) -> int:
    """Where a capability stands; 0 for none."""
    place = pread(fd, 1, CONFIG + 0x34)
    while isinstance(place, bytes) and place[0]:
        head = pread(fd, 2, CONFIG + place[0])
        if isinstance(head, bytes) and head[0] == wanted:
            return place[0]
        place = head[1:] if isinstance(head, bytes) else b""
    return 0


def _device(files: Files) -> tuple[int, int, int]:
    """An iommufd, the device, and where its power registers are in the file."""
    for name in sorted(os.listdir(_NODES)):
        iommufd, fd = files.iommufd(), files.open(f"{_NODES}/{name}")
        must(fd, BIND, iommufd=iommufd)
        if place := _find(fd, _POWER):
            pwrite(fd, b"\x06\x00", CONFIG + 4)
            return iommufd, fd, CONFIG + place
        files.close(fd)
    raise LookupError("no device has power management")


def _look(label: str, fd: int, power: int) -> None:
    """State, whether memory answers, and the command register."""
    state = pread(fd, 1, power + 4)
    register = pread(fd, 4, 0)
    answers = outcome(register) if isinstance(register, int) else "answers"
    bits = state[0] & 3 if isinstance(state, bytes) else outcome(state)
    say(label, f"state {bits}, memory {answers}, command {shown(pread(fd, 2, CONFIG + 4))}")


def transitions() -> None:
    """From state to state."""
    with Files() as files:
        _, fd, power = _device(files)
        _look("at first", fd, power)
        for number, state in enumerate((3, 3, 0, 1, 0, 2, 0, 3, 1, 2, 0, 0x103 & 0xFF, 0)):
            pwrite(fd, bytes([state]), power + 4)
            _look(f"{number}: after {state}", fd, power)
        for value in (0x8103, 0x0100, 0x8000, 0):
            pwrite(fd, struct.pack("<H", value), power + 4)
            _look(f"after {value:#x} as a word", fd, power)
            word = pread(fd, 2, power + 4)
            say(f"PME bits after {value:#x}", shown(bytes([word[1] & 0x81]) if isinstance(word, bytes) else word))
        pwrite(fd, b"\x03", power + 5)
        _look("after 3 into the byte behind", fd, power)
        pwrite(fd, b"\x03\x00\x00\x00", power + 4)
        _look("after 3 as four bytes", fd, power)
        pwrite(fd, b"\x00\x00", power + 4)


def asleep() -> None:
    """What can be done in D3hot, and what becomes of what was set up before."""
    with Files() as files:
        iommufd, fd, power = _device(files)
        ioas = alloc(iommufd)
        bar = pread(fd, 4, CONFIG + 0x10)
        pwrite(fd, b"\x03", power + 4)
        say("write to memory", outcome(pwrite(fd, bytes(4), 0)))
        event = files.eventfd()
        tail = struct.pack("i", event)
        index = 2 if _find(fd, _MSIX) else 1
        said = call(fd, SET_IRQS, tail=tail, argsz=24, flags=4 | 32, index=index, start=0, count=1).result
        say("enable messages", outcome(said))
        head = struct.pack("IIIIQQ", 0, os.O_CLOEXEC, 0, 1, 0, 4096)
        made = call(fd, FEATURE, tail=head, argsz=8 + len(head), flags=_DMA_BUF).result
        say("export", "a descriptor" if made >= 0 else outcome(made))
        fields = {"flags": FIXED | RW, "ioas_id": ioas, "fd": made, "length": 4096, "iova": 1 << 28}
        say("map what was exported", outcome(call(iommufd, MAP_FILE, **fields).result))
        pwrite(fd, b"\x00", power + 4)
        say("map it in D0", outcome(call(iommufd, MAP_FILE, **fields).result))
        say("the BAR is as it was", pread(fd, 4, CONFIG + 0x10) == bar)
        said = call(fd, SET_IRQS, tail=tail, argsz=24, flags=4 | 32, index=index, start=0, count=1).result
        say("enable messages in D0", outcome(said))
        pwrite(fd, b"\x03", power + 4)
        say("reset", outcome(raw_ioctl(fd, RESET, 0)))
        _look("after the reset", fd, power)
        pwrite(fd, b"\x03", power + 4)
        say("entry", outcome(call(fd, FEATURE, flags=_ENTRY).result))
        say("exit", outcome(call(fd, FEATURE, flags=_EXIT).result))
        pwrite(fd, b"\x03", power + 4)
        files.close(fd)
        _, fd, power = _device(files)
        _look("opened again", fd, power)


SECTIONS = (transitions, asleep)
