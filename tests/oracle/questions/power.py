"""Low power: going to sleep between accesses, and waking up."""

from __future__ import annotations

import struct
import time

from questions.binding import bound
from questions.calls import Files, call, count_of, outcome, pread, pwrite, raw_ioctl, say, shown
from questions.shapes import CONFIG, DEVICE, DEVICE_INFO, FEATURE, RESET

_SET = 1 << 17
_ENTRY, _WITH_WAKEUP, _EXIT = 3 | _SET, 4 | _SET, 5 | _SET
_SECONDS = 3.0


def _status(files: Files) -> str:
    """What sysfs says of the device, once it has said so twice in a row after a while."""
    path = f"/sys/class/vfio-dev/{DEVICE.rsplit('/', 1)[1]}/device/power/runtime_status"
    found = ""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        with open(path) as file:
            text = file.read().strip()
        if text == found and not text.endswith("ing"):
            return text
        found = text
        time.sleep(0.05)
    return found


def _entry(fd: int, wakeup: int | None = None) -> int:
    tail = b"" if wakeup is None else struct.pack("iI", wakeup, 0)
    return call(fd, FEATURE, tail=tail, argsz=8 + len(tail), flags=_ENTRY if wakeup is None else _WITH_WAKEUP).result


def sleeping() -> None:
    """Without a wake-up eventfd the device sleeps again after each access."""
    with Files() as files:
        say("before it is open", _status(files))
        opened = files.open(DEVICE)
        say("open", _status(files))
        files.close(opened)
        _, fd, _ = bound(files)
        say("bound", _status(files))
        pwrite(fd, b"\x06\x00", CONFIG + 4)
        pwrite(fd, b"\x11\x22\x33\x44", 4)
        say("entry", outcome(_entry(fd)))
        say("entered", _status(files))
        say("entry again", outcome(_entry(fd)))
        say("a register", shown(pread(fd, 4, 4)))
        say("after the read", _status(files))
        say("command", shown(pread(fd, 2, CONFIG + 4)))
        say("info", outcome(call(fd, DEVICE_INFO).result))
        say("after the calls", _status(files))
        say("reset", outcome(raw_ioctl(fd, RESET, 0)))
        say("after the reset", _status(files))
        say("exit", outcome(call(fd, FEATURE, flags=_EXIT).result))
        say("left", _status(files))
        say("exit again", outcome(call(fd, FEATURE, flags=_EXIT).result))
        say("command in the end", shown(pread(fd, 2, CONFIG + 4)))
        say("entry before closing", outcome(_entry(fd)))
        say("asleep before closing", _status(files))
        files.close(fd)
        say("closed", _status(files))


def waking() -> None:
    """With a wake-up eventfd the first access ends low power."""
    with Files() as files:
        iommufd, fd, _ = bound(files)
        event = files.eventfd()
        for label, wakeup in (("negative", -1), ("999", 999), ("an iommufd", iommufd)):
            say(f"eventfd {label}", outcome(_entry(fd, wakeup)))
        short = call(fd, FEATURE, tail=struct.pack("i", event), argsz=12, flags=_WITH_WAKEUP).result
        say("structure too short", outcome(short))
        for how in ("configuration space", "a register", "an ioctl", "exit"):
            say(f"entry before {how}", outcome(_entry(fd, event)))
            say(f"asleep before {how}", _status(files))
            say(f"events before {how}", count_of(event))
            if how == "configuration space":
                pread(fd, 4, CONFIG)
            elif how == "a register":
                pread(fd, 4, 0)
            elif how == "an ioctl":
                call(fd, DEVICE_INFO)
            else:
                say("exit", outcome(call(fd, FEATURE, flags=_EXIT).result))
            say(f"events after {how}", count_of(event))
            say(f"awake after {how}", _status(files))
        say("entry without", outcome(_entry(fd)))
        say("entry with, within", outcome(_entry(fd, event)))
        say("events within", count_of(event))
        say("exit in the end", outcome(call(fd, FEATURE, flags=_EXIT).result))


SECTIONS = (sleeping, waking)
