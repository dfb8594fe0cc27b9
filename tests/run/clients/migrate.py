"""A device taken from one machine to another in the middle of its DMA: ``migrate.py leave`` and ``migrate.py arrive``.

`leave` writes the device's state to standard output, behind the memory that belongs to it; `arrive` reads both from
standard input, and lets the device finish what it began elsewhere.
"""

import fcntl
import mmap
import os
import select
import struct
import sys

from edu import BUFFER, COMMAND, COUNT, DESTINATION, IOVA, SOURCE, Machine, address_of, shared

FEATURE, SET_IRQS, GET_PRECOPY_INFO = 0x3B75, 0x3B6E, 0x3B79
SET, MIG_DEVICE_STATE = 1 << 17, 2
STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = 1, 2, 3, 4, 6
START, TO_MEMORY, INTERRUPT = 1, 2, 4
RAISE, STATUS = 0x60, 0x24
PATIENCE = 10_000
DATA = b"under way"


def main():
    machine = Machine()
    memory = shared()
    machine.map(address_of(memory), mmap.PAGESIZE)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    fcntl.ioctl(machine.device, SET_IRQS, bytearray(struct.pack("=5Ii", 24, 4 | 32, 1, 0, 1, event)))
    {"leave": leave, "arrive": arrive}[sys.argv[1]](machine, memory, event)


def leave(machine, memory, event):
    memory[: len(DATA)] = DATA
    machine.copy(IOVA, BUFFER, len(DATA), to_memory=False)
    memory[: len(DATA)] = bytes(len(DATA))
    machine.register(RAISE, 0x10)
    os.eventfd_read(event)
    for register, value in ((SOURCE, BUFFER), (DESTINATION, IOVA + 100), (COUNT, len(DATA))):
        machine.register(register, value)
    machine.register(COMMAND, START | TO_MEMORY | INTERRUPT)
    stream = change(machine, PRE_COPY)
    first = left(stream)
    state = os.read(stream, first)
    change(machine, STOP_COPY)
    while piece := os.read(stream, 4096):
        state += piece
    assert len(state) > first, "nothing came after the first state"
    assert not select.select([event], [], [], 0.3)[0], "the device interrupted after it was stopped"
    assert not any(memory[:]), "the device moved data after it was stopped"
    os.write(1, memory[:] + state)


def arrive(machine, memory, event):
    with os.fdopen(0, "rb") as source:
        memory[:] = source.read(mmap.PAGESIZE)
        state = source.read()
    stream = change(machine, RESUMING)
    while state:
        state = state[os.write(stream, state[:100]) :]
    change(machine, STOP)
    os.close(stream)
    change(machine, RUNNING)
    poll = select.poll()
    poll.register(event, select.POLLIN)
    assert poll.poll(PATIENCE), "no interrupt came"
    landed = memory[100 : 100 + len(DATA)].decode()
    sys.stdout.write(f"{landed} {machine.register(STATUS):#x} {machine.register(COMMAND) & START}\n")


def left(stream):
    info = bytearray(struct.pack("=2I2Q", 24, 0, 0, 0))
    fcntl.ioctl(stream, GET_PRECOPY_INFO, info)
    return struct.unpack("=2I2Q", info)[2]


def change(machine, state):
    request = bytearray(struct.pack("=2IIi", 16, SET | MIG_DEVICE_STATE, state, -1))
    fcntl.ioctl(machine.device, FEATURE, request)
    return struct.unpack("=2IIi", request)[3]


if __name__ == "__main__":
    main()
