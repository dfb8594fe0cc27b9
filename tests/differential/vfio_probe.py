"""A long list of VFIO calls on an edu, right and wrong ones, and what each answered: one line per call.

The same list runs on the real kernel (``python vfio_probe.py [CDEV]`` in the reference guest, as root, with an edu
behind a root port bound to vfio-pci) and on the software host, in this process or under `ioas run`; the lines must be
the same. tests/reference/vfio_edu.txt is what Linux 7.3.4 answered. Standard library only, for the guest.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
import sys
from collections.abc import Callable, Sequence

BIND, ATTACH, DETACH = 0x3B76, 0x3B77, 0x3B78
INFO, REGION_INFO, IRQ_INFO, SET_IRQS, RESET = 0x3B6B, 0x3B6C, 0x3B6D, 0x3B6E, 0x3B6F
HOT_RESET_INFO, HOT_RESET, IOEVENTFD, FEATURE = 0x3B70, 0x3B71, 0x3B74, 0x3B75
DESTROY, IOAS_ALLOC, IOAS_MAP = 0x3B80, 0x3B81, 0x3B85
CONFIG = 7 << 40
NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 16, 32
INTX, MSI, ERR, REQ = 0, 1, 3, 4
RAISE, ACKNOWLEDGE = 0x60, 0x64
IOVA = 0x100000
FINISHED = 0x100
"""The bit that edu's DMA sets in its interrupt status."""


class Kernel:
    """The system calls; a test replaces them by a software host's. A failure is the negative errno."""

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        return os.open(path, flags)

    def close(self, fd: int) -> None:
        os.close(fd)

    def ioctl(self, fd: int, request: int, data: bytearray) -> int:
        return attempt(lambda: fcntl.ioctl(fd, request, data, True))

    def read(self, fd: int, length: int, offset: int | None) -> bytes | int:
        return attempt(lambda: os.read(fd, length) if offset is None else os.pread(fd, length, offset))

    def write(self, fd: int, data: bytes, offset: int) -> int:
        return attempt(lambda: os.pwrite(fd, data, offset))

    def mmap(self, fd: int, length: int, flags: int, offset: int) -> int:
        return attempt(lambda: bool(mmap.mmap(fd, length, flags, 3, offset=offset)) and 0)


def attempt(call: Callable[[], int | bytes]) -> int | bytes:
    """What `call` returns, or minus the errno that it fails with."""
    try:
        return call()
    except OSError as error:
        return -(error.errno or 0)


