"""Access control lists of device nodes: who may read and write, beyond the permission bits.

udev and logind give users the devices of their seat by such lists, and administrators VFIO's nodes. The format is that
of the extended attribute (include/uapi/linux/posix_acl_xattr.h), the rule that of posix_acl_permission (fs/posix_acl.c,
7.3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ATTRIBUTE = "system.posix_acl_access"
_VERSION = 2
_HEADER, _ENTRY = Struct("<I"), Struct("<HHI")
_WANTED = 0o6


class AclEntry(NamedTuple):
    """A line of a list: what it is about (`USER`, ...), the number of a user or group where it names one, rwx bits."""

    tag: int
    id: int
    permissions: int


def acl_of(path: str) -> tuple[AclEntry, ...]:
    """The list of a file; empty where it has none, or none that can be read."""
    try:
        data = os.getxattr(path, _ATTRIBUTE)
    except OSError:
        return ()
    return parse(data)


def parse(data: bytes) -> tuple[AclEntry, ...]:
    """The list in an extended attribute; empty for what is none."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data) != (_VERSION,):
        return ()
    entries = data[_HEADER.size :]
    whole = entries[: len(entries) // _ENTRY.size * _ENTRY.size]
    return tuple(AclEntry(tag, number, bits) for tag, bits, number in _ENTRY.iter_unpack(whole))


def may(uid: int, gids: frozenset[int], mode: int, owner: tuple[int, int], acl: Sequence[AclEntry]) -> bool:
    """Whether a user who is not root may read and write; `owner` is the file's user and group.

    With a list the group's bits of the mode are its mask. Who is named, or in a group that is, gets what that gives.
    """
    if uid == owner[0]:
        return _enough(mode >> 6)
    mask = mode >> 3 if any(entry.tag == MASK for entry in acl) else 0o7
    for entry in acl:
        if entry.tag == USER and entry.id == uid:
            return _enough(entry.permissions & mask)
    groups = list(_of_groups(gids, mode, owner[1], acl))
    if groups:
        return any(_enough(permissions & mask) for permissions in groups)
    return _enough(mode)


def _of_groups(gids: frozenset[int], mode: int, gid: int, acl: Sequence[AclEntry]) -> Iterator[int]:
    """What each group that the user is in gives."""
    if gid in gids:
        yield next((entry.permissions for entry in acl if entry.tag == GROUP_OBJ), mode >> 3)
    for entry in acl:
        if entry.tag == GROUP and entry.id in gids:
            yield entry.permissions


def _enough(permissions: int) -> bool:
    return permissions & _WANTED == _WANTED
