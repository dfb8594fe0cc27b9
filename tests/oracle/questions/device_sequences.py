"""Random sequences of calls on a device: configuration space, interrupts, resets, page tables, in each other's way.

As in `sequences`; IOAS_DEVICE_SEQUENCES says how many (default 8).
"""

from __future__ import annotations

import os
import random
import select
import struct

from questions.binding import bound
from questions.calls import (
    MEMORY,
    PAGE,
    U32_MAX,
    Files,
    call,
    count_of,
    memory,
    must,
    outcome,
    pause,
    poke,
    pread,
    pwrite,
    raw_ioctl,
    say,
    shown,
)
from questions.shapes import ATTACH, CONFIG, DESTROY, DETACH, FEATURE, HOT_RESET, IOAS_ALLOC, IOEVENTFD, RESET, SET_IRQS

_STEPS = int(os.environ.get("IOAS_STEPS") or 150)
_LIVENESS, _RAISE, _ACKNOWLEDGE = 0x04, 0x60, 0x64


class DeviceSequence:
    """One random sequence; `run` writes a line for each call."""

    def __init__(self, name: str, seed: int, files: Files) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.iommufd, self.fd, self.device = bound(files)
        self.eventfds = [files.eventfd() for _ in range(3)]
        self.inputs = [files.eventfd() for _ in range(2)]
        """Those that the kernel waits on; nobody counts them, for the kernel would be quicker than a host in user space."""
        self.watched: set[int] = set()
        self.ids = [must(self.iommufd, IOAS_ALLOC)["out_ioas_id"] for _ in range(2)]
        self.step = 0
        pwrite(self.fd, b"\x00\x00\x00\xe0", CONFIG + 0x10)
        pwrite(self.fd, b"\x06\x00", CONFIG + 4)
        self.bar(_ACKNOWLEDGE, U32_MAX)
        self.bar(_LIVENESS, 0)
        self.actions = (
            [self.config] * 4
            + [self.command] * 4
            + [self.message] * 2
            + [self.irqs] * 12
            + [self.wire] * 8
            + [self.read_config] * 3
            + [self.read_bar] * 2
            + [self.attach] * 3
            + [self.detach, self.detach, self.reset, self.hot_reset, self.destroy, self.ioeventfd]
            + [self.signal] * 2
            + [self.sleep]
        )

    def run(self) -> None:
        """Ask all of it, and after each step how often each eventfd was signalled."""
        for self.step in range(_STEPS):
            self.random.choice(self.actions)()
            counts = [count_of(event, 2) for event in self.eventfds]
            if any(counts):
                self.say("signalled", counts)

    def say(self, what: str, answer: object) -> None:
        """Write a line."""
        say(f"{self.name} {self.step} {what}", answer)

    def bar(self, offset: int, value: int) -> int:
        """Write a register of 4 bytes."""
        return pwrite(self.fd, struct.pack("<I", value), offset)

    def config(self) -> None:
        offset, length = self.random.randrange(0x4D), self.random.choice((1, 1, 2, 4, 8))
        length = min(length, 0x4E - offset)
        data = bytes(self.random.choice((0, 0xFF, 0x5A, self.random.randrange(256))) for _ in range(length))
        if offset < 6 < offset + length or offset <= 4 < offset + length:
            return
        self.say(f"write {data.hex()} to {offset:#x}", outcome(pwrite(self.fd, data, CONFIG + offset)))

    def command(self) -> None:
        value = self.random.choice((0, 2, 4, 6, 6, 6, 7, 0x402, 0x406, 0x506))
        self.say(f"command {value:#x}", outcome(pwrite(self.fd, struct.pack("<H", value), CONFIG + 4)))

    def message(self) -> None:
        value = self.random.choice((0, 0x80, 0x81, 0x81, 0x8F))
        self.say(f"message control {value:#x}", outcome(pwrite(self.fd, bytes([value]), CONFIG + 0x42)))

    def read_config(self) -> None:
        self.say("config", shown(pread(self.fd, 0x4E, CONFIG)))

    def read_bar(self) -> None:
        offset, length = self.random.choice((0, 4, 0x20, 0x24, 0x80)), self.random.choice((4, 4, 8))
        self.say(f"{length} bytes of BAR at {offset:#x}", shown(pread(self.fd, length, offset)))

    def irqs(self) -> None:
        index = self.random.choice((0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4))
        kind, action = self.random.choice((1, 2, 4, 4, 4)), self.random.choice((8, 16, 32, 32, 32))
        start, count = self.random.choice((0, 0, 0, 0, 0, 1)), self.random.choice((0, 1, 1, 1, 1, 2))
        if index == 0 and kind == 4 and action == 32:
            # An interrupt controller of QEMU's loses a level that is there before its input is set up.
            if self.bar(_ACKNOWLEDGE, U32_MAX) < 0:
                return
        if kind == 4:
            pool = self.inputs if action == 16 else self.eventfds
            chosen = [self.random.choice((0, 1, 2, 0, 1, 2, -1, 99)) for _ in range(count)]
            fds = [-1 if number < 0 else 999 if number == 99 else pool[number % len(pool)] for number in chosen]
            data = struct.pack(f"<{count}i", *fds)
        else:
            chosen = [self.random.choice((0, 1, 1)) for _ in range(count if kind == 2 else 0)]
            data = bytes(chosen)
        size = SET_IRQS.size + len(data)
        poke(MEMORY, SET_IRQS.pack(argsz=size, flags=kind | action, index=index, start=start, count=count) + data)
        result = raw_ioctl(self.fd, SET_IRQS.request, MEMORY)
        if result >= 0 and action == 16 and kind == 4:
            self.watched.update(number % 2 for number in chosen if 0 <= number < 3)
        self.say(f"irqs {index} kind {kind} action {action} from {start} {chosen or count}", outcome(result))

    def wire(self) -> None:
        raises = self.random.random() < 0.5
        result = self.bar(_RAISE if raises else _ACKNOWLEDGE, 1 if raises else U32_MAX)
        self.say("raise" if raises else "acknowledge", outcome(result))

    def signal(self) -> None:
        number = self.random.randrange(2)
        os.eventfd_write(self.inputs[number], 1)
        for _ in range(60 if number in self.watched else 0):
            if not select.select([self.inputs[number]], [], [], 0)[0]:
                pause(0.01)
                break
            pause(0.005)
        self.say(f"eventfd {number}", f"written; liveness {shown(pread(self.fd, 4, _LIVENESS))}")

    def ioeventfd(self) -> None:
        number, data = self.random.choice((-1, 0, 1)), self.random.choice((1, 2))
        event = -1 if number < 0 else self.inputs[number]
        answer = call(self.fd, IOEVENTFD, flags=4, offset=4, data=data, fd=event)
        if answer.result >= 0:
            self.watched.add(number)
        self.say(f"ioeventfd {number} {data}", outcome(answer.result))

    def attach(self) -> None:
        target = self.random.choice([*self.ids, 99])
        answer = call(self.fd, ATTACH, pt_id=target)
        self.say(f"attach {target}", f"{outcome(answer.result)} {answer['pt_id']}")

    def detach(self) -> None:
        self.say("detach", outcome(call(self.fd, DETACH).result))

    def destroy(self) -> None:
        target = self.random.randrange(8)
        self.say(f"destroy {target}", outcome(call(self.iommufd, DESTROY, id=target).result))

    def reset(self) -> None:
        self.say("reset", outcome(raw_ioctl(self.fd, RESET, 0)))

    def hot_reset(self) -> None:
        self.say("hot reset", outcome(call(self.fd, HOT_RESET).result))

    def sleep(self) -> None:
        number = self.random.choice((3, 5, 5))
        self.say(f"low power {number}", outcome(call(self.fd, FEATURE, flags=1 << 17 | number).result))


def all_at_once() -> None:
    """Everything."""
    first = int(os.environ.get("IOAS_FIRST_SEQUENCE") or 0)
    for seed in range(first, first + int(os.environ.get("IOAS_DEVICE_SEQUENCES") or 8)):
        with Files() as files, memory(PAGE):
            DeviceSequence(f"{seed}:", seed, files).run()


SECTIONS = (all_at_once,)
