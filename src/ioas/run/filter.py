"""The seccomp filter: which system calls the kernel hands to the supervisor, and which it carries out alone.

A classic BPF program sees a call's number and its six arguments as numbers, and cannot follow pointers (seccomp(2),
Documentation/userspace-api/seccomp_filter.rst). So calls that name a path are all handed over, except those that a
path of ours cannot reach; calls that name a descriptor where the number lies in the ranges from which our own are taken
(`ioas.run.numbers`), and elsewhere where they look as only calls on a device file do, which the program may have moved.
Everything not in `rules` runs at full speed: the kernel remembers that the filter always allows it.

A rule is a call with alternatives; an alternative is a tuple of tests that must all hold; a rule without
alternatives always hands over.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from errno import ENOSYS
from typing import NamedTuple

from ioas.run.kernel import AUDIT_ARCH_X86_64, X32_BIT, Nr
from ioas.run.numbers import FdRange

AT_FDCWD = 0xFFFFFF9C
IOCTL_TYPE = 0x3B00
"""The type byte ';' that iommufd and VFIO share, where an ioctl number has it."""

_PR_SET_SECCOMP = 22
_RET_ALLOW = 0x7FFF0000
_RET_NOTIFY = 0x7FC00000
_RET_ERRNO = 0x00050000

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL = 0x15, 0x25, 0x35
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16


class Test(NamedTuple):
    """`(word & mask)` lies in `low` to `high`; the word is the low half of an argument, or its `upper` half."""

    argument: int
    low: int
    high: int
    mask: int = 0xFFFFFFFF
    upper: bool = False


class Rule(NamedTuple):
    """A call that is handed over when one of the alternatives holds."""

    number: Nr
    alternatives: tuple[tuple[Test, ...], ...] = ()


def rules(ours: Sequence[FdRange], eventfds: bool) -> list[Rule]:
    """What is handed over, the most frequent first.

    `ours`: the numbers that our descriptors have, unless the program moves them (dup2(2), SCM_RIGHTS). `eventfds`: also
    the making of eventfds, for environments in which a program's own cannot be fetched from it.
    """

    def numbered(argument: int = 0) -> tuple[tuple[Test, ...], ...]:
        return tuple((Test(argument, *numbers),) for numbers in ours)

    def on_ours(number: Nr) -> Rule:
        return Rule(number, numbered())

    def without_path(argument: int) -> tuple[tuple[Test, ...], ...]:
        """A stat of a descriptor. Not of any number: programs that walk a tree make one for every directory."""
        empty = Test(argument, _EMPTY_PATH, _EMPTY_PATH, _EMPTY_PATH)
        return tuple((*test, empty) for test in numbered())

    def at_offset(number: Nr) -> Rule:
        return Rule(number, (*numbered(), _FAR, *(() if number in _VECTORS else (_SHORT,))))

    copies = [Test(1, command, command) for command in (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)]
    credentials = (Nr.SETUID, Nr.SETREUID, Nr.SETRESUID, Nr.SETFSUID, Nr.CAPSET, Nr.UNSHARE, Nr.SETNS)
    return [
        Rule(Nr.IOCTL, ((Test(1, IOCTL_TYPE, IOCTL_TYPE, 0xFF00),), *numbered())),
        *map(on_ours, (Nr.READ, Nr.WRITE)),
        *map(at_offset, (Nr.PREAD64, Nr.PWRITE64, Nr.PREADV, Nr.PWRITEV, Nr.PREADV2, Nr.PWRITEV2)),
        *map(on_ours, (Nr.READV, Nr.WRITEV, Nr.LSEEK, Nr.DUP, Nr.FSTAT)),
        Rule(Nr.MMAP, (*numbered(4), (Test(3, _MAP_SHARED, _MAP_SHARED, _MAP_SHARED | _MAP_ANONYMOUS),))),
        Rule(Nr.FCNTL, tuple((*test, copy) for test in numbered() for copy in copies)),
        Rule(Nr.OPENAT, (_AT_CWD, _NO_DIRECTORY)),
        *map(Rule, (Nr.OPEN, Nr.OPENAT2, Nr.CREAT, Nr.STAT, Nr.LSTAT, Nr.ACCESS, Nr.READLINK)),
        Rule(Nr.NEWFSTATAT, (_AT_CWD, *without_path(3))),
        Rule(Nr.STATX, (_AT_CWD, *without_path(2))),
        *(Rule(number, (_AT_CWD,)) for number in (Nr.READLINKAT, Nr.FACCESSAT, Nr.FACCESSAT2)),
        *map(Rule, (Nr.GETXATTR, Nr.LGETXATTR, Nr.LISTXATTR, Nr.LLISTXATTR)),
        Rule(Nr.EPOLL_CTL, tuple((Test(1, _EPOLL_ADD, _EPOLL_ADD), *test) for test in numbered(2))),
        *map(Rule, (Nr.EXECVE, Nr.EXECVEAT, *credentials, Nr.SECCOMP, Nr.SCHED_SETAFFINITY, Nr.SCHED_GETAFFINITY)),
        Rule(Nr.PRCTL, ((Test(0, _PR_SET_SECCOMP, _PR_SET_SECCOMP),),)),
        *(map(Rule, (Nr.EVENTFD, Nr.EVENTFD2)) if eventfds else ()),
    ]


_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20
_VECTORS = (Nr.PREADV, Nr.PWRITEV, Nr.PREADV2, Nr.PWRITEV2)
_FAR = (Test(3, 0x100, 0x7FFFFFFF, upper=True),)
"""An offset from 2**40 on: the regions of a VFIO device but the first. No file of a disk is read there."""
_SHORT = (Test(2, 0, 8),)
"""At most 8 bytes: an access to a register, and not what files of a disk are read for."""
_AT_CWD = (Test(0, AT_FDCWD, AT_FDCWD),)
_NO_DIRECTORY = (Test(2, 0, 0, os.O_DIRECTORY),)
"""Walks such as find's, by directory descriptor, stay untouched."""


