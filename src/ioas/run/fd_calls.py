"""Calls on descriptors: ioctl, read and write in all their forms, mmap, fstat, dup."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from errno import EINVAL, ENODEV, EPERM, ESPIPE

from ioas.errors import KernelError, refuse
from ioas.host import EventSource
from ioas.run.attribute import AttributeFile
from ioas.run.buffers import Piece
from ioas.run.caller import ProcessCaller
from ioas.run.files import Given
from ioas.run.kernel import Nr, take_fd
from ioas.run.listener import Call
from ioas.run.mmio.memory_files import Mappable
from ioas.run.names import request_name, show_ioctl
from ioas.run.outcome import Handler, Outcome
from ioas.run.pagemap import PagemapFile
from ioas.run.server import Server
from ioas.run.statfiles import Shown, anonymous_file, device_node, pack_stat, pack_statx
from ioas.run.visit import Unavailable

_AT_EMPTY_PATH = 0x1000
_WORD = 0xFFFFFFFF
_MOST_AT_ONCE = 1 << 22
"""A read or write moves at most this much; shorter than asked for is a legal answer."""
_MOST_VECTORS = 1024
_VECTOR = struct.Struct("QQ")
_VFS_REQUESTS = frozenset({0x2, 0x5421, 0x5450, 0x5451, 0x5452, 0x5460})
"""FIGETBSZ, FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC, FIOQSIZE."""
_VFS_TYPES = frozenset({ord("X") << 8, ord("f") << 8})
"""FS_IOC_* and relatives."""


def on_ioctl(server: Server, call: Call) -> int | Outcome:
    """ioctl(2). What a kernel answers for any file (do_vfs_ioctl), it answers."""
    if call.arguments[1] & _WORD in _VFS_REQUESTS or call.arguments[1] & 0xFF00 in _VFS_TYPES:
        return Outcome.PROCEED
    found = server.find(call, call.arguments[0])
    if found is None:
        return Outcome.PROCEED
    caller, given = found
    request, argument = call.arguments[1] & _WORD, call.arguments[2]
    if server.reporter.summary:
        server.reporter.calls[request_name(given.path, request)] += 1
    try:
        return given.file.ioctl(caller, request, argument)
    except KernelError as error:
        text = show_ioctl(given.path, request, argument, caller.memory.read) if server.reporter.wants_refusals else ""
        server.refused(call, caller, text, request_name(given.path, request), error)
        raise


def on_read(server: Server, call: Call) -> int | Outcome:
    """read(2) and pread(2)."""
    fd, buffer, length = call.arguments[:3]
    return _transfer(server, call, fd, [(buffer, length)], _offset(call), write=False)


def on_write(server: Server, call: Call) -> int | Outcome:
    """write(2) and pwrite(2)."""
    fd, buffer, length = call.arguments[:3]
    return _transfer(server, call, fd, [(buffer, length)], _offset(call), write=True)


def on_read_vector(server: Server, call: Call) -> int | Outcome:
    """readv(2), preadv(2), preadv2(2)."""
    return _transfer(server, call, call.arguments[0], None, _offset(call), write=False)


def on_write_vector(server: Server, call: Call) -> int | Outcome:
    """writev(2), pwritev(2), pwritev2(2)."""
    return _transfer(server, call, call.arguments[0], None, _offset(call), write=True)


def _offset(call: Call) -> int | None:
    """The offset that a call names, None where the file's own position is meant; as signed 64-bit."""
    if call.number in (Nr.READ, Nr.WRITE, Nr.READV, Nr.WRITEV):
        return None
    offset = call.arguments[3]
    if call.number in (Nr.PREADV2, Nr.PWRITEV2) and offset == (1 << 64) - 1:
        return None
    return offset


