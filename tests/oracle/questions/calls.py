"""How a question is asked and its answer written down: system calls by ctypes, structures by field name.

Nothing here imports ioas. Addresses are fixed where the kernel's answer depends on them (automatic IOVAs follow the low bits of
user addresses), and what differs from run to run (descriptor numbers) is written as `*`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

PAGE = 4096
ULONG_MAX = (1 << 64) - 1
U32_MAX = (1 << 32) - 1
MEMORY = 0x2000_0000_0000
"""Where user memory for DMA stands."""
NOWHERE = 0x2FFF_0000_0000
"""Nothing is mapped here."""
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MAP_FIXED_NOREPLACE = 0x100000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.mmap.restype = ctypes.c_ssize_t
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.pread.argtypes = _libc.pwrite.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
_libc.pread.restype = _libc.pwrite.restype = ctypes.c_ssize_t

_section = ""
_said: set[str] = set()


def begin(section: str) -> None:
    """Labels are `section: label` from here on."""
    global _section
    _section = section


def say(label: str, answer: object) -> None:
    """Write one line. Raises ValueError for a label that was used before."""
    line = f"{_section}: {label}"
    if line in _said:
        raise ValueError(f"the label {line!r} is used twice")
    _said.add(line)
    sys.stdout.write(f"{line} = {answer}\n")
    sys.stdout.flush()


def outcome(result: int) -> str:
    """A result as it is written: a number, or the name of the error."""
    return str(result) if result >= 0 else errno.errorcode.get(-result, f"errno {-result}")


def _result(value: int) -> int:
    return value if value != -1 else -ctypes.get_errno()


def raw_ioctl(fd: int, request: int, argument: int) -> int:
    """ioctl(2) with a plain third word; the result or -errno."""
    return _result(_libc.ioctl(fd, request, argument))


def attempt(label: str, function: Callable[[], object]) -> object:
    """Call something of `os` and write what it returns (bytes in hexadecimal) or the error; return it or None."""
    try:
        value = function()
    except OSError as error:
        say(label, outcome(-(error.errno or 0)))
        return None
    say(label, value.hex() or "nothing" if isinstance(value, bytes) else value)
    return value


# -- memory


def map_memory(
    length: int,
    at: int = MEMORY,
    protection: int = READ_WRITE,
    flags: int = SHARED,
    fd: int = -1,
    offset: int = 0,
) -> int:
    """mmap(2) at a fixed address; the address or -errno."""
    return _result(_libc.mmap(at, length, protection, flags | _MAP_FIXED_NOREPLACE, fd, offset))


def unmap_memory(address: int, length: int) -> None:
    """munmap(2)."""
    _libc.munmap(address, length)


def protect_memory(address: int, length: int, protection: int) -> None:
    """mprotect(2)."""
    _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), protection)


@contextmanager
def memory(
    length: int, at: int = MEMORY, protection: int = READ_WRITE, flags: int = SHARED, fd: int = -1
) -> Iterator[int]:
    """Memory at a fixed address for a while. Raises OSError when there is none."""
    address = map_memory(length, at, protection, flags, fd)
    if address < 0:
        raise OSError(-address, os.strerror(-address))
    try:
        yield address
    finally:
        unmap_memory(address, length)


def poke(address: int, data: bytes) -> None:
    """Store into this process's memory."""
    ctypes.memmove(address, data, len(data))


def peek(address: int, length: int) -> bytes:
    """Load from this process's memory."""
    return ctypes.string_at(address, length)


# -- structures


class Shape:
    """The structure of one request: fields in order, as struct format characters with names (`I:size Q:iova`)."""

    def __init__(self, name: str, request: int, fields: str, size: int = 0) -> None:
        """`size`: bytes of the structure, where that is more than the fields have. The first field says the size in use."""
        codes, self.names = zip(*(field.split(":") for field in fields.split()), strict=True)
        self.name = name
        self.request = request
        self.bits = [8 * struct.calcsize(code) for code in codes]
        self.signed = [code.islower() for code in codes]
        spare = max(size - struct.calcsize("=" + "".join(codes)), 0)
        self.format = struct.Struct(f"={''.join(codes)}{spare}x")
        self.size = self.format.size

    def pack(self, **values: int) -> bytes:
        """The structure; fields that are not named are 0, and the first one its size. Raises KeyError for an unknown name."""
        unknown = values.keys() - set(self.names)
        if unknown:
            raise KeyError(f"{self.name} has no {unknown}")
        values.setdefault(self.names[0], self.size)
        return self.format.pack(*map(self._fit, (values.get(name, 0) for name in self.names), self.bits, self.signed))

    @staticmethod
    def _fit(value: int, bits: int, signed: bool) -> int:
        value &= (1 << bits) - 1
        return value - (1 << bits) if signed and value >> (bits - 1) else value

    def unpack(self, data: bytes) -> dict[str, int]:
        """The fields by name."""
        return dict(zip(self.names, self.format.unpack(data[: self.size]), strict=True))


