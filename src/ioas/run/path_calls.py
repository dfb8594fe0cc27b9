"""Calls that ask about a path: stat, access, readlink, extended attributes in all their forms."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, EIO, EOPNOTSUPP

from ioas.run.fd_calls import shown_file
from ioas.run.filter import AT_FDCWD
from ioas.run.kernel import Nr
from ioas.run.listener import Call
from ioas.run.outcome import Handler, Outcome
from ioas.run.paths import descriptor_named, locate, read_path
from ioas.run.server import Server
from ioas.run.statfiles import Shown, device_node, pack_stat, pack_statx, written_file
from ioas.run.view import Elsewhere, Located
from ioas.soft.pci.nodes import CharDevice, Directory, Link

_SYMLINK_NOFOLLOW = 0x100
_WORD = 0xFFFFFFFF


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
        shown = _shown(server, call, read_path(server, call.thread, pointer), follow)
    except OSError as error:
        return -(error.errno or EIO)
    if shown is None:
        return Outcome.PROCEED
    caller = server.caller(call)
    if caller is None:
        return -EACCES
    caller.memory.write(buffer, (pack_statx if number == Nr.STATX else pack_stat)(shown))
    return 0


def _shown(server: Server, call: Call, raw: bytes, follow: bool) -> Shown | None:
    """What stat shows at a path; None when that is not the machine's. Raises OSError."""
    if follow and (named := descriptor_named(server, call, raw)):
        return shown_file(named[1])
    found = locate(server, call, AT_FDCWD, raw, follow)
    if found is None:
        return None
    node = found.node
    if isinstance(node, CharDevice):
        return device_node((node.major, node.minor), node.mode)
    if isinstance(node, Elsewhere):
        return None if server.stage.mounted else written_file(os.stat(found.path, follow_symlinks=follow))
    return written_file(os.lstat(server.stage.path(found.path)))


def on_access(server: Server, call: Call) -> int | Outcome:
    """access(2), faccessat(2), faccessat2(2): everybody may read and write nodes; texts have their modes."""
    legacy = call.number == Nr.ACCESS
    pointer, mode = call.arguments[:2] if legacy else call.arguments[1:3]
    nofollow = call.number == Nr.FACCESSAT2 and call.arguments[3] & _SYMLINK_NOFOLLOW
    try:
        found = locate(server, call, AT_FDCWD, read_path(server, call.thread, pointer), not nofollow)
    except OSError as error:
        return -(error.errno or EIO)
    if found is None:
        return Outcome.PROCEED
    if mode & ~(os.R_OK | os.W_OK | os.X_OK) & _WORD:
        return -EINVAL
    return 0 if _allows(found, mode) else -EACCES


def _allows(found: Located, mode: int) -> bool:
    node = found.node
    if isinstance(node, Elsewhere):
        return os.access(found.path, mode)
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
        target = _target(server, call, read_path(server, call.thread, pointer))
    except OSError as error:
        return -(error.errno or EIO)
    if target is None:
        return Outcome.PROCEED
    caller = server.caller(call)
    if caller is None:
        return -EACCES
    if not target or not 0 < room < 1 << 31:
        return -EINVAL
    raw = os.fsencode(target)[:room]
    caller.memory.write(buffer, raw)
    return len(raw)


def _target(server: Server, call: Call, raw: bytes) -> str | None:
    """Where the link at a path leads; empty for what is no link, None when that is not the machine's to answer."""
    if named := descriptor_named(server, call, raw):
        return named[1].path or None
    found = locate(server, call, AT_FDCWD, raw, follow=False)
    if found is None:
        return None
    if isinstance(found.node, Elsewhere):
        return os.readlink(found.path)
    return found.node.target if isinstance(found.node, Link) else ""


def on_extended_attributes(server: Server, call: Call) -> int | Outcome:
    """getxattr(2), listxattr(2) and their kin, which `ls -l` asks for: the machine's file system has none."""
    follow = call.number in (Nr.GETXATTR, Nr.LISTXATTR)
    try:
        found = locate(server, call, AT_FDCWD, read_path(server, call.thread, call.arguments[0]), follow)
    except OSError as error:
        return -(error.errno or EIO)
    return -EOPNOTSUPP if found else Outcome.PROCEED


PATH_CALLS: dict[int, Handler] = {
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