def _transfer(
    server: Server, call: Call, fd: int, vectors: list[tuple[int, int]] | None, offset: int | None, *, write: bool
) -> int | Outcome:
    found = server.find(call, fd)
    if found is None:
        return Outcome.PROCEED
    caller, given = found
    name = call_name(call)
    if server.reporter.summary:
        server.reporter.calls[name] += 1
    try:
        if offset is not None and offset >> 63:
            raise refuse(EINVAL, "the offset is negative", "field", "offset")
        if vectors is None:
            vectors = _vectors(caller, call.arguments[1], call.arguments[2])
        if write:
            return _write(caller, given, vectors, offset)
        done = _read(caller, given, vectors, offset)
        given.settle(caller, lambda: take_fd(caller.pid, caller.thread, fd))
        return done
    except KernelError as error:
        where = "" if offset is None else f", offset {offset:#x}"
        total = sum(length for _, length in vectors or ())
        server.refused(call, caller, f"{name}({given.path or 'file'}, {total} bytes{where})", name, error)
        raise


def _vectors(caller: ProcessCaller, address: int, count: int) -> list[tuple[int, int]]:
    if count > _MOST_VECTORS:
        raise refuse(EINVAL, f"more than {_MOST_VECTORS} buffers", "field", "iovcnt")
    return list(_VECTOR.iter_unpack(caller.memory.read(address, count * _VECTOR.size)))


def _read(caller: ProcessCaller, given: Given, vectors: list[tuple[int, int]], offset: int | None) -> int:
    done = 0
    for address, length in vectors:
        try:
            data = given.file.read(caller, min(length, _MOST_AT_ONCE), None if offset is None else offset + done)
            if data:
                _deliver(caller, given, address, data)
        except KernelError:
            if done:
                break  # what was moved is the answer
            raise
        done += len(data)
        if len(data) < length:
            break
    return done


def _deliver(caller: ProcessCaller, given: Given, address: int, data: bytes) -> None:
    try:
        caller.memory.write(address, data)
    except KernelError:
        if isinstance(given.file, EventSource):
            given.file.restore()
        raise


def _write(caller: ProcessCaller, given: Given, vectors: list[tuple[int, int]], offset: int | None) -> int:
    done = 0
    for address, length in vectors:
        try:
            data = caller.memory.read(address, min(length, _MOST_AT_ONCE))
            count = given.file.write(caller, data, None if offset is None else offset + done)
        except KernelError:
            if done:
                break
            raise
        done += count
        if count < length:
            break
    return done


def on_mmap(server: Server, call: Call) -> int | Outcome:
    """mmap(2): the kernel maps what stands for a device file, when the device's driver allows it."""
    _, length, protection, flags, fd, offset = call.arguments
    found = server.find(call, fd)
    if found is None:
        return Outcome.PROCEED
    caller, given = found
    text = f"mmap({given.path or 'file'}, {length} bytes, offset {offset:#x})"
    try:
        memory = given.file.mmap(caller, length, protection & _WORD, flags & _WORD, offset)
        if server.mmio and isinstance(given.file, Mappable):
            with server.mmio.mapping(given.file, caller.pid, offset, length) as pieces:
                return _map(server, call, pieces)
        return _map(server, call, [Piece(memory, 0, length, offset)])
    except KernelError as error:
        server.refused(call, caller, text, "mmap", error)
        raise


def _map(server: Server, call: Call, pieces: Sequence[Piece]) -> int:
    """Map files of the host's in place of the one that the program named. Raises KernelError."""
    try:
        result = server.buffers.map_file(call, pieces)
    except Unavailable as error:
        raise refuse(ENODEV, f"the program cannot be made to map it: {error}", "file", call.arguments[4]) from None
    if result < 0:
        raise refuse(-result, "the kernel does not map it there", "address", call.arguments[0])
    return result


def on_fstat(server: Server, call: Call) -> int | Outcome:
    """fstat(2)."""
    found = server.find(call, call.arguments[0])
    if found is None:
        return Outcome.PROCEED
    caller, given = found
    caller.memory.write(call.arguments[1], pack_stat(shown_file(given)))
    return 0


def on_fstatat(server: Server, call: Call) -> int | Outcome:
    """newfstatat(2) with an empty path, which is how the C library makes fstat."""
    fd, path, buffer, flags = call.arguments[:4]
    found = server.find(call, fd) if flags & _AT_EMPTY_PATH else None
    if found is None or (path and found[0].memory.read(path, 1) != b"\0"):
        return Outcome.PROCEED
    caller, given = found
    caller.memory.write(buffer, pack_stat(shown_file(given)))
    return 0