class Answer(dict[str, int]):
    """The fields of a structure after a call, the call's result, and all bytes of the argument."""

    result: int
    data: bytes


def call(fd: int, shape: Shape, /, *, tail: bytes = b"", request: int | None = None, **values: int) -> Answer:
    """Make a call with a structure of its own; nothing is written down."""
    buffer = ctypes.create_string_buffer(shape.pack(**values) + tail, shape.size + len(tail))
    result = raw_ioctl(fd, shape.request if request is None else request, ctypes.addressof(buffer))
    answer = Answer(shape.unpack(buffer.raw))
    answer.result = result
    answer.data = buffer.raw
    return answer


def must(fd: int, shape: Shape, /, **values: int) -> Answer:
    """As `call`, for a step that only prepares. Raises OSError when it fails."""
    answer = call(fd, shape, **values)
    if answer.result < 0:
        raise OSError(-answer.result, f"{shape.name}: {os.strerror(-answer.result)}")
    return answer


def ask(
    label: str,
    fd: int,
    shape: Shape,
    /,
    *,
    hide: Iterable[str] = (),
    tail: bytes = b"",
    request: int | None = None,
    **values: int,
) -> Answer:
    """Make a call and write the result and every field that the kernel changed; those in `hide` as `*`."""
    answer = call(fd, shape, tail=tail, request=request, **values)
    before = shape.unpack(shape.pack(**values))
    changed = [
        f"{name}=*" if name in hide else f"{name}={value:#x}" for name, value in answer.items() if value != before[name]
    ]
    if answer.data[shape.size :] != tail:
        changed.append(f"tail={answer.data[shape.size :].hex()}")
    say(label, " ".join([outcome(answer.result), *changed]))
    return answer


# -- files


class Files:
    """Descriptors that are closed at the end of a section, newest first."""

    def __init__(self) -> None:
        self.open_now: list[int] = []

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        while self.open_now:
            os.close(self.open_now.pop())

    def keep(self, fd: int) -> int:
        """Close `fd` at the end; returns it."""
        self.open_now.append(fd)
        return fd

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """open(2). Raises OSError."""
        return self.keep(os.open(path, flags | os.O_CLOEXEC))

    def iommufd(self) -> int:
        """A new context."""
        return self.open("/dev/iommu")

    def eventfd(self, value: int = 0) -> int:
        """A new eventfd, not blocking."""
        return self.keep(os.eventfd(value, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def close(self, fd: int) -> None:
        """Close now."""
        self.open_now.remove(fd)
        os.close(fd)


def count_of(eventfd: int, wait: int = 50) -> int:
    """What an eventfd counts, after at most `wait` ms; it is 0 afterwards."""
    if not select.select([eventfd], [], [], wait / 1000)[0]:
        return 0
    return int(os.eventfd_read(eventfd))


def pause(seconds: float = 0.05) -> None:
    """Let what happens beside us happen: there is nothing to wait for where nothing may come."""
    select.select([], [], [], seconds)


def pread(fd: int, length: int, offset: int) -> bytes | int:
    """pread(2) with any offset; the bytes or -errno."""
    buffer = ctypes.create_string_buffer(max(length, 1))
    result = _result(_libc.pread(fd, buffer, length, ctypes.c_long(offset)))
    return buffer.raw[:result] if result >= 0 else result


def pwrite(fd: int, data: bytes, offset: int) -> int:
    """pwrite(2) with any offset; the result or -errno."""
    return _result(_libc.pwrite(fd, data, len(data), ctypes.c_long(offset)))


def shown(value: bytes | int) -> str:
    """Bytes in hexadecimal, or an outcome."""
    return outcome(value) if isinstance(value, int) else value.hex() or "nothing"
