"""open(2) in all its forms."""

from __future__ import annotations

import os
import posixpath
import re
import struct
from errno import EACCES, EEXIST, EIO, EISDIR, ELOOP, ENOENT, ENOTDIR

from ioas.errors import KernelError, refuse
from ioas.host import Capability
from ioas.run.attribute import AttributeFile
from ioas.run.filter import AT_FDCWD
from ioas.run.kernel import Nr
from ioas.run.listener import Call
from ioas.run.outcome import Handler, Outcome
from ioas.run.pagemap import PATH as PAGEMAP, Frames, PagemapFile
from ioas.run.paths import descriptor_named, locate, read_path
from ioas.run.report import who
from ioas.run.server import Server
from ioas.run.status import read_status, with_pins
from ioas.run.view import Elsewhere, Located
from ioas.soft.pci.nodes import CharDevice, Directory, Link, Text

_WORD = 0xFFFFFFFF
_STATUS = re.compile(rb"/proc/(self|thread-self|\d+)(?:/task/(\d+))?/status")
_FAIL_NTH = re.compile(rb"/proc/(self|thread-self|\d+)(?:/task/\d+)?/fail-nth")
_TAINTED = b"/proc/sys/kernel/tainted"
_STATE = re.compile(rb"^State:.*$", re.MULTILINE)
_OPEN_HOW = struct.Struct("QQQ")


def on_open(server: Server, call: Call) -> int | Outcome:
    """open(2), openat(2), openat2(2), creat(2)."""
    directory, pointer, flags = _open_arguments(server, call)
    raw = read_path(server, call.thread, pointer)
    if raw.endswith(b"/status") and server.processes.pins():
        return _open_status(server, call, raw, flags)
    if raw.endswith(b"/fail-nth"):
        return _open_fail_nth(server, call, raw, flags)
    if raw.endswith(b"/pagemap") and server.frames:
        return _open_pagemap(server, call, server.frames, raw, flags)
    if raw == _TAINTED and server.machine.system.taints.flags:
        return _open_tainted(server, call, flags)
    if named := descriptor_named(server, call, raw):
        return _open_again(server, call, named[1].path, flags)
    follow = not flags & os.O_NOFOLLOW and flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL
    try:
        found = locate(server, call, directory, raw, follow)
        return Outcome.PROCEED if found is None else _open_node(server, call, found, flags)
    except OSError as error:
        _explain(server, call, f"open({os.fsdecode(raw)})", error)
        if error.errno == ENOENT and flags & os.O_CREAT:
            return _refuse_creation(server, call, directory, raw)
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


def _open_again(server: Server, call: Call, path: str, flags: int) -> int | Outcome:
    """/proc/PID/fd/N of a file of ours: its node is opened once more; one that a call made has none (ENXIO)."""
    node = server.view.locate(path, follow=True) if path else None
    return _open_node(server, call, node, flags) if node else Outcome.PROCEED


def _open_node(server: Server, call: Call, found: Located, flags: int) -> int | Outcome:
    node = found.node
    if isinstance(node, Elsewhere):
        return _open_elsewhere(server, call, found.path, flags)
    if flags & os.O_CREAT and flags & os.O_EXCL:
        return -EEXIST
    if isinstance(node, Link):
        return -ELOOP
    if flags & os.O_DIRECTORY and not isinstance(node, Directory):
        return -ENOTDIR
    if isinstance(node, CharDevice):
        return _open_device(server, call, found.path, flags)
    if isinstance(node, Text):
        return _open_text(server, call, found.path, node, flags)
    if flags & (os.O_ACCMODE | os.O_CREAT) != os.O_RDONLY:
        return -EISDIR
    return _let_open(server, call, server.stage.path(found.path), flags)


def _open_device(server: Server, call: Call, path: str, flags: int) -> int | Outcome:
    caller = server.caller(call)
    if caller is None:
        return -EACCES
    if server.reporter.summary:
        server.reporter.calls[f"open {path}"] += 1
    if flags & os.O_PATH:
        raise refuse(EACCES, "ioas run cannot open a device node with O_PATH", "file", path)
    return server.open_node(call, caller, path, flags)


def _open_text(server: Server, call: Call, path: str, node: Text, flags: int) -> int | Outcome:
    if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
        return _let_open(server, call, server.stage.text(path, node), flags)
    caller = server.caller(call)
    if caller is None or not node.writable:
        raise refuse(EACCES, "nothing can be written there on this machine", "file", path)
    return server.answer_with(call, caller, AttributeFile(node), path, bool(flags & os.O_CLOEXEC))


