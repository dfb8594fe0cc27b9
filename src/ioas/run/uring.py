"""An io_uring of our own, used for one thing: its registered buffers are pages that the kernel has pinned for us.

io_uring_register(2) pins pages of *whoever calls it* (FOLL_LONGTERM, io_uring/rsrc.c) and the ring keeps them, whatever
becomes of the address, the process, and its children. So the ring is ours, a thread of the program is made to register
its memory with it (`ioas.run.visit`), and the bytes are moved by READ_FIXED and WRITE_FIXED, which name the buffer
by its slot and reach the pages without looking at any address space. They go through a pipe, because a pipe is read
and written at once, where regular files are handed to a worker thread.

The kernel counts the pages against the user's RLIMIT_MEMLOCK, unless we have CAP_IPC_LOCK, and shows them in VmPin
of whoever made the ring: in ours, not in the program's.

Numbers and structures are those of include/uapi/linux/io_uring.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
import threading
from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer

LARGEST = 1 << 30
"""Bytes in a buffer at most (io_buffer_validate)."""
SLOTS = 1 << 14
"""Buffers of a ring at most (IORING_MAX_REG_BUFFERS)."""
NR_REGISTER = 427

REGISTER_RING_FDS = 20
USE_REGISTERED_RING = 1 << 31
REGISTER_BUFFERS_UPDATE = 16
UPDATE = struct.Struct("=IIQQII")
"""struct io_uring_rsrc_update2: first slot, reserved, address of iovecs, tags, how many, reserved."""
IOVEC = struct.Struct("=QQ")
RING_UPDATE = struct.Struct("=IIQ")
"""struct io_uring_rsrc_update for REGISTER_RING_FDS: index (or ANY_INDEX), reserved, descriptor."""
ANY_INDEX = 0xFFFFFFFF

_NR_SETUP, _NR_ENTER = 425, 426
_REGISTER_BUFFERS2 = 15
_SPARSE = 1
_REGISTER = struct.Struct("=IIQQQ")
_ENTER_GETEVENTS = 1
_READ_FIXED, _WRITE_FIXED = 4, 5
_NO_OFFSET = (1 << 64) - 1
_ENTRIES = 1
"""One transfer at a time: the only entry is number 0, which the index array says from the start."""
_PARAMS_SIZE, _SQ_OFFSETS, _CQ_OFFSETS = 120, 40, 80
_OFFSETS = struct.Struct("=8I")
_OFF_SQES = 0x10000000
_SQE = struct.Struct("=BBHiQQIIQHHi2Q")
_CQE = struct.Struct("=QiI")
_WORD = struct.Struct("=I")

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, *[ctypes.c_long] * 6)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def _call(number: int, *arguments: int) -> int:
    result: int = _syscall(number, *arguments, *[0] * (6 - len(arguments)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


class _Mapping:
    """Shared memory of a ring. (Python's own mmap would keep the descriptor open once more.)"""

    def __init__(self, fd: int, length: int, offset: int) -> None:
        address = _mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, offset)
        if address in (None, ctypes.c_void_p(-1).value):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._address, self._length = int(address), length
        self.bytes = memoryview((ctypes.c_char * length).from_address(address)).cast("B")

    def close(self) -> None:
        self.bytes.release()
        _libc.munmap(self._address, self._length)


