"""Calls that name a path: open, stat, access, readlink in all their forms.

Nearly every one that comes here is about something else - a shared library, a source file - and has to be let go as
quickly as can be: the path is read and searched for the few names that any path of the machine contains.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from errno import EACCES, EEXIST, EINVAL, EIO, EISDIR, ELOOP, ENOTDIR, EOPNOTSUPP
from typing import NamedTuple

from ioas.errors import KernelError, refuse
from ioas.run.attribute import AttributeFile
from ioas.run.filter import AT_FDCWD
from ioas.run.kernel import Nr
from ioas.run.listener import Call
from ioas.run.outcome import Handler, Outcome
from ioas.run.server import Server
from ioas.run.statfiles import Shown, device_node, pack_stat, pack_statx, written_file
from ioas.run.status import read_status, with_pins
from ioas.run.view import Located
from ioas.soft.pci.nodes import CharDevice, Directory, Link, Text

_SYMLINK_NOFOLLOW = 0x100
_LONGEST = 4096
_USUAL = 256
_WORD = 0xFFFFFFFF
_STATUS = re.compile(rb"/proc/(self|thread-self|\d+)(?:/task/(\d+))?/status")
_STATE = re.compile(rb"^State:.*$", re.MULTILINE)
_OPEN_HOW = struct.Struct("QQQ")


class Asked(NamedTuple):
    """A node of the machine that a call is about."""

    path: str
    """As the program named it, made absolute."""
    found: Located


def on_open(server: Server, call: Call) -> int | Outcome:
    """open(2), openat(2), openat2(2), creat(2)."""
    directory, pointer, flags = _open_arguments(server, call)
    raw = _path(server, call.thread, pointer)
    if raw.endswith(b"/status") and server.processes.pins():
        return _open_status(server, call, raw, flags)
    follow = not flags & os.O_NOFOLLOW and flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL
    try:
        asked = _ask(server, call, directory, raw, follow)
        if asked is None:
            return Outcome.PROCEED
        return _open_node(server, call, asked, flags)
    except OSError as error:
        _explain(server, call, f"open({os.fsdecode(raw)})", error)
        return -(error.errno or EIO)


def _open_arguments(server: Server, call: Call) -> tuple[int, int, int]:
    """Directory, path and flags of one of the open calls."""
    first, second, third, _, _, _ = call.arguments
    if call.number == Nr.OPEN:
        return AT_FDCWD, first, second & _WORD
    if call.number == Nr.CREAT:
        return AT_FDCWD, first, os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    if call.number == Nr.OPENAT:
        return first & _WORD, second, third & _WORD
    how = server.copy_in(call.thread, third, _OPEN_HOW.size)
    flags = _OPEN_HOW.unpack(how)[0] if len(how) == _OPEN_HOW.size else 0
    return first & _WORD, second, flags & _WORD


def _open_node(server: Server, call: Call, asked: Asked, flags: int) -> int | Outcome:
    node = asked.found.node
    if flags & os.O_CREAT and flags & os.O_EXCL:
        return -EEXIST
    if isinstance(node, Link):
        return -ELOOP
    if flags & os.O_DIRECTORY and not isinstance(node, Directory):
        return -ENOTDIR
    if isinstance(node, CharDevice):
        return _open_device(server, call, asked, flags)
    if isinstance(node, Text):
        return _open_text(server, call, asked.found.path, node, flags)
    if flags & os.O_ACCMODE != os.O_RDONLY:
        return -EISDIR
    return _give_real(server, call, server.stage.path(asked.found.path), flags)


def _open_device(server: Server, call: Call, asked: Asked, flags: int) -> int | Outcome:
    caller = server.caller(call)
    if caller is None:
        return -EACCES
    if server.reporter.summary:
        server.reporter.calls[f"open {asked.found.path}"] += 1
    if flags & os.O_PATH:
        raise refuse(EACCES, "ioas run cannot open a device node with O_PATH", "file", asked.found.path)
    return server.open_node(call, caller, asked.found.path, flags)


def _open_text(server: Server, call: Call, path: str, node: Text, flags: int) -> int | Outcome:
    if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
        return _give_real(server, call, server.stage.text(path, node), flags)
    caller = server.caller(call)
    if caller is None or node.write is None:
        raise refuse(EACCES, "nothing can be written there on this machine", "file", path)
    return server.answer_with(call, caller, AttributeFile(node), path, bool(flags & os.O_CLOEXEC))


def _give_real(server: Server, call: Call, real: str, flags: int) -> Outcome:
    """Answer with a descriptor of a file of the stage, which needs no further serving."""
    fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | flags & (os.O_DIRECTORY | os.O_NONBLOCK))
    try:
        server.listener.give(call.ident, fd, None, bool(flags & os.O_CLOEXEC), answer=True)
    finally:
        os.close(fd)
    return Outcome.ANSWERED


def on_stat(server: Server, call: Call) -> int | Outcome:
    """stat(2), lstat(2), newfstatat(2) and statx(2) by path."""
    number, arguments = call.number, call.arguments
    if number in (Nr.STAT, Nr.LSTAT):
        follow, pointer, buffer = number == Nr.STAT, arguments[0], arguments[1]
    elif number == Nr.NEWFSTATAT:
        follow, pointer, buffer = not arguments[3] & _SYMLINK_NOFOLLOW, arguments[1], arguments[2]
    else:
        follow, pointer, buffer = not arguments[2] & _SYMLINK_NOFOLLOW, arguments[1], arguments[4]
    try:
        asked = _ask(server, call, AT_FDCWD, _path(server, call.thread, pointer), follow)
        if asked is None:
            return Outcome.PROCEED
        shown = _shown(server, asked.found)
    except OSError as error:
        return -(error.errno or EIO)
    caller = server.caller(call)
    if caller is None:
        return -EACCES
    caller.memory.write(buffer, (pack_statx if number == Nr.STATX else pack_stat)(shown))
    return 0


def _shown(server: Server, found: Located) -> Shown:
    node = found.node
    if isinstance(node, CharDevice):
        return device_node((node.major, node.minor), node.mode)
    return written_file(os.lstat(server.stage.path(found.path)))


def on_access(server: Server, call: Call) -> int | Outcome:
    """access(2), faccessat(2), faccessat2(2): everybody may read and write nodes; texts have their modes."""
    legacy = call.number == Nr.ACCESS
    pointer, mode = call.arguments[:2] if legacy else call.arguments[1:3]
    nofollow = call.number == Nr.FACCESSAT2 and call.arguments[3] & _SYMLINK_NOFOLLOW
    try:
        asked = _ask(server, call, AT_FDCWD, _path(server, call.thread, pointer), not nofollow)
    except OSError as error:
        return -(error.errno or EIO)
    if asked is None:
        return Outcome.PROCEED
    if mode & ~(os.R_OK | os.W_OK | os.X_OK) & _WORD:
        return -EINVAL
    return 0 if _allows(asked.found, mode) else -EACCES


def _allows(found: Located, mode: int) -> bool:
    node = found.node
    if isinstance(node, (Directory, Link)):
        return True
    if isinstance(node, CharDevice):
        return not mode & os.X_OK
    wanted = (stat.S_IRUSR if mode & os.R_OK else 0) | (stat.S_IWUSR if mode & os.W_OK else 0)
    return node.mode & wanted == wanted and not mode & os.X_OK


def on_readlink(server: Server, call: Call) -> int | Outcome:
    """readlink(2) and readlinkat(2)."""
    start = 0 if call.number == Nr.READLINK else 1
    pointer, buffer, room = call.arguments[start : start + 3]
    try:
        asked = _ask(server, call, AT_FDCWD, _path(server, call.thread, pointer), follow=False)
    except OSError as error:
        return -(error.errno or EIO)
    if asked is None:
        return Outcome.PROCEED
    if not isinstance(asked.found.node, Link) or not 0 < room < 1 << 31:
        return -EINVAL
    caller = server.caller(call)
    if caller is None:
        return -EACCES
    target = os.fsencode(asked.found.node.target)[:room]
    caller.memory.write(buffer, target)
    return len(target)


def on_extended_attributes(server: Server, call: Call) -> int | Outcome:
    """getxattr(2), listxattr(2) and their kin, which `ls -l` asks for: the machine's file system has none."""
    follow = call.number in (Nr.GETXATTR, Nr.LISTXATTR)
    try:
        asked = _ask(server, call, AT_FDCWD, _path(server, call.thread, call.arguments[0]), follow)
    except OSError as error:
        return -(error.errno or EIO)
    return -EOPNOTSUPP if asked else Outcome.PROCEED


