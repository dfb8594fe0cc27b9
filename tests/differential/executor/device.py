"""What a script does with an edu: its registers, interrupts and transfers."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from executor import memory
from executor.system import ARGUMENT
from questions.calls import U32_MAX, outcome, pause, shown
from questions.shapes import CONFIG, IOEVENTFD, SET_IRQS

if TYPE_CHECKING:
    from executor.world import World

_LIVENESS, _FACTORIAL, _STATUS, _ACKNOWLEDGE = 0x04, 0x08, 0x20, 0x64
_SOURCE, _DESTINATION, _COUNT, _COMMAND = 0x80, 0x88, 0x90, 0x98
_BUFFER = 0x40000
_BAR = 0xE000_0000
_DATA_EVENTFD, _ACTION_UNMASK, _ACTION_TRIGGER = 4, 16, 32
_NO_FILE = 999
_OUTPUTS, _INPUTS = 3, 2
EVENTFDS = _OUTPUTS + _INPUTS
"""The first count what devices signal; the others are written by the script."""
_SETTLING_SECONDS = 0.004
"""How long an interrupt may take from the device to the eventfd."""


def place(world: World, who: int, fd: int) -> None:
    """Move the BAR from where this machine's firmware has put it to where all machines have it."""
    world.do(who, "pwrite", fd, _BAR.to_bytes(4, "little"), CONFIG + 0x10)


def register(world: World, who: int, fd: int, offset: int, value: int, size: str = "I") -> int:
    """Write a register."""
    result: int = world.do(who, "pwrite", fd, struct.pack(f"<{size}", value), offset)
    return result


def _settle(world: World, who: int, target: Sequence[Any]) -> str:
    """Registers of a known state, bus mastering on."""
    fd = world.fd(who, target)
    results = [
        world.do(who, "pwrite", fd, b"\x06\x00", CONFIG + 4),
        register(world, who, fd, _ACKNOWLEDGE, U32_MAX),
        register(world, who, fd, _LIVENESS, 0),
        register(world, who, fd, _STATUS, 0),
        register(world, who, fd, _FACTORIAL, 1),
    ]
    wait(world, who, fd, _STATUS)
    results += [register(world, who, fd, at, 0, "Q") for at in (_SOURCE, _DESTINATION, _COUNT, _COMMAND)]
    return " ".join(map(outcome, results))


def wait(world: World, who: int, fd: int, offset: int) -> bool:
    """Wait until the lowest bit of a register is 0; whether it became that."""
    for _ in range(400):
        state = world.do(who, "pread", fd, 4, offset)
        if not isinstance(state, bytes) or not state[0] & 1:
            return True
        pause(0.005)
    return False


def _signalled(world: World) -> str:
    """What the eventfds count that devices signal; they are 0 afterwards."""
    events = world.eventfds[:_OUTPUTS]
    if not select.select(events, [], [], _SETTLING_SECONDS)[0]:
        return ""
    counts = [os.eventfd_read(fd) if select.select([fd], [], [], 0)[0] else 0 for fd in events]
    return f" signalled {counts}"


def _read(world: World, who: int, target: Sequence[Any], length: int, offset: int) -> str:
    return shown(world.do(who, "pread", world.fd(who, target), length, offset))


def _write(world: World, who: int, target: Sequence[Any], data: str, offset: int) -> str:
    result = world.do(who, "pwrite", world.fd(who, target), bytes.fromhex(data), offset)
    return outcome(result) + _signalled(world)


def _irqs(world: World, who: int, target: Sequence[Any], fields: Mapping[str, int], data: Sequence[int]) -> str:
    """VFIO_DEVICE_SET_IRQS; `data` are bytes, or eventfds by number (-1: none, 99: no such file)."""
    fd, kind, action = world.fd(who, target), fields["flags"] & 7, fields["flags"] & 0x38
    wired = fields["index"] == 0 and kind == _DATA_EVENTFD and action == _ACTION_TRIGGER
    # An interrupt controller of QEMU's loses a level that is there before its input is set up.
    if wired and register(world, who, fd, _ACKNOWLEDGE, U32_MAX) < 0:
        return "no access to registers"
    if kind != _DATA_EVENTFD:
        tail = bytes(data)
    else:
        first, count = (_OUTPUTS, _INPUTS) if action == _ACTION_UNMASK else (0, _OUTPUTS)
        fds = [n if n < 0 else _NO_FILE if n == 99 else world.eventfds[first + n % count] for n in data]
        tail = struct.pack(f"<{len(fds)}i", *fds)
    world.do(who, "store", ARGUMENT, SET_IRQS.pack(argsz=SET_IRQS.size + len(tail), **fields) + tail)
    result = world.do(who, "ioctl", fd, SET_IRQS.request, ARGUMENT)
    if result >= 0 and kind == _DATA_EVENTFD and action == _ACTION_UNMASK:
        world.watched.update(n % _INPUTS for n in data if 0 <= n < 99)
    return outcome(result) + _signalled(world)


def _ioeventfd(world: World, who: int, target: Sequence[Any], fields: Mapping[str, int], index: int) -> str:
    """VFIO_DEVICE_IOEVENTFD, for one of the eventfds that devices wait for (-1: none, 99: no such file)."""
    fd = index if index < 0 else _NO_FILE if index == 99 else world.eventfds[_OUTPUTS + index]
    world.do(who, "store", ARGUMENT, IOEVENTFD.pack(**fields, fd=fd))
    result = world.do(who, "ioctl", world.fd(who, target), IOEVENTFD.request, ARGUMENT)
    if result >= 0:
        world.watched.add(index)
    return outcome(result)


def _signal(world: World, who: int, index: int) -> str:
    """Write to an eventfd that devices wait for, and wait until it has been taken where one does."""
    fd = world.eventfds[_OUTPUTS + index]
    os.eventfd_write(fd, 1)
    for _ in range(60 if index in world.watched else 0):
        if not select.select([fd], [], [], 0)[0]:
            pause(0.01)
            break
        pause(0.005)
    return "written" + _signalled(world)


def _dma(world: World, who: int, target: Sequence[Any], iova: int, length: int) -> str:
    """Write the device's buffer, which is all zeros, to IOVA; memory afterwards."""
    fd = world.fd(who, target)
    for offset, value in ((_SOURCE, _BUFFER), (_DESTINATION, iova), (_COUNT, length), (_COMMAND, 3)):
        if (result := register(world, who, fd, offset, value, "Q")) < 0:
            return outcome(result)
    return f"done {memory.look(world, who)}" if wait(world, who, fd, _COMMAND) else "still busy"


VERBS = {
    "settle": _settle,
    "read": _read,
    "write": _write,
    "irqs": _irqs,
    "ioeventfd": _ioeventfd,
    "signal": _signal,
    "dma": _dma,
}
