"""Whether an iommufd means the pages that the kernel means: by /proc/self/pagemap and VmPin, on any host.

Memory of many kinds is mapped for DMA. For each page under an IOVA and each page at an address the test operation
MD_CHECK_MAP says whether they are the same; so do the kernel's frame numbers. MD_CHECK_REFS says how often a page is
pinned; so does counting its frame among those that are mapped. Prints a line for each step; the exit status is 0 when
all agree, 77 where frame numbers may not be read.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys

PAGE = 4096
IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP, TEST = 0x3B81, 0x3B85, 0x3B86, 0x3BA0
MOCK_DOMAIN, CHECK_MAP, CHECK_REFS = 2, 3, 4
BASE = 1 << 24
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE
ANONYMOUS = mmap.MAP_ANONYMOUS
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def say(line):
    os.write(1, f"{line}\n".encode())


def place(pages, flags, fd=-1, offset=0, at=None):
    """Map memory and touch it; its address."""
    fixed = 0x10 if at else 0
    address = libc.mmap(at, pages * PAGE, 3, flags | fixed, fd, offset)
    assert address not in (None, ctypes.c_void_p(-1).value), ctypes.get_errno()
    for page in range(pages):
        ctypes.memset(address + page * PAGE, page + 1, 1)
    return address


def frames(address, pages):
    """The kernel's frame numbers; 0 where there is no page."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = struct.unpack(f"={pages}Q", os.pread(pagemap.fileno(), 8 * pages, address // PAGE * 8))
    return [entry & (1 << 55) - 1 if entry >> 63 else 0 for entry in entries]