def _path(server: Server, thread: int, pointer: int) -> bytes:
    """The path at `pointer`; empty when there is none, and the kernel will say so."""
    for length in (_USUAL, _LONGEST):
        path, end, _ = server.copy_in(thread, pointer, length).partition(b"\0")
        if end:
            return path
    return b""


def _ask(server: Server, call: Call, directory: int, raw: bytes, follow: bool) -> Asked | None:
    """The node of the machine that a path means, seen from `directory`; None when it is not the machine's.

    Raises OSError: it would be the machine's, and is not there.
    """
    hinted = server.view.hints.search(raw) is not None
    if not hinted and (raw[:1] == b"/" or server.stage.root is None):
        return None
    path = os.fsdecode(raw)
    if not path.startswith("/"):
        if not path:
            return None
        base = "cwd" if directory == AT_FDCWD else f"fd/{directory}"
        try:
            real = os.readlink(f"/proc/{call.thread}/{base}")
        except OSError:
            return None
        staged = server.stage.machine_path(real)
        if staged is None and not hinted:
            return None
        path = f"{staged or real}/{path}"
    found = server.view.locate(path, follow)
    return Asked(path, found) if found else None


def _open_status(server: Server, call: Call, raw: bytes, flags: int) -> int | Outcome:
    """/proc/PID/status of a process that has memory pinned: the kernel's text with the machine's pins in it."""
    match = _STATUS.fullmatch(raw)
    if match is None or flags & os.O_ACCMODE != os.O_RDONLY:
        return Outcome.PROCEED
    try:
        number = call.thread if match[1] in (b"self", b"thread-self") else int(match[1])
        process = server.processes.find(int(read_status(number)["Tgid"]))
        if process is None or not (process.space.pinned_pages or process.space.locked_pages):
            return Outcome.PROCEED
        path = raw.replace(b"/self/", b"/%d/" % process.number).replace(b"/thread-self/", b"/%d/" % number)
        with open(path, "rb") as file:
            text = with_pins(file.read(), process.space)
        if number == call.thread:  # it waits for us, and would see itself running
            text = _STATE.sub(b"State:\\tR (running)", text)
    except OSError:
        return Outcome.PROCEED
    fd = os.memfd_create("status", os.MFD_CLOEXEC)
    try:
        os.write(fd, text)
        return _give_real(server, call, f"/proc/self/fd/{fd}", flags)
    finally:
        os.close(fd)


def _explain(server: Server, call: Call, text: str, error: OSError) -> None:
    """Report a refused open of a device node; that a text of /sys is not there is no refusal but an answer."""
    if isinstance(error, KernelError):
        refusal = error
    elif "(/dev/" in text:
        refusal = refuse(error.errno or EIO, "this machine has no such device node", "file", text[5:-1])
    else:
        return
    server.reporter.refused(call.thread, call.thread, text, "open", refusal)


PATH_CALLS: dict[int, Handler] = {
    Nr.OPEN: on_open,
    Nr.OPENAT: on_open,
    Nr.OPENAT2: on_open,
    Nr.CREAT: on_open,
    Nr.STAT: on_stat,
    Nr.LSTAT: on_stat,
    Nr.ACCESS: on_access,
    Nr.FACCESSAT: on_access,
    Nr.FACCESSAT2: on_access,
    Nr.READLINK: on_readlink,
    Nr.READLINKAT: on_readlink,
    Nr.GETXATTR: on_extended_attributes,
    Nr.LGETXATTR: on_extended_attributes,
    Nr.LISTXATTR: on_extended_attributes,
    Nr.LLISTXATTR: on_extended_attributes,
}
