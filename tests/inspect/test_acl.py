"""Access control lists: read as the kernel stores them, judged as it does (posix_acl_permission, 7.3)."""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from ioas.inspect.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, AclEntry, acl_of, may, parse

OWNER, ALICE, BOB = 0, 1000, 1001
NONE = 0xFFFFFFFF
LIST = (
    AclEntry(USER_OBJ, NONE, 6),
    AclEntry(USER, ALICE, 6),
    AclEntry(GROUP_OBJ, NONE, 4),
    AclEntry(GROUP, 36, 6),
    AclEntry(GROUP, 37, 4),
    AclEntry(MASK, NONE, 6),
    AclEntry(OTHER, NONE, 0),
)


def attribute(entries: tuple[AclEntry, ...]) -> bytes:
    """The extended attribute that says this."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", each.tag, each.permissions, each.id) for each in entries)


@pytest.mark.parametrize(
    ("uid", "gids", "mode", "acl", "allowed"),
    [
        (ALICE, {ALICE}, 0o660, LIST, True),
        (ALICE, {ALICE}, 0o640, LIST, False),
        (BOB, {BOB}, 0o660, LIST, False),
        (BOB, {BOB, 36}, 0o660, LIST, True),
        (BOB, {BOB, 37}, 0o666, LIST, False),
        (BOB, {BOB, 36, 37}, 0o660, LIST, True),
        (BOB, {BOB, 0}, 0o666, LIST, False),
        (BOB, {BOB, 0, 36}, 0o660, LIST, True),
        (OWNER + 5, {5}, 0o666, (), True),
        (BOB, {0}, 0o606, (), False),
        (BOB, {0}, 0o660, (), True),
    ],
)
def test_the_first_rule_that_concerns_a_user_decides(
    uid: int, gids: set[int], mode: int, acl: tuple[AclEntry, ...], allowed: bool
) -> None:
    assert may(uid, frozenset(gids), mode, (0, 0), acl) is allowed


def test_the_owner_goes_by_the_owners_bits() -> None:
    assert may(ALICE, frozenset({ALICE}), 0o600, (ALICE, 0), LIST)
    assert not may(ALICE, frozenset({ALICE}), 0o066, (ALICE, 0), LIST)


def test_what_the_kernel_stores_is_read() -> None:
    assert parse(attribute(LIST)) == LIST


@pytest.mark.parametrize("data", [b"", b"\2\0", b"\1\0\0\0" + bytes(8), b"\xff" * 12])
def test_what_is_no_list_counts_as_none(data: bytes) -> None:
    assert parse(data) == ()


def test_a_list_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    assert parse(attribute(LIST)[:-3]) == LIST[:-1]


def test_the_list_of_a_file_is_that_of_the_kernel(tmp_path: Path) -> None:
    file = tmp_path / "node"
    file.touch(0o600)
    assert acl_of(str(file)) == ()
    try:
        os.setxattr(file, "system.posix_acl_access", attribute(LIST))
    except OSError as error:
        pytest.skip(f"no access control lists here: {error.strerror}")
    assert acl_of(str(file)) == LIST
    assert acl_of(str(tmp_path / "absent")) == ()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_the_kernel_and_the_rule_agree() -> None:
    """A child tries to open the file as each user; what open(2) says is what `may` says."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        file = Path(directory, "node")
        file.touch()
        try:
            os.setxattr(file, "system.posix_acl_access", attribute(LIST))
        except OSError as error:
            pytest.skip(f"no access control lists here: {error.strerror}")
        for mode in (0o660, 0o640, 0o666):
            file.chmod(mode)
            acl = acl_of(str(file))
            for uid, gids in ((ALICE, [ALICE]), (BOB, [BOB]), (BOB, [36]), (BOB, [37]), (BOB, [0]), (BOB, [36, 37])):
                allowed = may(uid, frozenset(gids), mode, (0, 0), acl)
                assert opens(file, uid, gids) is allowed, (oct(mode), uid, gids)


def opens(file: Path, uid: int, gids: list[int]) -> bool:
    command = ["sh", "-c", f": <> {file}"]
    done = subprocess.run(command, user=uid, group=gids[0], extra_groups=gids, cwd="/", stderr=subprocess.DEVNULL)
    return done.returncode == 0
