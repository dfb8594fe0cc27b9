"""What a virtual machine monitor does: a first stage of the program's own under the edu device, edited and invalidated.

Prints a line for each thing that the device's DMA has seen.
"""

import os
import select
import struct

from edu import (
    BUFFER,
    COMMAND,
    CONFIG,
    COUNT,
    DESTINATION,
    FIXED,
    IOAS_ALLOC,
    IOAS_MAP,
    READABLE,
    SOURCE,
    WRITEABLE,
    Machine,
    address_of,
    call,
    shared,
)

BIND, ATTACH = 0x3B76, 0x3B77
HWPT_ALLOC, HWPT_INVALIDATE, FAULT_QUEUE_ALLOC = 0x3B89, 0x3B8D, 0x3B8E
NEST_PARENT, FAULT_ID_VALID, VTD_S1 = 1, 4, 1
SUCCESS, INVALID = 0, 1
PAGE = 4096
GUEST = 0x4000_0000
"""Where the memory stands in the second stage."""
ROOT, UPPER, MIDDLE, LEAVES, WINDOW, DATA = range(6)
"""Pages of the memory: tables of four levels, what the device copies to, and data from here on."""
GIOVA = 0x20_0000
"""The first address that `LEAVES` translates."""
P, RW, US, A, D = 1, 2, 4, 32, 64


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Guest(Machine):
    """The device on a nested table whose page requests go to a queue."""

    def __init__(self):
        self.device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR | os.O_CLOEXEC)
        self.iommufd = os.open("/dev/iommu", os.O_RDWR | os.O_CLOEXEC)
        self.ioas = call(self.iommufd, IOAS_ALLOC, "=3I", 0, 0)[2]
        number = call(self.device, BIND, "=2Ii1I", 0, self.iommufd, 0)[3]
        self.memory = shared(64 * PAGE)
        place = address_of(self.memory)
        call(self.iommufd, IOAS_MAP, "=4I3Q", FIXED | READABLE | WRITEABLE, self.ioas, 0, place, 64 * PAGE, GUEST)
        parent = self.table(number, self.ioas, NEST_PARENT)
        queue = call(self.iommufd, FAULT_QUEUE_ALLOC, "=4I", 0, 0, 0)
        self.faults = queue[3]
        for level, below in ((ROOT, UPPER), (UPPER, MIDDLE)):
            self.set(level, 0, below)
        self.set(MIDDLE, GIOVA >> 21, LEAVES)
        self.scratch = shared(PAGE)
        self.scratch[:24] = struct.pack("=2Q2I", 0, GUEST + ROOT * PAGE, 48, 0)
        self.nested = self.table(number, parent, FAULT_ID_VALID, VTD_S1, 24, address_of(self.scratch), queue[2])
        call(self.device, ATTACH, "=3I", 0, self.nested)
        (command,) = struct.unpack("<H", os.pread(self.device, 2, CONFIG + 4))
        os.pwrite(self.device, struct.pack("<H", command | 6), CONFIG + 4)
        self.set(LEAVES, WINDOW, WINDOW)

    def table(self, device, pt, flags, kind=0, length=0, data=0, faults=0):
        return call(self.iommufd, HWPT_ALLOC, "=8IQ2I", flags, device, pt, 0, 0, kind, length, data, faults, 0)[4]

    def set(self, table, index, page, bits=P | RW | US):
        struct.pack_into("<Q", self.memory, table * PAGE + 8 * index, bits and GUEST + page * PAGE | bits)

    def bits(self, index):
        return struct.unpack_from("<Q", self.memory, LEAVES * PAGE + 8 * index)[0] & (A | D)

    def invalidate(self, index, pages=1):
        self.scratch[:24] = struct.pack("=2Q2I", GIOVA + index * PAGE, pages, 0, 0)
        place = address_of(self.scratch)
        return call(self.iommufd, HWPT_INVALIDATE, "=2IQ4I", self.nested, place, 0, 24, 1, 0)[5]

    def start(self, source, destination, count, to_memory):
        for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, count)):
            self.register(register, value)
        self.register(COMMAND, 1 | to_memory << 1)

    def busy(self):
        return self.register(COMMAND) & 1

    def sees(self, index, count=4):
        """What the device reads at a page of the first stage."""
        self.copy(GIOVA + index * PAGE, BUFFER, count, to_memory=False)
        return self.buffer(count)

    def buffer(self, count=4):
        """What stands in the device's buffer."""
        self.copy(BUFFER, GIOVA + WINDOW * PAGE, count, to_memory=True)
        return bytes(self.memory[WINDOW * PAGE : WINDOW * PAGE + count]).decode()

    def fault(self):
        """The next page request: its address, whether it is for writing, and the cookie."""
        assert select.select([self.faults], [], [], 30)[0]
        _, _, _, _, perm, _, address, _, cookie = struct.unpack("=6IQ2I", os.read(self.faults, 40))
        return address, perm, cookie

    def answer(self, cookie, code):
        os.write(self.faults, struct.pack("=2I", cookie, code))
        while self.busy():
            pass


def main():
    guest = Guest()
    for page, text in enumerate((b"old ", b"new ", b"late", b"kept"), DATA):
        guest.memory[page * PAGE : page * PAGE + 4] = text
    guest.set(LEAVES, 0, DATA)
    say("mapped:", guest.sees(0))
    guest.set(LEAVES, 0, DATA + 1)
    say("edited:", guest.sees(0))
    guest.invalidate(1)
    say("another page invalidated:", guest.sees(0))
    say("invalidated:", guest.invalidate(0), guest.sees(0))
    guest.start(GIOVA + PAGE, BUFFER, 4, False)
    address, perm, cookie = guest.fault()
    say(f"asks for {address - GIOVA:#x}, permission {perm}, waits: {guest.busy()}")
    guest.set(LEAVES, 1, DATA + 2)
    guest.answer(cookie, SUCCESS)
    say("answered:", guest.buffer())
    guest.start(BUFFER, GIOVA + 2 * PAGE, 4, True)
    address, perm, cookie = guest.fault()
    say(f"asks for {address - GIOVA:#x}, permission {perm}, waits: {guest.busy()}")
    guest.answer(cookie, INVALID)
    say("refused:", bytes(guest.memory[(DATA + 3) * PAGE : (DATA + 3) * PAGE + 4]).decode())
    guest.set(LEAVES, 2, DATA + 3)
    guest.copy(BUFFER, GIOVA + 2 * PAGE, 4, to_memory=True)
    say("written:", bytes(guest.memory[(DATA + 3) * PAGE : (DATA + 3) * PAGE + 4]).decode())
    say("accessed and dirty:", guest.bits(1) == A, guest.bits(2) == A | D)


if __name__ == "__main__":
    main()
