"""Starts flocks of processes that use the machine in every way at once, kills each at a random moment, and looks at
what the supervisor, its parent, holds afterwards: the same as before.

    shepherd.py SEED KILLS

A flock is a process, its threads and its children, in a process group of their own. Each of them maps memory of each
kind, has the device copy, takes loads and stores on its BAR, and duplicates and closes descriptors.
"""

import contextlib
import ctypes
import errno
import os
import random
import re
import signal
import sys
import threading
import time
import warnings

from container import give, map_dma, open_container, open_group, unmap_dma
from edu import (
    BUFFER,
    COMMAND,
    CONFIG,
    COUNT,
    DESTINATION,
    IOVA,
    SOURCE,
    Machine,
    address_of,
    call,
    mmap,
    private,
    shared,
)

SET_IRQS = 0x3B6E
KIB, MIB = 1 << 10, 1 << 20
IDENTIFICATION = 0x10000ED
SUPERVISOR = os.getppid()
SETTLE_SECONDS = 20
OURS = (f"/{os.getpid()}/", "zero")
"""In links: what the supervisor may keep open for this very process."""
KINDS = ("map", "store", "fork", "container")
"""What is in flight most of the time: one of these for each kill in turn."""


class ByContainer(Machine):
    """The same through the device's group and a container of type 1."""

    def __init__(self):
        with contextlib.ExitStack() as undo:
            self.group = open_group()
            undo.callback(os.close, self.group)
            self.iommufd = open_container(self.group)
            undo.callback(os.close, self.iommufd)
            self.device = give(self.group)
            undo.callback(os.close, self.device)
            os.pwrite(self.device, b"\x07\x01", CONFIG + 4)
            self._ends = undo.pop_all()

    def close(self):
        self._ends.close()

    def map(self, address, length, iova=IOVA, access=3):
        map_dma(self.iommufd, address, length, iova)

    def map_file(self, fd, start, length, iova=IOVA):
        self.window = mmap.mmap(fd, length, offset=start)
        self.map(address_of(self.window), length, iova)

    def unmap(self, length, iova=IOVA):
        unmap_dma(self.iommufd, length, iova)


def enable_interrupt(machine):
    eventfd = os.eventfd(0)
    call(machine.device, SET_IRQS, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
    return eventfd


def map_bar(machine):
    bar = mmap.mmap(machine.device, 4096)
    return bar, ctypes.c_uint32.from_buffer(bar), ctypes.c_uint32.from_buffer(bar, 4)


def touch(registers, times):
    """Loads and stores; the device may lose its memory decoding when another flock has it."""
    _, identification, liveness = registers
    for turn in range(times):
        liveness.value = turn
        if identification.value != IDENTIFICATION:
            os._exit(3)


def map_and_copy(machine, fd, buffers):
    ranges = [(0x1000000 + index * 0x100000, buffer) for index, buffer in enumerate(buffers)]
    for iova, buffer in ranges:
        machine.map(address_of(buffer), 64 * KIB, iova=iova)
    machine.map_file(fd, 0, MIB, iova=0x2000000)
    for register, value in ((SOURCE, 0x1000000), (DESTINATION, BUFFER), (COUNT, 4096), (COMMAND, 1)):
        machine.register(register, value)
    os.close(os.dup(machine.iommufd))
    os.close(os.open("/sys/bus/pci/devices/0000:01:00.0/config", os.O_RDONLY))
    for iova, _ in ranges:
        machine.unmap(64 * KIB, iova=iova)
    machine.unmap(MIB, iova=0x2000000)


def use(machine, kind):
    """One life of a machine: threads on the BAR, children that have everything open, and calls of our own."""
    eventfd = enable_interrupt(machine)
    fd = os.memfd_create("victim")
    os.truncate(fd, MIB)
    buffers = [shared(64 * KIB), private(64 * KIB)]
    registers = map_bar(machine)
    stores = [threading.Thread(target=touch, args=(registers, 20)) for _ in range(3 if kind == "store" else 1)]
    for thread in stores:
        thread.start()
    for turn in range(20):
        map_and_copy(machine, fd, buffers)
        touch(registers, 20 if kind == "store" else 1)
        if kind == "fork" or turn == 10:
            be_forked(machine, registers)
    for thread in stores:
        thread.join()
    os.close(fd)
    os.close(eventfd)


def be_forked(machine, registers):
    """A child that goes on with what its parent has open, and with memory of its own."""
    if os.fork():
        return
    memory = private(64 * KIB)
    machine.map(address_of(memory), 64 * KIB, iova=0x4000000 + os.getpid() % 1000 * 64 * KIB)
    touch(registers, 5)
    os._exit(0)


def work(kind):
    """Use the machine for ever, whenever nobody else has the device."""
    while True:
        try:
            machine = ByContainer() if kind == "container" else Machine()
        except OSError as error:
            if error.errno == errno.ENOSYS:
                os._exit(1)  # the supervisor is gone
            continue
        try:
            use(machine, kind)
        finally:
            machine.close()
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) if children(os.getpid()) else None:
            pass


