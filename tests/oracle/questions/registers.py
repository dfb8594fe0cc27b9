"""Configuration space and BARs by pread and pwrite, and what cannot be mapped."""

from __future__ import annotations

import mmap

from questions.binding import bound
from questions.calls import MEMORY, PAGE, Files, map_memory, outcome, pread, pwrite, raw_ioctl, say, shown, unmap_memory
from questions.shapes import CONFIG, RESET

_COMMAND = CONFIG + 4
_BAR_SIZE = 1 << 20
_ADDRESS = b"\x00\x00\x00\xe0"
_UNUSED = range(0x54, 0x100, 4)
"""Behind the last capability: nothing is said of these registers, and one of them stands for all."""


def ready(files: Files) -> int:
    """A bound device whose BAR says an address that does not depend on the machine; its descriptor."""
    _, fd, _ = bound(files)
    pwrite(fd, _ADDRESS, CONFIG + 0x10)
    return fd


def _config(fd: int, offset: int, length: int = 4) -> str:
    return shown(pread(fd, length, CONFIG + offset))


def config_reads() -> None:
    """Every byte, in every width, and beyond."""
    with Files() as files:
        _, fd, _ = bound(files)
        assigned = pread(fd, 4, CONFIG + 0x10)
        say(
            "the BAR has an address",
            isinstance(assigned, bytes) and assigned[:2] == b"\0\0" and assigned[2:] != b"\0\0",
        )
        pwrite(fd, _ADDRESS, CONFIG + 0x10)
        for offset in range(0, 256, 16):
            say(f"bytes {offset:#x}", _config(fd, offset, 16))
        say("all of it at once", _config(fd, 0, 256))
        for offset in (0, 1, 2, 3, 5, 0x10, 0x3D, 0x40, 0xFC, 0xFD, 0xFF, 0x100, 0x101, 0x1000, 0xFFF, 0xFFC):
            for length in (1, 2, 3, 4, 5, 8, 16):
                say(f"{length} at {offset:#x}", _config(fd, offset, length))
        say("nothing", _config(fd, 0, 0))
        say("nothing beyond", _config(fd, 0x10000, 0))
        say("257 bytes", _config(fd, 0, 257))
        say("a page", _config(fd, 0, PAGE))


def config_writes() -> None:
    """Each register: all ones, then zeros, then what it was."""
    with Files() as files:
        fd = ready(files)
        for offset in sorted(set(range(0, 256, 4)) - set(_UNUSED) | {0xFC}):
            before = pread(fd, 4, CONFIG + offset)
            ones = pwrite(fd, b"\xff" * 4, CONFIG + offset)
            after_ones = _config(fd, offset)
            zeros = pwrite(fd, bytes(4), CONFIG + offset)
            after_zeros = _config(fd, offset)
            back = pwrite(fd, before if isinstance(before, bytes) else bytes(4), CONFIG + offset)
            results = f"{outcome(ones)} {outcome(zeros)} {outcome(back)}"
            say(f"{offset:#04x}", f"{results}: {after_ones} {after_zeros} {_config(fd, offset)}")
        for offset in (4, 5, 6, 7, 0xC, 0xD, 0x10, 0x11, 0x13, 0x3C, 0x3D, 0x40, 0x41, 0x42, 0x43, 0x44):
            before = pread(fd, 1, CONFIG + offset)
            result = pwrite(fd, b"\xff", CONFIG + offset)
            say(f"byte {offset:#x}", f"{outcome(result)} {_config(fd, offset & ~3)}")
            pwrite(fd, before if isinstance(before, bytes) else b"\0", CONFIG + offset)
            say(f"byte {offset:#x} back", _config(fd, offset & ~3))
        for offset, data in (
            (2, b"\xff\xff\xff\xff"),
            (3, b"\xff\xff\xff"),
            (0x0E, bytes(8)),
            (0x3E, b"\xff" * 8),
            (0x42, b"\xff" * 12),
            (0xFE, b"\xff" * 4),
            (0xFF, b"\xff"),
            (0x100, b"\xff"),
            (0x1000, b"\xff"),
            (0, b""),
        ):
            say(
                f"{len(data)} bytes at {offset:#x}",
                f"{outcome(pwrite(fd, data, CONFIG + offset))} {_config(fd, 0, 128)}",
            )


def command() -> None:
    """COMMAND, and what it does to the BAR."""
    with Files() as files:
        fd = ready(files)
        say("fresh", _config(fd, 4))
        say("BAR fresh", shown(pread(fd, 4, 0)))
        for value in (0x0, 0x2, 0x4, 0x6, 0x7, 0x406, 0x506, 0x547, 0xFFFF, 0x0, 0x400, 0x2):
            key = f"{value:#x} after {_config(fd, 4, 2)}"
            result = pwrite(fd, value.to_bytes(2, "little"), _COMMAND)
            say(
                f"write {key}",
                f"{outcome(result)} {_config(fd, 4)} BAR {shown(pread(fd, 4, 0))} {outcome(pwrite(fd, b'', 0))}",
            )
            say(f"BAR write with {key}", outcome(pwrite(fd, b"\0\0\0\0", 4)))
        pwrite(fd, b"\x06\x00", _COMMAND)
        pwrite(fd, b"\x04", _COMMAND + 1)
        say("high byte", _config(fd, 4))
        pwrite(fd, b"\x00", _COMMAND)
        say("low byte", _config(fd, 4))
        pwrite(fd, b"\x02\x00\xff\xff", _COMMAND)
        say("with status", _config(fd, 4))