_EPOLL_ADD = 1
_EMPTY_PATH = 0x1000
"""AT_EMPTY_PATH: the descriptor itself is meant, as fstat means it."""

REFUSED = (Nr.IO_URING_SETUP,)
"""Calls that answer ENOSYS: what a ring does is invisible to a filter."""


def build(handed_over: Sequence[Rule], refused: Sequence[Nr] = REFUSED) -> bytes:
    """The program, 8 bytes an instruction. Code of another architecture (i386, x32) gets ENOSYS for every call."""
    program = [
        _step(_LOAD, _ARCH),
        _step(_JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        _step(_RETURN, _RET_ERRNO | ENOSYS),
        _step(_LOAD, _NUMBER),
        _step(_JUMP_GREATER_EQUAL, X32_BIT, 0, 1),
        _step(_RETURN, _RET_ERRNO | ENOSYS),
    ]
    for rule in handed_over:
        body = _body(rule)
        program += [_step(_JUMP_EQUAL, rule.number, 0, len(body)), *body]
    for number in refused:
        program += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _RET_ERRNO | ENOSYS)]
    program.append(_step(_RETURN, _RET_ALLOW))
    return b"".join(program)


def _body(rule: Rule) -> list[bytes]:
    """The instructions that decide about a call whose number has matched."""
    if not rule.alternatives:
        return [_step(_RETURN, _RET_NOTIFY)]
    body: list[bytes] = []
    for alternative in rule.alternatives:
        body += _alternative(alternative)
    return [*body, _step(_RETURN, _RET_ALLOW)]


def _alternative(tests: tuple[Test, ...]) -> list[bytes]:
    """The tests in order, a jump over the rest for each that fails, and at the end the handing over."""
    steps = [_step(_RETURN, _RET_NOTIFY)]
    for test in reversed(tests):
        behind = len(steps)
        compare = [_step(_JUMP_GREATER_EQUAL, test.low, 0, behind + 1), _step(_JUMP_GREATER, test.high, behind, 0)]
        mask = [] if test.mask == 0xFFFFFFFF else [_step(_AND, test.mask)]
        steps = [_step(_LOAD, _ARGUMENTS + 8 * test.argument + 4 * test.upper), *mask, *compare, *steps]
    return steps


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, value)
