"""The areas (VMAs) of a process's address space, as /proc/PID/maps shows them (proc_pid_maps(5)).

Whoever pins memory by user address has to know what stands there: private memory, or which file at which
offset, with which permissions and in pages of which size. Kernels from 6.11 answer that for one address by
an ioctl on the opened maps file (PROCMAP_QUERY, include/uapi/linux/fs.h), some thirty times faster than the
text can be read; `Maps` uses it where it is and reads the text elsewhere.

An opened maps file belongs to the address space that the process had when it was opened: after execve it shows
nothing, and `Maps` then raises ProcessLookupError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from typing import NamedTuple

_QUERY = 0xC0686611  # PROCMAP_QUERY: _IOWR('f', 17, struct procmap_query)
_QUERY_STRUCT = struct.Struct("9QIIIIQQ")
_ADDRESS, _ADDRESS_AT = struct.Struct("Q"), 16
_ANSWER, _ANSWER_AT = struct.Struct("6QIII"), 24
_ACCESS = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC  # PROCMAP_QUERY_VMA_READABLE and so on are the same bits
_SHARED = 8
_COVERING_OR_NEXT = 0x10
_NAME_ROOM = 4096
_NEVER_PINNED = (b"[vvar", b"[vsyscall]")
_BASE_PAGE = 4096


class Vma(NamedTuple):
    """One area: `start` to `end` (exclusive) with the same file, permissions and kind.

    `protection` is PROT_READ | PROT_WRITE | PROT_EXEC of mmap(2). `offset` is where `start` stands in the file,
    in bytes. `device` is the file's as st_dev gives it and `inode` its number, both 0 without a file;
    `path` is what the kernel prints, such as b"/memfd:ram (deleted)". `page_size` is the size of the pages that
    back it, in bytes: more than 4096 only for hugetlb memory, and only where the kernel tells (0: it did not).
    """

    start: int
    end: int
    protection: int
    shared: bool
    offset: int
    device: int
    inode: int
    path: bytes
    page_size: int = 0

    def file_offset(self, address: int) -> int:
        """Where `address` (within the area) stands in the file, in bytes."""
        return self.offset + address - self.start

    def forbids_pin(self) -> bool:
        """Whether this is memory of the kernel's own that no process may pin (VM_IO or VM_PFNMAP)."""
        return self.path.startswith(_NEVER_PINNED)


def parse(text: bytes) -> list[Vma]:
    """The areas in the text of a maps file, in order of address. Raises ValueError for what is none."""
    return [_line(line) for line in text.splitlines()]


def _line(line: bytes) -> Vma:
    fields = line.split(None, 5)
    start, _, end = fields[0].partition(b"-")
    flags = fields[1]
    major, _, minor = fields[3].partition(b":")
    protection = (
        (mmap.PROT_READ if flags[0:1] == b"r" else 0)
        | (mmap.PROT_WRITE if flags[1:2] == b"w" else 0)
        | (mmap.PROT_EXEC if flags[2:3] == b"x" else 0)
    )
    return Vma(
        start=int(start, 16),
        end=int(end, 16),
        protection=protection,
        shared=flags[3:4] == b"s",
        offset=int(fields[2], 16),
        device=os.makedev(int(major, 16), int(minor, 16)),
        inode=int(fields[4]),
        path=fields[5] if len(fields) > 5 else b"",
    )


class Maps:
    """The areas of one process, kept open for many questions. Close it, or use it as a context manager."""

    def __init__(self, pid: int | str = "self") -> None:
        """`pid` is a process or thread id, or "self". Raises OSError when its maps cannot be opened."""
        self._fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        self._name = ctypes.create_string_buffer(_NAME_ROOM)
        self._named = _template(_NAME_ROOM, ctypes.addressof(self._name))
        self._can_query = True

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def can_query(self) -> bool:
        """Whether the kernel answers for single addresses (6.11); else the text is read."""
        self.next(0)
        return self._can_query

    def at(self, address: int) -> Vma | None:
        """The area that contains `address`, or None. Raises ProcessLookupError when the address space is gone."""
        vma = self.next(address)
        return vma if vma is not None and vma.start <= address else None

    def next(self, address: int) -> Vma | None:
        """The area that contains `address` or else the first one above it; None at the end."""
        if self._can_query:
            try:
                return self._query(address)
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise
                self._can_query = False
        return next((vma for vma in self.all() if vma.end > address), None)

    def covering(self, start: int, end: int) -> list[Vma]:
        """The areas that have bytes in `start` to `end` (exclusive), in order; they may leave holes."""
        if not self._can_query:
            return [vma for vma in self.all() if vma.end > start and vma.start < end]
        found = []
        vma = self.next(start)
        while vma is not None and vma.start < end:
            found.append(vma)
            vma = self.next(vma.end) if vma.end < end else None
        return found

    def all(self) -> list[Vma]:
        """Every area, from the text."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._fd, 1 << 16):
            parts.append(part)
        if not parts:
            raise ProcessLookupError(errno.ESRCH, "the address space is gone")
        return parse(b"".join(parts))

    def unnamed(self, address: int) -> Vma | None:
        """As `at`, in less time: without `Vma.path`, where the kernel answers for single addresses."""
        if not self._can_query:
            return self.at(address)
        vma = self._query(address, _UNNAMED)
        return vma if vma is not None and vma.start <= address else None

    def _query(self, address: int, template: bytes = b"") -> Vma | None:
        """Ask the kernel for one area. Raises OSError(ENOTTY) before 6.11."""
        question = bytearray(template or self._named)
        _ADDRESS.pack_into(question, _ADDRESS_AT, address)
        try:
            fcntl.ioctl(self._fd, _QUERY, question)
        except FileNotFoundError:
            return None
        start, end, flags, page_size, offset, inode, major, minor, named = _ANSWER.unpack_from(question, _ANSWER_AT)
        path = self._name.value if named else b""
        device = os.makedev(major, minor) if inode else 0
        return Vma(start, end, flags & _ACCESS, flags & _SHARED != 0, offset, device, inode, path, page_size)


def _template(name_room: int, name_at: int) -> bytes:
    """The question, but for the address."""
    return _QUERY_STRUCT.pack(
        _QUERY_STRUCT.size, _COVERING_OR_NEXT, 0, 0, 0, 0, 0, 0, 0, 0, 0, name_room, 0, name_at, 0
    )


_UNNAMED = _template(0, 0)


def page_order(vma: Vma) -> int:
    """Log2 of how many 4 KiB pages are physically contiguous in `vma`: 0, or 9 and 18 for hugetlb memory."""
    return (vma.page_size // _BASE_PAGE).bit_length() - 1 if vma.page_size > _BASE_PAGE else 0
