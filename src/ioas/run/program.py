"""Finding the program, and refusing in one line what cannot be served, before anything is started.

Exit statuses are those of env(1) and of the shells: 127 when the program (or the interpreter that it names) is not
there, 126 when it is there and cannot be run.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping

from ioas.errors import UsageError

NOT_FOUND = 127
NOT_RUN = 126

_ELF64 = b"\x7fELF\x02"
_X86_64 = 62
_PT_INTERP = 3
_HEADER = struct.Struct("<16xHHIQQQIHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DEEPEST = 5  # BINPRM_MAX_RECURSION: scripts interpreted by scripts


class ProgramError(UsageError):
    """A program that cannot be run; `status` is what `ioas run` then exits with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def find_program(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The path to execute for `name`, looked up in the environment's PATH when it has no slash.

    Raises ProgramError: missing, not executable, set-id or with file capabilities, not x86-64, or with an
    interpreter of which that is true.
    """
    path = name if "/" in name else _look_up(name, environment.get("PATH", os.defpath))
    _check(path, path, 0)
    return path


def is_elf(path: str) -> bool:
    """Whether a file is an ELF program, sound or not."""
    with open(path, "rb", buffering=0) as file:
        return file.read(4) == b"\x7fELF"


def is_foreign(path: str) -> str | None:
    """Why the filter would make a program fail at its first system call: it is 32-bit or of another architecture.

    None for everything else, also for what cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return _foreign(file.read(64))
    except OSError:
        return None


def _look_up(name: str, search: str) -> str:
    denied = None
    for directory in search.split(os.pathsep):
        path = os.path.join(directory or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            denied = denied or path
    if denied:
        raise ProgramError(NOT_RUN, f"{denied}: not executable")
    raise ProgramError(NOT_FOUND, f"{name}: program not found")


def _check(path: str, asked: str, depth: int) -> None:
    """Check `path`, which is the program `asked` or an interpreter on the way to running it."""
    role = path if path == asked else f"{asked}: its interpreter {path}"
    try:
        status = os.stat(path)
    except OSError as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise ProgramError(NOT_FOUND if missing else NOT_RUN, f"{role}: {_lower(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ProgramError(NOT_RUN, f"{role}: is {what}, not a program")
    if not os.access(path, os.X_OK):
        raise ProgramError(NOT_RUN, f"{role}: not executable")
    if privilege := _privilege(path, status.st_mode):
        raise ProgramError(
            NOT_RUN,
            f"{role}: {privilege}, and a program under ioas run cannot gain privileges; "
            "run ioas itself as the user that it would become",
        )
    _check_format(path, role, asked, depth)


def _privilege(path: str, mode: int) -> str | None:
    if mode & stat.S_ISUID:
        return "is setuid"
    if mode & stat.S_ISGID and mode & stat.S_IXGRP:  # without S_IXGRP the bit meant mandatory locking
        return "is setgid"
    try:
        return "has file capabilities" if os.getxattr(path, "security.capability") else None
    except OSError:
        return None


def _check_format(path: str, role: str, asked: str, depth: int) -> None:
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(4096)
            interpreter = _elf_interpreter(file.fileno(), head)
    except OSError as error:
        raise ProgramError(
            NOT_RUN,
            f"{role}: {_lower(error)}; a program that cannot be read cannot be looked into, and so not be served",
        ) from None
    if foreign := _foreign(head):
        raise ProgramError(NOT_RUN, f"{role}: {foreign}; ioas run serves x86-64 programs")
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            raise ProgramError(NOT_RUN, f"{role}: its first line names no interpreter")
        interpreter = os.fsdecode(words[0])
    if interpreter and depth < _DEEPEST:
        _check(interpreter, asked, depth + 1)


def _foreign(head: bytes) -> str | None:
    if not head.startswith(b"\x7fELF"):
        return None
    if not head.startswith(_ELF64):
        return "is a 32-bit program"
    machine: int = int.from_bytes(head[18:20], "little")
    return None if machine == _X86_64 else f"is a program for another architecture (ELF machine {machine})"


def _elf_interpreter(fd: int, head: bytes) -> str | None:
    """The dynamic loader that an x86-64 program names (PT_INTERP), None for static programs and other files."""
    if _foreign(head) or not head.startswith(_ELF64) or len(head) < _HEADER.size:
        return None
    _, _, _, _, table, _, _, _, size, count = _HEADER.unpack_from(head)
    for index in range(min(count, 256)):
        raw = os.pread(fd, _SEGMENT.size, table + index * size)
        if len(raw) < _SEGMENT.size:
            return None
        kind, _, offset, _, _, length, _, _ = _SEGMENT.unpack(raw)
        if kind == _PT_INTERP:
            return os.fsdecode(os.pread(fd, min(length, 4096), offset).rstrip(b"\0"))
    return None


def _lower(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