def on_fstatx(server: Server, call: Call) -> int | Outcome:
    """statx(2) with an empty path."""
    fd, path, flags, _, buffer = call.arguments[:5]
    found = server.find(call, fd) if flags & _AT_EMPTY_PATH else None
    if found is None or (path and found[0].memory.read(path, 1) != b"\0"):
        return Outcome.PROCEED
    caller, given = found
    caller.memory.write(buffer, pack_statx(shown_file(given)))
    return 0


def shown_file(given: Given) -> Shown:
    """What fstat(2) shows of a file."""
    number = given.file.device_number
    return device_node(number, 0o666) if number != (0, 0) else anonymous_file()


def on_seek(server: Server, call: Call) -> int | Outcome:
    """lseek(2): device files have no position to be moved; texts of /sys and a pagemap have one."""
    found = server.find(call, call.arguments[0])
    if found is None:
        return Outcome.PROCEED
    offset, whence = call.arguments[1], call.arguments[2] & _WORD
    if whence > os.SEEK_HOLE:
        return -EINVAL
    file = found[1].file
    if not isinstance(file, (AttributeFile, PagemapFile)):
        return -ESPIPE
    return file.seek(offset - (offset >> 63 << 64), whence)


def on_epoll(server: Server, call: Call) -> int | Outcome:
    """epoll_ctl(2) that adds: refused for files without a poll operation (ep_can_poll), which device files are."""
    found = server.find(call, call.arguments[2])
    return -EPERM if found and not isinstance(found[1].file, (AttributeFile, EventSource)) else Outcome.PROCEED


def on_dup(server: Server, call: Call) -> int | Outcome:
    """dup(2) and fcntl(F_DUPFD): the copy stays in our ranges, so that calls on it are handed over too."""
    found = server.find(call, call.arguments[0])
    if found is None:
        return Outcome.PROCEED
    caller, _ = found
    command, least = (call.arguments[1], call.arguments[2] & _WORD) if call.number == Nr.FCNTL else (0, 0)
    number = server.free_number(caller, least)
    if number is None:
        return Outcome.PROCEED
    try:
        copy = take_fd(caller.pid, caller.thread, call.arguments[0] & _WORD)
    except OSError:  # pidfd_getfd is forbidden: the kernel's copy is outside of our ranges
        return Outcome.PROCEED
    try:
        server.give_at(call, caller, copy, number, command == fcntl.F_DUPFD_CLOEXEC, answer=True)
    finally:
        os.close(copy)
    return Outcome.ANSWERED


def on_eventfd(server: Server, call: Call) -> int | Outcome:
    """eventfd(2) and eventfd2(2), handed over only where eventfds cannot be fetched from the program."""
    flags = call.arguments[1] & _WORD if call.number == Nr.EVENTFD2 else 0
    return server.eventfds.make(call, call.arguments[0] & _WORD, flags)


def call_name(call: Call) -> str:
    """The name of the system call, such as "pread64"."""
    return Nr(call.number).name.lower()


FD_CALLS: dict[int, Handler] = {
    Nr.IOCTL: on_ioctl,
    Nr.READ: on_read,
    Nr.PREAD64: on_read,
    Nr.WRITE: on_write,
    Nr.PWRITE64: on_write,
    Nr.READV: on_read_vector,
    Nr.PREADV: on_read_vector,
    Nr.PREADV2: on_read_vector,
    Nr.WRITEV: on_write_vector,
    Nr.PWRITEV: on_write_vector,
    Nr.PWRITEV2: on_write_vector,
    Nr.MMAP: on_mmap,
    Nr.FSTAT: on_fstat,
    Nr.DUP: on_dup,
    Nr.FCNTL: on_dup,
    Nr.LSEEK: on_seek,
    Nr.EPOLL_CTL: on_epoll,
    Nr.EVENTFD: on_eventfd,
    Nr.EVENTFD2: on_eventfd,
}