def _open_elsewhere(server: Server, call: Call, path: str, flags: int) -> int | Outcome:
    """A file of the real file system, opened for reading in the program's place."""
    if flags & (os.O_ACCMODE | os.O_CREAT) != os.O_RDONLY or server.stage.mounted:
        return Outcome.PROCEED
    return _give_real(server, call, path, flags)


def _let_open(server: Server, call: Call, real: str, flags: int) -> Outcome:
    """Have the program open a file of the stage: itself where it sees the stage, else we for it."""
    return Outcome.PROCEED if server.stage.mounted else _give_real(server, call, real, flags)


def _give_real(server: Server, call: Call, real: str, flags: int) -> Outcome:
    """Answer with a descriptor of a real file, which needs no further serving."""
    passed = os.O_DIRECTORY | os.O_NONBLOCK | os.O_PATH | os.O_NOFOLLOW
    fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | flags & passed)
    try:
        server.listener.give(call.ident, fd, None, bool(flags & os.O_CLOEXEC), answer=True)
    finally:
        os.close(fd)
    return Outcome.ANSWERED


def _refuse_creation(server: Server, call: Call, directory: int, raw: bytes) -> int:
    """A file that does not exist shall be made: EACCES in a directory (sysfs has no create), ENOENT in none."""
    try:
        above = locate(server, call, directory, posixpath.dirname(raw) or b".", follow=True)
    except OSError as error:
        return -(error.errno or EIO)
    return -EACCES if above else -ENOENT


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
    return _give_text(server, call, text, flags)


def _open_pagemap(server: Server, call: Call, frames: Frames, raw: bytes, flags: int) -> int | Outcome:
    """/proc/PID/pagemap of the program or one of its descendants: with the frames of this machine."""
    match = PAGEMAP.fullmatch(raw)
    caller = server.caller(call) if match and flags & os.O_ACCMODE == os.O_RDONLY else None
    if match is None or caller is None:
        return Outcome.PROCEED
    own = match[1] in (b"self", b"thread-self")
    try:
        target = caller if own else server.processes.caller(int(match[2] or match[1]))
        view = frames.view(target.memory)
    except OSError:
        return Outcome.PROCEED
    if target.uid != caller.uid and caller.uid:
        return -EACCES
    shown = caller.capable(Capability.SYS_ADMIN)
    if not shown and server.reporter.explain:
        server.reporter.warn_once(
            f"{who(call.thread, caller.pid)}: {os.fsdecode(raw)} shows no frame numbers without CAP_SYS_ADMIN"
        )
    file = PagemapFile(frames, view, shown)
    return server.answer_with(call, caller, file, os.fsdecode(raw), bool(flags & os.O_CLOEXEC))


def _open_tainted(server: Server, call: Call, flags: int) -> int | Outcome:
    """/proc/sys/kernel/tainted of a machine that is: its flags beside those of the kernel that runs it."""
    if flags & os.O_ACCMODE != os.O_RDONLY:
        return Outcome.PROCEED
    with open(_TAINTED, "rb") as file:
        own = int(file.read())
    return _give_text(server, call, b"%d\n" % (own | server.machine.system.taints.flags), flags)


def _give_text(server: Server, call: Call, text: bytes, flags: int) -> Outcome:
    """Answer with a descriptor of a file in memory that has `text`."""
    fd = os.memfd_create("text", os.MFD_CLOEXEC)
    try:
        os.write(fd, text)
        return _give_real(server, call, f"/proc/self/fd/{fd}", flags)
    finally:
        os.close(fd)


def _open_fail_nth(server: Server, call: Call, raw: bytes, flags: int) -> int | Outcome:
    """/proc/PID/task/TID/fail-nth: the machine's, for all of the process (`ioas.soft.host.fail_nth`)."""
    match = _FAIL_NTH.fullmatch(raw)
    caller = server.caller(call) if match else None
    file = server.machine.fail_nth(caller.pid) if caller else None
    if match is None or caller is None or file is None:
        return Outcome.PROCEED
    if match[1] not in (b"self", b"thread-self", b"%d" % caller.pid):
        return -EACCES
    return server.answer_with(call, caller, file, os.fsdecode(raw), bool(flags & os.O_CLOEXEC))


def _explain(server: Server, call: Call, text: str, error: OSError) -> None:
    """Report a refused open of a device node; that a text of /sys is not there is no refusal but an answer."""
    if isinstance(error, KernelError):
        refusal = error
    elif "(/dev/" in text:
        refusal = refuse(error.errno or EIO, "this machine has no such device node", "file", text[5:-1])
    else:
        return
    server.reporter.refused(call.thread, call.thread, text, "open", refusal)


OPEN_CALLS: dict[int, Handler] = {
    Nr.OPEN: on_open,
    Nr.OPENAT: on_open,
    Nr.OPENAT2: on_open,
    Nr.CREAT: on_open,
}