def bar_register() -> None:
    """BAR sizing by configuration space, and what it leaves."""
    with Files() as files:
        fd = ready(files)
        pwrite(fd, b"\x02\x00", _COMMAND)
        for offset in range(0x10, 0x34, 4):
            before = pread(fd, 4, CONFIG + offset)
            for data in (b"\xff\xff\xff\xff", b"\xff\xff", b"\x0f", b"\x00\x00\x80\xfe", b"\x01\x00\x00\x00", bytes(4)):
                pwrite(fd, data, CONFIG + offset)
                say(f"{offset:#x} written {data.hex()}", _config(fd, offset))
            pwrite(fd, before if isinstance(before, bytes) else bytes(4), CONFIG + offset)
        pwrite(fd, b"\xff" * 4, CONFIG + 0x10)
        say("registers while the BAR says all ones", shown(pread(fd, 4, 0)))
        pwrite(fd, bytes(4), CONFIG + 0x10)
        say("registers while the BAR says 0", shown(pread(fd, 4, 0)))
        say("RESET", outcome(raw_ioctl(fd, RESET, 0)))
        say("BAR after the reset is not 0", _config(fd, 0x10) != "00000000")
        say("command after the reset", _config(fd, 4))


def message_capability() -> None:
    """The MSI capability is written by SET_IRQS; by hand it is only remembered."""
    with Files() as files:
        fd = ready(files)
        for offset, length in ((0x40, 1), (0x41, 1), (0x42, 1), (0x43, 1), (0x44, 4), (0x48, 4), (0x4C, 2)):
            for data in (b"\xff" * length, b"\x5a" * length, bytes(length)):
                pwrite(fd, data, CONFIG + offset)
                say(f"{offset:#x} written {data.hex()}", _config(fd, 0x40, 14))


def bar() -> None:
    """Every width and offset of the BAR; its end; other regions."""
    with Files() as files:
        fd = ready(files)
        pwrite(fd, b"\x02\x00", _COMMAND)
        say("interrupt line is not 0", pread(fd, 1, CONFIG + 0x3C) != b"\0")
        for offset in (0, 1, 2, 3, 4, 6, 0x20, 0x7C, 0x80, 0x81, 0x84, 0x88, 0x1000, 0x40000):
            for length in (1, 2, 3, 4, 5, 7, 8, 9, 12, 16):
                say(f"read {length} at {offset:#x}", shown(pread(fd, length, offset)))
        for offset in (0, 4, 5, 6, 0x80, 0x84, 0x88):
            for length in (1, 2, 3, 4, 8, 9, 16):
                result = pwrite(fd, bytes(range(1, length + 1)), offset)
                say(
                    f"write {length} at {offset:#x}",
                    f"{outcome(result)} {shown(pread(fd, 8, 0))} {shown(pread(fd, 16, 0x80))}",
                )
        for offset, length in (
            (_BAR_SIZE - 4, 4),
            (_BAR_SIZE - 4, 8),
            (_BAR_SIZE - 1, 1),
            (_BAR_SIZE - 1, 100),
            (_BAR_SIZE, 4),
            (_BAR_SIZE + 1, 1),
            ((1 << 40) - 4, 4),
            ((1 << 40) - 4, 8),
        ):
            say(f"end: read {length} at {offset:#x}", shown(pread(fd, length, offset)))
            say(f"end: write {length} at {offset:#x}", outcome(pwrite(fd, bytes(length), offset)))
        for region in (1, 2, 3, 4, 5, 6, 8, 9, 10, 255):
            for length in (0, 1, 4):
                say(f"region {region}: read {length}", shown(pread(fd, length, region << 40)))
                say(f"region {region}: write {length}", outcome(pwrite(fd, bytes(length), region << 40)))
        whole = pread(fd, 0x1000, 0)
        say("the first page has", len(whole) if isinstance(whole, bytes) else outcome(whole))


def mmaps() -> None:
    """Mmap of what cannot be mapped."""
    with Files() as files:
        fd = ready(files)
        for name, offset, length in (
            ("config", CONFIG, PAGE),
            ("ROM", 6 << 40, PAGE),
            ("BAR 1", 1 << 40, PAGE),
            ("VGA", 8 << 40, PAGE),
            ("region 9", 9 << 40, PAGE),
            ("region 100", 100 << 40, PAGE),
            ("beyond BAR 0", _BAR_SIZE, PAGE),
            ("over the end of BAR 0", _BAR_SIZE - PAGE, 2 * PAGE),
            ("more than BAR 0", 0, 2 * _BAR_SIZE),
            ("far beyond in BAR 0", (1 << 40) - PAGE, PAGE),
            ("misaligned", 4, PAGE),
        ):
            for sort, flags in (("shared", mmap.MAP_SHARED), ("private", mmap.MAP_PRIVATE)):
                result = map_memory(length, MEMORY, 3, flags, fd, offset)
                say(f"{name}, {sort}", outcome(min(0, result)))
                if result >= 0:
                    unmap_memory(MEMORY, length)
        say("BAR 0 private", outcome(min(0, map_memory(PAGE, MEMORY, 3, mmap.MAP_PRIVATE, fd, 0))))
        result = map_memory(PAGE, MEMORY, 3, mmap.MAP_SHARED, fd, 0)
        say("BAR 0", outcome(min(0, result)))
        if result >= 0:
            unmap_memory(MEMORY, PAGE)


SECTIONS = (config_reads, config_writes, command, bar_register, message_capability, bar, mmaps)