class Probe:
    """The calls, and the lines so far."""

    def __init__(self, kernel: Kernel, cdev: str) -> None:
        self.kernel = kernel
        self.cdev = cdev
        self.lines: list[str] = []
        self.iommufd = kernel.open("/dev/iommu")
        self.other = kernel.open("/dev/iommu")
        self.device = kernel.open(cdev)
        self.second = kernel.open(cdev)
        self.events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4)]
        self.ioas = 0

    def run(self) -> list[str]:
        """Every section, in order."""
        for section in (
            self.before_bind,
            self.bind,
            self.info,
            self.attach,
            self.command_register,
            self.config,
            self.regions,
            self.irq_checks,
            self.intx,
            self.intx_unmask_eventfd,
            self.intx_disable_bit,
            self.msi,
            self.signals,
            self.resets,
            self.ioeventfds,
            self.features,
            self.dma,
            self.close,
        ):
            self.lines.append(f"# {section.__name__}")
            section()
        for event in self.events:
            os.close(event)
        return self.lines

    # Each of these records one line.

    def show(self, name: str, result: int | bytes, data: bytes = b"") -> None:
        if isinstance(result, bytes):
            shown = result.hex() or "empty"
        else:
            shown = errno.errorcode.get(-result, str(result)) if result < 0 else str(result)
        self.lines.append(f"{name}: {shown} {data.hex()}".rstrip())

    def ioctl(self, name: str, request: int, *words: int, fd: int | None = None, keep: Sequence[int] = ()) -> bytes:
        """An ioctl with a structure of u32 `words`; `keep` are the indexes of those that are shown (default: all)."""
        data = bytearray(struct.pack(f"={len(words)}I", *(word & 0xFFFF_FFFF for word in words)))
        result = self.kernel.ioctl(self.device if fd is None else fd, request, data)
        parts = [data[4 * index : 4 * index + 4] for index in keep] if keep else [data]
        self.show(name, result, b"".join(parts))
        return bytes(data)

    def read(self, name: str, offset: int | None, length: int) -> None:
        self.show(name, self.kernel.read(self.device, length, offset))

    def write(self, name: str, offset: int, data: bytes) -> None:
        self.show(name, self.kernel.write(self.device, data, offset))

    def irqs(
        self, name: str, flags: int, index: int, start: int = 0, count: int = 1, data: bytes = b"", argsz: int = 0
    ) -> None:
        words = struct.pack("=5I", argsz or 20 + len(data), flags, index, start, count)
        self.show(name, self.kernel.ioctl(self.device, SET_IRQS, bytearray(words + data)))

    def trigger(self, name: str, index: int, *fds: int) -> None:
        self.irqs(name, EVENTFD | TRIGGER, index, 0, len(fds), struct.pack(f"={len(fds)}i", *fds))

    def signalled(self, name: str, event: int, expected: bool = True) -> None:
        """What an eventfd counted; waits for a signal that is `expected`, and a moment for one that is not."""
        select.select([event], [], [], 2 if expected else 0.05)
        result = attempt(lambda: os.eventfd_read(event))
        self.show(name, 0 if result == -errno.EAGAIN else result)

    # These record nothing.

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that happens soon, 5 seconds at most."""
        for _ in range(500):
            if condition():
                return
            select.select([], [], [], 0.01)

    def register(self, offset: int, value: int, width: int = 4) -> None:
        self.kernel.write(self.device, value.to_bytes(width, "little"), offset)

    def set_command(self, value: int) -> None:
        self.kernel.write(self.device, value.to_bytes(2, "little"), CONFIG + 4)

    def before_bind(self) -> None:
        for name, request in (
            ("info", INFO),
            ("region", REGION_INFO),
            ("irq", IRQ_INFO),
            ("set irqs", SET_IRQS),
            ("reset", RESET),
            ("feature", FEATURE),
            ("attach", ATTACH),
            ("detach", DETACH),
            ("hot reset", HOT_RESET),
            ("unknown", 0x3BFF),
        ):
            self.ioctl(name, request, *[0] * 16)
        self.read("read", CONFIG, 4)
        self.read("read nothing", CONFIG, 0)
        self.write("write", CONFIG + 4, b"ab")
        self.show("mmap", self.kernel.mmap(self.device, 4096, mmap.MAP_SHARED, 0))

    def bind(self) -> None:
        fd, hidden = self.iommufd, (0, 1, 4, 5)
        token = ctypes.create_string_buffer(16)
        low, high = ctypes.addressof(token) & 0xFFFF_FFFF, ctypes.addressof(token) >> 32
        for name, words in (
            ("argsz 15", (15, 0, fd, 0, 0, 0)),
            ("argsz 0", (0, 0, fd, 0, 0, 0)),
            ("flags", (24, 2, fd, 0, 0, 0)),
            ("negative", (24, 0, -2, 0, 0, 0)),
            ("no such fd", (24, 0, 99999, 0, 0, 0)),
            ("a cdev", (24, 0, self.second, 0, 0, 0)),
            ("an eventfd", (24, 0, self.events[0], 0, 0, 0)),
            ("token at 0", (24, 1, fd, 0, 0, 0)),
            ("tail", (32, 0, fd, 0, 0, 0, 0, 1)),
            ("tail and flags", (32, 4, fd, 0, 0, 0, 0, 1)),
            ("zero tail and flags", (32, 4, fd, 0, 0, 0, 0, 0)),
        ):
            self.ioctl(name, BIND, *words, keep=hidden)
        self.ioctl("token", BIND, 24, 1, fd, 0, low, high, keep=(0, 1))
        self.ioctl("first version", BIND, 16, 0, fd, 0, 0xDEAD, 0, keep=(0, 1, 3, 4))
        for name, which, context in (
            ("twice", self.device, fd),
            ("other file", self.second, fd),
            ("other file and iommufd", self.second, self.other),
        ):
            self.ioctl(name, BIND, 24, 0, context, 0, 0, 0, fd=which, keep=hidden)
        self.ioctl("other file is not bound", INFO, 24, 0, 0, 0, 0, 0, fd=self.second)

    def info(self) -> None:
        for argsz in (0, 15, 16, 20, 24, 64):
            self.ioctl(f"info {argsz}", INFO, argsz, *[0x99] * 15)
        for index in (*range(11), 0xFFFF_FFFF):
            data = bytearray(struct.pack("=4I2Q", 32, 9, index, 9, 9, 9))
            result = self.kernel.ioctl(self.device, REGION_INFO, data)
            data[4] &= ~4  # the reference offers mmap, the software host not yet
            self.show(f"region {index}", result, bytes(data))
        self.ioctl("region argsz 31", REGION_INFO, 31, *[0] * 7)
        for index in range(7):
            for argsz in (15, 16, 32):
                self.ioctl(f"irq {index} {argsz}", IRQ_INFO, argsz, 9, index, 9)
        for request in (0x3BFE, 0x3B67, IOAS_ALLOC, INFO | 1 << 30):
            self.ioctl(f"request {request:#x}", request, *[0] * 16)

    def attach(self) -> None:
        self.ioctl("none", ATTACH, 16, 0, 0, 0)
        self.ioctl("unknown", ATTACH, 16, 0, 0xFFFF_FFFF, 0)
        self.ioctl("argsz", ATTACH, 11, 0, 0, 0)
        self.ioctl("flags", ATTACH, 16, 2, 0, 0)
        self.ioas = struct.unpack_from("I", self.ioctl("ioas", IOAS_ALLOC, 12, 0, 0, fd=self.iommufd), 8)[0]
        second = struct.unpack_from("I", self.ioctl("second ioas", IOAS_ALLOC, 12, 0, 0, fd=self.iommufd), 8)[0]
        self.ioctl("pasid argsz", ATTACH, 12, 1, self.ioas, 1)
        self.ioctl("pasid", ATTACH, 16, 1, self.ioas, 1)
        self.ioctl("pasid too large", ATTACH, 16, 1, self.ioas, 1 << 31)
        self.ioctl("detach pasid argsz", DETACH, 8, 1, 1)
        self.ioctl("detach pasid", DETACH, 12, 1, 1)
        self.ioctl("detach nothing", DETACH, 12, 0, 0)
        self.ioctl("pasid 0", ATTACH, 16, 1, self.ioas, 0)
        self.ioctl("after pasid 0", ATTACH, 16, 0, self.ioas, 0)
        self.ioctl("detach after pasid 0", DETACH, 12, 0, 0)
        self.ioctl("detach pasid 0", DETACH, 12, 1, 0)
        self.ioctl("attach", ATTACH, 16, 0, self.ioas, 0)
        self.ioctl("attach again", ATTACH, 12, 0, self.ioas, 0)
        self.ioctl("replace", ATTACH, 16, 0, second, 0)
        self.ioctl("destroy in use", DESTROY, 8, second, fd=self.iommufd)
        self.ioctl("replace by nothing", ATTACH, 16, 0, 0x7777, 0)
        self.ioctl("detach argsz", DETACH, 7, 0)
        self.ioctl("detach flags", DETACH, 12, 2, 0)
        self.ioctl("detach", DETACH, 8, 0)
        self.ioctl("detach again", DETACH, 8, 0)

    def command_register(self) -> None:
        for value in (0, 2, 6, 0x406, 0x507, 0xFFBF, 0x103):
            self.write(f"write {value:#x}", CONFIG + 4, value.to_bytes(2, "little"))
            self.read("read", CONFIG + 4, 4)
            self.read("bar", 0, 4)
        for offset, data in ((4, b"\x06"), (5, b"\x04"), (5, b"\0"), (4, b"\x07\x04\xff\xff")):
            self.write(f"write {data.hex()} at {offset}", CONFIG + offset, data)
            self.read("read", CONFIG + 4, 4)
        self.set_command(6)

    def config(self) -> None:
        for name, offset, length in (
            ("all", 0, 16),
            ("unaligned", 0x2B, 7),
            ("beyond", 0, 257),
            ("behind", 256, 4),
            ("across", 254, 4),
            ("nothing far", 9999, 0),
        ):
            self.read(f"read {name}", CONFIG + offset, length)
        self.write("write across", CONFIG + 254, b"abcd")
        for offset in (*range(0x08, 0x3C, 4), *range(0x40, 0x4C, 4)):
            before = self.kernel.read(self.device, 4, CONFIG + offset)
            for data in (b"\xff" * 4, b"\0" * 4):
                self.write(f"write {offset:#x}", CONFIG + offset, data)
                self.read(f"read {offset:#x}", CONFIG + offset, 4)
            if isinstance(before, bytes):
                self.kernel.write(self.device, before, CONFIG + offset)
        self.kernel.write(self.device, bytes(4), CONFIG + 0x10)
        for offset, data in ((0x10, b"\xff"), (0x13, b"\xff"), (0x10, b"\0\0\x80\xfe"), (0x3C, b"\x77"), (0x3D, b"\0")):
            self.write(f"write {data.hex()} at {offset:#x}", CONFIG + offset, data)
            self.read("read", CONFIG + (offset & ~3), 4)
        for flags in (0x81, 0x01, 0xFF, 0x31, 0x00):
            self.write(f"msi flags {flags:#x}", CONFIG + 0x42, bytes([flags]))
            self.read("msi", CONFIG + 0x40, 16)

    def regions(self) -> None:
        for name, offset, length in (
            ("id", 0, 4),
            ("two registers", 0, 8),
            ("end", 1 << 20, 4),
            ("short", (1 << 20) - 8, 16),
            ("far", (1 << 40) - 4, 4),
        ):
            self.read(f"read {name}", offset, length)
        self.write("liveness", 4, b"\x78\x56\x34\x12")
        self.read("liveness", 4, 4)
        self.write("write nothing", 4, b"")
        self.write("write short", (1 << 20) - 4, b"abcdabcd")
        self.write("write behind", 1 << 20, b"abcd")
        for index in (*range(1, 7), 8, 9, 10, 100):
            self.read(f"region {index}", index << 40, 4)
            self.write(f"region {index}", index << 40, b"abcd")
            self.read(f"region {index} nothing", index << 40, 0)
        self.read("no offset", None, 8)
        self.read("no offset again", None, 4)
        for name, flags, offset in (
            ("private", mmap.MAP_PRIVATE, 0),
            ("config", mmap.MAP_SHARED, CONFIG),
            ("behind", mmap.MAP_SHARED, 1 << 20),
            ("absent bar", mmap.MAP_SHARED, 1 << 40),
            ("no region", mmap.MAP_SHARED, 9 << 40),
        ):
            self.show(f"mmap {name}", self.kernel.mmap(self.device, 4096, flags, offset))

    def irq_checks(self) -> None:
        self.irqs("argsz", NONE | TRIGGER, INTX, argsz=19)
        self.irqs("index", NONE | TRIGGER, 5)
        self.irqs("unknown flag", NONE | TRIGGER | 64, INTX)
        self.irqs("two types", NONE | BOOL | TRIGGER, INTX)
        self.irqs("no type", TRIGGER, INTX)
        self.irqs("no action", NONE, INTX)
        self.irqs("two actions", NONE | TRIGGER | MASK, INTX)
        self.irqs("count", NONE | TRIGGER, INTX, 0, 2)
        self.irqs("start", NONE | TRIGGER, INTX, 1, 1)
        self.irqs("wrap", NONE | TRIGGER, INTX, 0xFFFF_FFFF, 1)
        self.irqs("most", NONE | TRIGGER, INTX, 0, 0xFFFF_FFFF)
        self.irqs("short data", EVENTFD | TRIGGER, INTX, data=b"ab")
        self.irqs("no data", BOOL | TRIGGER, INTX)
        for index in range(5):
            for action in (MASK, UNMASK, TRIGGER):
                for kind, data in ((NONE, b""), (BOOL, b"\1"), (BOOL, b"\0"), (EVENTFD, b"\xff" * 4)):
                    for count in (0, 1):
                        name = f"idle {index} {action} {kind} {data.hex()} {count}"
                        self.irqs(name, kind | action, index, 0, count, data if count else b"")
            self.irqs("disable", NONE | TRIGGER, index, 0, 0)
        for index in (INTX, MSI, REQ):
            self.trigger(f"{index} no such fd", index, 99999)
            self.trigger(f"{index} no eventfd", index, self.iommufd)
        self.trigger("req -2", REQ, -2)

    def intx(self) -> None:
        first, second, third, _ = self.events
        self.trigger("enable", INTX, first)
        self.register(RAISE, 1)
        self.signalled("raised", first)
        self.read("command", CONFIG + 4, 4)
        self.irqs("unmask while asserted", NONE | UNMASK, INTX)
        self.signalled("again", first)
        self.register(ACKNOWLEDGE, 1)
        self.irqs("unmask", NONE | UNMASK, INTX)
        self.signalled("quiet", first, expected=False)
        self.trigger("msi meanwhile", MSI, second)
        self.irqs("msi off meanwhile", NONE | TRIGGER, MSI, 0, 0)
        for data in (b"", b"\0", b"\1"):
            self.irqs("by hand", (BOOL if data else NONE) | TRIGGER, INTX, data=data)
            self.signalled("by hand", first, expected=data != b"\0")
        self.irqs("mask", NONE | MASK, INTX)
        self.register(RAISE, 1)
        self.signalled("masked", first, expected=False)
        self.irqs("unmask not", BOOL | UNMASK, INTX, data=b"\0")
        self.signalled("masked", first, expected=False)
        self.irqs("unmask", BOOL | UNMASK, INTX, data=b"\1")
        self.signalled("unmasked", first)
        self.register(ACKNOWLEDGE, 1)
        self.irqs("unmask", NONE | UNMASK, INTX)
        self.irqs("mask by eventfd", EVENTFD | MASK, INTX, data=struct.pack("i", second))
        self.trigger("swap", INTX, third)
        self.register(RAISE, 1)
        self.signalled("old", first, expected=False)
        self.signalled("new", third)
        self.register(ACKNOWLEDGE, 1)
        self.irqs("unmask", NONE | UNMASK, INTX)
        self.trigger("no eventfd", INTX, -1)
        self.register(RAISE, 1)
        self.signalled("new", third, expected=False)
        self.register(ACKNOWLEDGE, 1)
        self.irqs("disable", NONE | TRIGGER, INTX, 0, 0)
        self.irqs("disable again", NONE | TRIGGER, INTX, 0, 0)
        self.irqs("mask when disabled", NONE | MASK, INTX)
        self.trigger("enable without eventfd", INTX, -1)
        self.trigger("msi meanwhile", MSI, second)
        self.irqs("disable", NONE | TRIGGER, INTX, 0, 0)

    def intx_unmask_eventfd(self) -> None:
        first, second, third, _ = self.events
        self.trigger("enable", INTX, first)
        for name, fd in (("set", second), ("twice", third), ("no such fd", 99999), ("no eventfd", self.iommufd)):
            self.irqs(name, EVENTFD | UNMASK, INTX, data=struct.pack("i", fd))
        self.register(RAISE, 1)
        self.signalled("raised", first)
        os.eventfd_write(second, 1)
        self.signalled("raised again", first)
        self.signalled("taken", second, expected=False)
        self.register(ACKNOWLEDGE, 1)
        os.eventfd_write(second, 1)
        self.signalled("quiet", first, expected=False)
        self.irqs("unset", EVENTFD | UNMASK, INTX, data=struct.pack("i", -1))
        os.eventfd_write(second, 5)
        self.signalled("not taken", second)
        self.irqs("disable", NONE | TRIGGER, INTX, 0, 0)

    def intx_disable_bit(self) -> None:
        first = self.events[0]
        self.trigger("enable", INTX, first)
        self.set_command(0x406)
        self.register(RAISE, 1)
        self.signalled("disabled", first, expected=False)
        self.irqs("by hand", NONE | TRIGGER, INTX)
        self.irqs("unmask", NONE | UNMASK, INTX)
        self.signalled("disabled", first, expected=False)
        self.set_command(0x6)
        self.signalled("enabled", first)
        self.register(ACKNOWLEDGE, 1)
        self.irqs("disable", NONE | TRIGGER, INTX, 0, 0)

    def msi(self) -> None:
        first, second, third, _ = self.events
        self.irqs("no vectors", EVENTFD | TRIGGER, MSI, 0, 0)
        self.trigger("enable", MSI, second)
        self.read("capability", CONFIG + 0x40, 4)
        self.trigger("intx meanwhile", INTX, first)
        self.irqs("intx off meanwhile", NONE | TRIGGER, INTX, 0, 0)
        for data in (b"", b"\0", b"\1"):
            self.irqs("by hand", (BOOL if data else NONE) | TRIGGER, MSI, data=data)
            self.signalled("by hand", second, expected=data != b"\0")
        for name, command, expected in (("raised", 6, True), ("again", 6, True), ("not a master", 2, False)):
            self.set_command(command)
            self.raise_once(name, second, expected)
        self.set_command(6)
        self.trigger("swap", MSI, third)
        self.raise_once("swapped", third)
        self.irqs("mask", NONE | MASK, MSI)
        self.trigger("unset", MSI, -1)
        self.irqs("by hand when unset", NONE | TRIGGER, MSI)
        self.trigger("no such fd", MSI, 99999)
        self.trigger("intx still refused", INTX, first)
        self.trigger("set", MSI, second)
        for flags, expected in ((0x81, True), (0x80, False), (0x81, True)):
            self.write(f"flags {flags:#x}", CONFIG + 0x42, bytes([flags]))
            self.read("capability", CONFIG + 0x40, 4)
            self.raise_once("raised", second, expected)
        self.show("reset", self.kernel.ioctl(self.device, RESET, bytearray(8)))
        self.read("command", CONFIG + 4, 4)
        self.raise_once("after the reset", second)
        self.irqs("disable", NONE | TRIGGER, MSI, 0, 0)
        self.irqs("disable again", NONE | TRIGGER, MSI, 0, 0)

    def raise_once(self, name: str, event: int, expected: bool = True) -> None:
        self.register(RAISE, 1)
        self.signalled(name, event, expected)
        self.register(ACKNOWLEDGE, 1)

    def signals(self) -> None:
        event = self.events[3]
        for index in (ERR, REQ):
            self.trigger(f"{index} set", index, event)
            for data in (b"", b"\0", b"\1"):
                self.irqs("by hand", (BOOL if data else NONE) | TRIGGER, index, data=data)
                self.signalled("by hand", event, expected=data != b"\0")
            self.irqs("off", NONE | TRIGGER, index, 0, 0)
            self.irqs("by hand when off", NONE | TRIGGER, index)
            self.irqs("by hand when off", BOOL | TRIGGER, index, data=b"\1")
            self.trigger("unset", index, -1)
            self.irqs("mask", NONE | MASK, index)

    def resets(self) -> None:
        self.show("reset", self.kernel.ioctl(self.device, RESET, bytearray(8)))
        for argsz in (11, 12, 19, 20, 64):
            self.ioctl(f"hot reset info {argsz}", HOT_RESET_INFO, argsz, 9, 9, *[0x55] * 13, keep=(0, 1, 2, 4, 5))
        self.ioctl("hot reset argsz", HOT_RESET, 11, 0, 0)
        self.ioctl("hot reset flags", HOT_RESET, 12, 1, 0)
        self.ioctl("hot reset groups", HOT_RESET, 16, 0, 1, -1)
        self.ioctl("hot reset", HOT_RESET, 12, 0, 0)
        self.read("command", CONFIG + 4, 4)

    def ioeventfds(self) -> None:
        first, _, third, _ = self.events
        for name, argsz, flags, offset, fd in (
            ("argsz", 27, 4, 4, first),
            ("flags", 40, 0x10, 4, first),
            ("two sizes", 40, 5, 4, first),
            ("no size", 40, 0, 4, first),
            ("fd -2", 40, 4, 4, -2),
            ("config", 40, 4, CONFIG, first),
            ("behind", 40, 4, (1 << 20) - 2, first),
            ("absent bar", 40, 4, 1 << 40, first),
            ("nothing to end", 40, 4, 4, -1),
            ("no such fd", 40, 4, 4, 99999),
            ("no eventfd", 40, 4, 4, self.iommufd),
            ("set", 40, 4, 4, first),
            ("again", 40, 4, 4, first),
        ):
            self.ioeventfd(name, argsz, flags, offset, 0xABCD, fd)
        self.ioeventfd("other data", 40, 4, 4, 0xABCE, third)
        self.register(4, 0)
        os.eventfd_write(first, 1)
        self.wait_until(lambda: self.kernel.read(self.device, 4, 4) != b"\xff" * 4)
        self.read("written", 4, 4)
        self.signalled("taken", first, expected=False)
        for name in ("end", "end again"):
            self.ioeventfd(name, 40, 4, 4, 0xABCD, -1)
        self.ioeventfd("end other", 40, 4, 4, 0xABCE, -1)

    def ioeventfd(self, name: str, argsz: int, flags: int, offset: int, data: int, fd: int) -> None:
        words = struct.pack("=2I2QiI", argsz, flags, offset, data, fd, 0)
        self.show(name, self.kernel.ioctl(self.device, IOEVENTFD, bytearray(words)))

    def features(self) -> None:
        get, put, probe = 1 << 16, 1 << 17, 1 << 18
        for number in range(16):
            for flags in (0, get, put, probe, get | put, get | put | probe, get | probe, put | probe, 1 << 19):
                if number not in (3, 4, 5, 11):  # these have an effect; dma-buf the software host does not have yet
                    self.ioctl(f"{number} {flags:#x}", FEATURE, 24, number | flags, 0, 0, 0, 0)
        self.ioctl("argsz", FEATURE, 7, 1)
        event = self.events[3]
        for name, words in (
            ("low power", (8, 3 | put)),
            ("low power again", (8, 3 | put)),
            ("probe", (8, 3 | put | probe)),
            ("get", (8, 3 | get)),
            ("exit", (8, 5 | put)),
            ("exit again", (8, 5 | put)),
            ("wake-up too short", (12, 4 | put, 0, 0)),
            ("wake-up negative", (16, 4 | put, -1, 0)),
            ("wake-up no such fd", (16, 4 | put, 99999, 0)),
            ("wake-up", (16, 4 | put, event, 0)),
        ):
            self.ioctl(name, FEATURE, *words, keep=(0, 1))
        self.read("bar", 0, 4)
        self.ioctl("exit", FEATURE, 8, 5 | put)
        attempt(lambda: os.eventfd_read(event))

    def dma(self) -> None:
        event = self.events[1]
        self.set_command(6)
        memory = mmap.mmap(-1, 8192)
        memory[:4096] = bytes(range(256)) * 16
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        request = struct.pack("=4I3Q", 40, 7, self.ioas, 0, address, 8192, IOVA)
        self.show("map", self.kernel.ioctl(self.iommufd, IOAS_MAP, bytearray(request)))
        self.ioctl("attach", ATTACH, 16, 0, self.ioas, 0, keep=(0, 1))
        self.trigger("msi", MSI, event)
        self.transfer(IOVA, 0x40000, 1)
        self.transfer(0x40000, IOVA + 4096, 1 | 2 | 4)
        self.signalled("finished", event)
        self.register(ACKNOWLEDGE, FINISHED)
        self.show("copied", memory[4096:4160])
        self.transfer(0x40000, 0x900000, 1 | 2)
        self.ioctl("detach", DETACH, 8, 0)
        memory[4096:4160] = bytes(64)
        self.transfer(0x40000, IOVA + 4096, 1 | 2)
        self.show("not copied when detached", memory[4096:4160])

    def transfer(self, source: int, destination: int, command: int) -> None:
        """64 bytes by edu's DMA; waits until it is over."""
        for offset, value in ((0x80, source), (0x88, destination), (0x90, 64), (0x98, command)):
            self.register(offset, value, 8)
        self.wait_until(lambda: not self.kernel.read(self.device, 4, 0x98)[0] & 1)

    def close(self) -> None:
        self.kernel.close(self.iommufd)
        self.ioctl("info without the iommufd", INFO, 16, 0, 0, 0)
        self.ioctl("other file", BIND, 24, 0, self.other, 0, 0, 0, fd=self.second, keep=(0, 1))
        self.set_command(0x407)
        self.kernel.close(self.device)
        self.device = self.second
        self.ioctl("other file now", BIND, 24, 0, self.other, 0, 0, 0, keep=(0, 1))
        self.read("command", CONFIG + 4, 4)
        self.read("msi", CONFIG + 0x40, 4)
        self.kernel.close(self.device)
        self.kernel.close(self.other)
        for name, flags in (("read-only", os.O_RDONLY), ("write-only", os.O_WRONLY)):
            self.device = self.kernel.open(self.cdev, flags)
            self.read(f"{name} read", CONFIG, 1)
            self.write(f"{name} write", CONFIG, b"a")
            self.kernel.close(self.device)


if __name__ == "__main__":
    print("\n".join(Probe(Kernel(), (sys.argv[1:] or ["/dev/vfio/devices/vfio0"])[0]).run()))  # noqa: T201