def flock(kind):
    """Be a flock, until it is killed."""
    os.setpgid(0, 0)
    threading.excepthook = lambda args: os._exit(2)
    for _ in range(random.choice((0, 0, 2))):
        threading.Thread(target=work, args=(kind,)).start()
    work(kind)


def kill_one(kind):
    """Start a flock, and kill its first process, or all of it, at a random moment."""
    child = os.fork()
    if child == 0:
        flock(kind)
    time.sleep(random.choice((0, 0.002, 0.02, 0.05, 0.2)) * random.random())
    if random.random() < 0.5:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    else:
        status = None
    for _ in range(2):  # a child that was just being made does not get the first one
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(child, signal.SIGKILL) if status is None else None
    if status is None:
        status = os.waitpid(child, 0)[1]
    if status != signal.SIGKILL:
        sys.exit(f"a flock ended with {status}, not by being killed")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def held():
    """What the supervisor has: kinds of descriptors, threads, children."""
    links = []
    for name in os.listdir(f"/proc/{SUPERVISOR}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{SUPERVISOR}/fd/{name}"))
    kept = [re.sub("[0-9]+", "", link) for link in links if not any(part in link for part in OURS)]
    return sorted(kept), len(os.listdir(f"/proc/{SUPERVISOR}/task")), len(os.listdir("/dev/vfio/devices"))


def wait_for(condition):
    """What the supervisor holds, as soon as `condition` is true of it, or when it has had its time."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while not condition(now := held()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


def check_it_works():
    """A new machine moves bytes."""
    machine = Machine()
    memory = shared()
    memory[:4] = b"fine"
    machine.map(address_of(memory), 4096)
    if machine.read(4) != b"fine":
        sys.exit("the device reads something else")
    machine.close()


def use_everything_once():
    """So that what the supervisor keeps for good is there before anything is counted."""
    child = os.fork()
    if child == 0:
        for kind in ("map", "container"):
            machine = ByContainer() if kind == "container" else Machine()
            use(machine, kind)
            machine.close()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("the machine does not work")
    check_it_works()
    os.listdir("/sys/bus/pci")


def main():
    seed, kills = int(sys.argv[1]), int(sys.argv[2])
    random.seed(seed)
    warnings.simplefilter("ignore")  # of a fork with threads, which is meant
    use_everything_once()
    before = wait_for(lambda now: "memfd" not in str(now))  # the last file is kept for a moment
    for number in range(kills):
        kill_one(KINDS[number % len(KINDS)])
        if number % 20 == 0:
            check_it_works()
    after = wait_for(lambda now: now == before)
    if after != before:
        sys.exit(f"before {before}, after {after}")


if __name__ == "__main__":
    main()