class Ring:
    """A ring with a table of buffers, all of them empty at first. Safe to use from any thread."""

    def __init__(self) -> None:
        """Raises OSError: EPERM, ENOSYS where io_uring is switched off; EINVAL where it is too old (5.19)."""
        params = ctypes.create_string_buffer(_PARAMS_SIZE)
        self.fd = _call(_NR_SETUP, _ENTRIES, ctypes.addressof(params))
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self.fd)
            os.set_inheritable(self.fd, False)
            table = ctypes.create_string_buffer(_REGISTER.pack(SLOTS, _SPARSE, 0, 0, 0))
            _call(NR_REGISTER, self.fd, _REGISTER_BUFFERS2, ctypes.addressof(table), _REGISTER.size)
            sq, cq = _OFFSETS.unpack_from(params, _SQ_OFFSETS), _OFFSETS.unpack_from(params, _CQ_OFFSETS)
            entries, completions = struct.unpack_from("=II", params)
            room = max(sq[6] + 4 * entries, cq[5] + _CQE.size * completions)
            self._rings = _Mapping(self.fd, room, 0)
            undo.callback(self._rings.close)
            self._entry = _Mapping(self.fd, _SQE.size * entries, _OFF_SQES)
            undo.callback(self._entry.close)
            self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.pop_all()
        self._sq_tail, self._cq_head, self._cq_tail = sq[1], cq[0], cq[1]
        self._cqes, self._cq_mask = cq[5], completions - 1
        self._chunk = fcntl.fcntl(self._reader, fcntl.F_GETPIPE_SZ)
        self._lock = threading.Lock()
        self._free = list(range(SLOTS - 1, -1, -1))
        self._taken = 0

    def __len__(self) -> int:
        return self._taken

    def take(self) -> int | None:
        """A slot for a new buffer; None when all are in use."""
        with self._lock:
            self._taken += bool(self._free)
            return self._free.pop() if self._free else None

    def give_back(self, slot: int, *, filled: bool = True) -> None:
        """Unpin what is registered there (unless nothing is: not `filled`) and have the slot used again."""
        if filled and self.fd >= 0:
            nothing = ctypes.create_string_buffer(IOVEC.pack(0, 0))
            update = ctypes.create_string_buffer(UPDATE.pack(slot, 0, ctypes.addressof(nothing), 0, 1, 0))
            _call(NR_REGISTER, self.fd, REGISTER_BUFFERS_UPDATE, ctypes.addressof(update), UPDATE.size)
        with self._lock:
            self._free.append(slot)
            self._taken -= 1

    def read(self, slot: int, address: int, length: int) -> bytes:
        """Bytes of a buffer; `address` is where they were when it was registered. Raises KernelError(EFAULT)."""
        with self._lock:
            return self._read(slot, address, length)

    def write(self, slot: int, address: int, data: Buffer) -> None:
        """Write to a buffer; raises as `read`."""
        with self._lock:
            self._write(slot, address, memoryview(data).cast("B"))

    def same_page(self, slot: int, other: int, address: int) -> bool:
        """Whether two buffers that were registered with `address` have the same page there.

        One byte of it is changed for a moment to find out, so nobody else may look: no device does meanwhile. Raises
        as `read`.
        """
        with self._lock:
            former = self._read(slot, address, PAGE_SIZE)
            if self._read(other, address, PAGE_SIZE) != former:
                return False
            self._write(slot, address, memoryview(bytes([former[0] ^ 0xFF])))
            same = self._read(other, address, 1) != former[:1]
            self._write(slot, address, memoryview(former[:1]))
            return same

    def close(self) -> None:
        """Let go of every page. Idempotent; transfers get EFAULT from then on."""
        with self._lock:
            if self.fd < 0:
                return
            self._rings.close()
            self._entry.close()
            for fd in (self.fd, self._reader, self._writer):
                os.close(fd)
            self.fd = -1

    def _read(self, slot: int, address: int, length: int) -> bytes:
        self._check_open(address)
        parts = []
        while length > 0:
            count = self._move(_WRITE_FIXED, self._writer, slot, address, min(length, self._chunk))
            parts.append(os.read(self._reader, count))
            address += count
            length -= count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _write(self, slot: int, address: int, view: memoryview) -> None:
        self._check_open(address)
        while len(view):
            left = os.write(self._writer, view[: self._chunk])
            view = view[left:]
            while left:
                count = self._move(_READ_FIXED, self._reader, slot, address, left)
                address += count
                left -= count

    def _check_open(self, address: int) -> None:
        if self.fd < 0:
            raise refuse(EFAULT, "nobody has memory pinned any more", "address", address)

    def _move(self, operation: int, fd: int, slot: int, address: int, length: int) -> int:
        """Have one transfer between a buffer and the pipe done; how many bytes it moved, at least one."""
        _SQE.pack_into(self._entry.bytes, 0, operation, 0, 0, fd, _NO_OFFSET, address, length, 0, 0, slot, 0, 0, 0, 0)
        result = self._complete()
        if result <= 0:
            self._drain()
            raise refuse(EFAULT, f"pinned memory cannot be reached: {os.strerror(-result)}", "address", address)
        return result

    def _complete(self) -> int:
        """Submit the entry and wait for its completion; its result."""
        (tail,) = _WORD.unpack_from(self._rings.bytes, self._sq_tail)
        _WORD.pack_into(self._rings.bytes, self._sq_tail, tail + 1 & 0xFFFFFFFF)
        (head,) = _WORD.unpack_from(self._rings.bytes, self._cq_head)
        submit = 1
        while _WORD.unpack_from(self._rings.bytes, self._cq_tail)[0] == head:
            with contextlib.suppress(InterruptedError):
                _call(_NR_ENTER, self.fd, submit, 1, _ENTER_GETEVENTS)
            submit = 0
        _WORD.pack_into(self._rings.bytes, self._cq_head, head + 1 & 0xFFFFFFFF)
        result: int = _CQE.unpack_from(self._rings.bytes, self._cqes + _CQE.size * (head & self._cq_mask))[1]
        return result

    def _drain(self) -> None:
        """Empty the pipe after a transfer that failed half-way."""
        while True:
            try:
                os.read(self._reader, self._chunk)
            except BlockingIOError:
                return