def pinned():
    """VmPin of this process, in pages."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 // PAGE for line in status if line.startswith("VmPin:"))


class Machine:
    """An IOAS with a mock device, and what is mapped: IOVA of a page to its frame when it was mapped."""

    def __init__(self):
        self.fd = os.open("/dev/iommu", os.O_RDWR)
        self.ioas = self._call(IOAS_ALLOC, "=3I", 0, 0)[2]
        made = self._call(TEST, "=4I56s", MOCK_DOMAIN, self.ioas, 0, b"")
        self.table = struct.unpack("=3I", made[4][:12])[1]
        self.mapped = {}
        self.next = BASE

    def _call(self, request, layout, *fields):
        buffer = bytearray(struct.pack(layout, struct.calcsize(layout), *fields))
        fcntl.ioctl(self.fd, request, buffer)
        return struct.unpack(layout, buffer)

    def map(self, address, pages, write=True):
        iova, self.next = self.next, self.next + (pages + 1) * PAGE
        self._call(IOAS_MAP, "=4I3Q", 7 if write else 5, self.ioas, 0, address, pages * PAGE, iova)
        self.mapped.update({iova + page * PAGE: frame for page, frame in enumerate(frames(address, pages))})
        return iova

    def unmap(self, iova, pages):
        self._call(IOAS_UNMAP, "=2I2Q", self.ioas, iova, pages * PAGE)
        for page in range(pages):
            del self.mapped[iova + page * PAGE]

    def same(self, iova, address):
        return self._asks(CHECK_MAP, self.table, struct.pack("=3Q", iova, PAGE, address), errno.EINVAL)

    def refs(self, address, count):
        return self._asks(CHECK_REFS, 0, struct.pack("=2QI", PAGE, address, count), errno.EIO)

    def _asks(self, op, number, operation, no):
        try:
            self._call(TEST, "=4I56s", op, number, 0, operation)
        except OSError as error:
            if error.errno != no:
                raise
            return False
        return True


def check(machine, name, addresses):
    """Hold everything that is mapped against every page at `addresses`."""
    for start, pages in addresses.items():
        for page, frame in enumerate(frames(start, pages)):
            address = start + page * PAGE
            count = 0
            for iova, then in machine.mapped.items():
                count += then == frame
                assert machine.same(iova, address) == (then == frame), (
                    f"{name}: IOVA {iova:#x}, page {page} of {start:#x}"
                )
            assert machine.refs(address, count), f"{name}: page {page} of {start:#x} is pinned {count} times"
            assert not machine.refs(address, count + 1), f"{name}: page {page} of {start:#x} is pinned more often"
    assert pinned() == len(machine.mapped), f"{name}: VmPin is {pinned()} pages, {len(machine.mapped)} are mapped"
    count = len(set(machine.mapped.values()))
    say(f"{name}: {len(machine.mapped)} pages mapped, {count} frames, VmPin {pinned()}")


def shared_memory(machine, seen):
    """Of no file, of a memfd through two mappings that overlap, of the same memory twice."""
    anonymous = place(3, SHARED | ANONYMOUS)
    fd = os.memfd_create("identity")
    os.truncate(fd, 4 * PAGE)
    first, second = place(4, SHARED, fd), place(3, SHARED, fd, PAGE)
    seen.update({anonymous: 3, first: 4, second: 3})
    for address, pages in ((anonymous, 3), (first, 4), (second, 3), (second, 2)):
        machine.map(address, pages)
    check(machine, "shared memory", seen)


def private_memory(machine, seen):
    """Of no file, of a file, of a file for reading only, and what is moved."""
    anonymous = place(3, PRIVATE | ANONYMOUS)
    fd = os.memfd_create("identity")
    os.truncate(fd, 2 * PAGE)
    copied = place(2, PRIVATE, fd)
    beneath = place(2, SHARED, fd)
    seen.update({anonymous: 3, copied: 2, beneath: 2})
    for address, pages in ((anonymous, 3), (copied, 2), (beneath, 2), (anonymous + PAGE, 2)):
        machine.map(address, pages)
    check(machine, "private memory", seen)


def other_memory_at_an_address(machine, seen):
    """What is mapped stays the page that it was."""
    address = place(2, SHARED | ANONYMOUS)
    machine.map(address, 2)
    libc.munmap(address, 2 * PAGE)
    place(2, SHARED | ANONYMOUS, at=address)
    seen[address] = 2
    check(machine, "other memory at an address", seen)


def moved_memory(machine, seen):
    """The page goes with the address that it moves to."""
    for flags in (SHARED, PRIVATE) if "moved-private" in sys.argv else (SHARED,):
        address, target = place(2, flags | ANONYMOUS), place(2, PRIVATE | ANONYMOUS)
        machine.map(address, 2)
        assert libc.mremap(address, 2 * PAGE, 2 * PAGE, 1 | 2, ctypes.c_void_p(target)) == target
        seen[target] = 2
    check(machine, "moved memory", seen)


def a_child(machine, seen):
    """A pinned page stays with the parent; shared memory is shared."""
    child = os.fork()
    if not child:
        try:
            for start, pages in seen.items():
                bytes(
                    ctypes.string_at(start, pages * PAGE)
                )  # shared memory comes into a child's tables when it is used
                for page, frame in enumerate(frames(start, pages)):
                    for iova, then in machine.mapped.items():
                        assert machine.same(iova, start + page * PAGE) == (then == frame), f"{iova:#x} {start:#x}"
            os._exit(0)
        except BaseException as error:
            say(f"in the child: {error!r}")
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    check(machine, "after a fork", seen)


def unmapping(machine, seen):
    """References and VmPin go down again."""
    for iova in [iova for iova in machine.mapped if iova - PAGE not in machine.mapped][::2]:
        pages = next(count for count in range(1, 1 << 20) if iova + count * PAGE not in machine.mapped)
        machine.unmap(iova, pages)
    check(machine, "half of it unmapped", seen)


def main():
    if not any(frames(place(1, PRIVATE | ANONYMOUS), 1)):
        say("frame numbers may not be read")
        sys.exit(77)
    machine, seen = Machine(), {}
    for part in (shared_memory, private_memory, other_memory_at_an_address, moved_memory, a_child, unmapping):
        part(machine, seen)


if __name__ == "__main__":
    main()
