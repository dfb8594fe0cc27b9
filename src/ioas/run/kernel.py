"""The system calls that Python does not wrap, and their numbers (Linux, x86-64).

Everything goes through the C library's `syscall` or its own wrappers by ctypes. Errors become OSError with the
kernel's errno. Nothing here knows what it is used for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple


class Nr(IntEnum):
    """System call numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl)."""

    READ = 0
    WRITE = 1
    OPEN = 2
    STAT = 4
    FSTAT = 5
    LSTAT = 6
    LSEEK = 8
    MMAP = 9
    IOCTL = 16
    PREAD64 = 17
    PWRITE64 = 18
    READV = 19
    WRITEV = 20
    ACCESS = 21
    DUP = 32
    DUP2 = 33
    EXECVE = 59
    FCNTL = 72
    CREAT = 85
    READLINK = 89
    SETUID = 105
    SETREUID = 113
    SETRESUID = 117
    SETFSUID = 122
    CAPSET = 126
    PRCTL = 157
    GETXATTR = 191
    LGETXATTR = 192
    LISTXATTR = 194
    LLISTXATTR = 195
    SCHED_SETAFFINITY = 203
    SCHED_GETAFFINITY = 204
    EPOLL_CTL = 233
    OPENAT = 257
    NEWFSTATAT = 262
    READLINKAT = 267
    FACCESSAT = 269
    UNSHARE = 272
    EVENTFD = 284
    EVENTFD2 = 290
    DUP3 = 292
    PREADV = 295
    PWRITEV = 296
    SETNS = 308
    KCMP = 312
    SECCOMP = 317
    EXECVEAT = 322
    PREADV2 = 327
    PWRITEV2 = 328
    STATX = 332
    IO_URING_SETUP = 425
    OPENAT2 = 437
    PIDFD_GETFD = 438
    FACCESSAT2 = 439


AUDIT_ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000

KCMP_VM = 1
_PIDFD_THREAD = os.O_EXCL

TMPFS_MAGIC = 0x01021994
HUGETLBFS_MAGIC = 0x958458F6
RAMFS_MAGIC = 0x858458F6

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, value: int = 0) -> int:
    """Set one thing about this process."""
    unused = ctypes.c_ulong(0)
    return _check(_libc.prctl(option, ctypes.c_ulong(value), unused, unused, unused))


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` (CLONE_NEW*) name for new ones."""
    _check(_libc.unshare(flags))


def mount(source: str, target: str, flags: int) -> None:
    """Bind a directory or file to another place, or change how a mount propagates."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None))


def install_filter(program: bytes, flags: int) -> int:
    """Put a seccomp filter (8 bytes an instruction) on this thread; the listener with NEW_LISTENER, else 0."""
    prog = _SockFprog(len(program) // 8, program)
    return _check(_syscall(Nr.SECCOMP, SECCOMP_SET_MODE_FILTER, ctypes.c_ulong(flags), ctypes.byref(prog)))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate, close-on-exec, of descriptor `fd` of the process behind `pidfd`."""
    return _check(_syscall(Nr.PIDFD_GETFD, pidfd, fd, 0))


def take_fd(process: int, thread: int, fd: int) -> int:
    """A duplicate of descriptor `fd` of `thread` of `process`.

    Before Linux 6.9 only the first thread of a process can be asked, which the others normally share descriptors with.
    """
    try:
        pidfd = os.pidfd_open(thread, 0 if thread == process else _PIDFD_THREAD)
    except OSError:
        pidfd = os.pidfd_open(process)
    try:
        return pidfd_getfd(pidfd, fd)
    finally:
        os.close(pidfd)


def same_memory(one: int, other: int) -> bool:
    """Whether two processes share their address space. Raises OSError where kcmp(2) is not allowed."""
    return _check(_syscall(Nr.KCMP, one, other, KCMP_VM, 0, 0)) == 0


def filesystem(fd: int) -> int:
    """The magic number of the file system that `fd` lies on (statfs(2)'s f_type)."""
    answer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(fd, answer))
    return int.from_bytes(answer.raw[:4], "little")


class Transfer:
    """Copies to and from other processes' memory, with the permissions that the process itself has there.

    process_vm_readv(2) rather than /proc/PID/mem, because the latter reads where the process may not read
    and writes where it may not write; a system call would answer EFAULT there. One buffer is reused, so an object
    belongs to one thread at a time.
    """

    ROOM = 1 << 16

    def __init__(self) -> None:
        self._buffer = bytearray(self.ROOM)
        self._view = memoryview(self._buffer)
        words = (ctypes.c_uint64 * 4)()
        words[0] = ctypes.addressof((ctypes.c_char * self.ROOM).from_buffer(self._buffer))
        self._words = words
        self._local = ctypes.c_void_p(ctypes.addressof(words))
        self._remote = ctypes.c_void_p(ctypes.addressof(words) + 16)
        self._fields = memoryview(words).cast("B")
        self._pack = struct.Struct("QQQ").pack_into
        self._readv = _libc.process_vm_readv
        self._readv.restype = ctypes.c_ssize_t
        self._writev = _libc.process_vm_writev
        self._writev.restype = ctypes.c_ssize_t

    def read(self, pid: int, address: int, length: int) -> bytes:
        """Up to `length` (at most ROOM) bytes; fewer, or none, where memory ends. Raises OSError: ESRCH, EPERM."""
        self._pack(self._fields, 8, length, address, length)
        count = self._readv(pid, self._local, 1, self._remote, 1, 0)
        return bytes(self._view[:count]) if count >= 0 else self._failed()

    def write(self, pid: int, address: int, data: bytes) -> int:
        """Write `data` (at most ROOM bytes); how many bytes were written. Raises OSError: ESRCH, EPERM."""
        length = len(data)
        self._buffer[:length] = data
        self._pack(self._fields, 8, length, address, length)
        count: int = self._writev(pid, self._local, 1, self._remote, 1, 0)
        return count if count >= 0 else len(self._failed())

    @staticmethod
    def _failed() -> bytes:
        number = ctypes.get_errno()
        if number == errno.EFAULT:
            return b""
        raise OSError(number, os.strerror(number))


class Signal(NamedTuple):
    """What a signalfd tells: the signal, the cause (SI_USER and so on), the sender."""

    number: int
    code: int
    sender: int


class SignalFile:
    """A signalfd(2) over signals that every thread has blocked."""

    _SIZE = 128
    _FIELDS = struct.Struct("IiiI")

    def __init__(self, signals: Iterable[int]) -> None:
        mask = 0
        for number in signals:
            mask |= 1 << number - 1
        raw = ctypes.create_string_buffer(struct.pack("Q", mask) + bytes(120), 128)
        self._fd = _check(_libc.signalfd(-1, raw, os.O_CLOEXEC | os.O_NONBLOCK))

    def fileno(self) -> int:
        """The descriptor, for epoll."""
        return self._fd

    def read(self) -> list[Signal]:
        """The signals that have come since the last time."""
        try:
            data = os.read(self._fd, self._SIZE * 16)
        except BlockingIOError:
            return []
        found = []
        for start in range(0, len(data), self._SIZE):
            number, _, code, sender = self._FIELDS.unpack_from(data, start)
            found.append(Signal(number, code, sender))
        return found

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
