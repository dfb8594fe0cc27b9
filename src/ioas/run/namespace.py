"""A mount namespace of the program's own, in which /dev and /sys are the machine's.

With it the kernel itself walks the machine's tree: listings, chdir(2), walks by directory descriptor, programs that
make raw system calls. The written tree (`ioas.run.stage`) is mounted over /dev and /sys, and what the real ones have
beside it - /dev/null, /sys/class/net - is mounted into it again. The rest of the file system is as it was, and nobody
else sees any of this.

Root needs nothing more than CAP_SYS_ADMIN. Anybody else gets a user namespace with it, where the system allows those,
in which he remains himself; other users and groups then show as nobody's, which some programs mind. Where neither is
allowed, /dev and /sys are answered for path by path.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ioas.run import kernel
from ioas.run.view import View

_TOPS = ("/sys", "/dev")
_PATH = os.O_PATH | os.O_CLOEXEC


class Mounts(NamedTuple):
    """What is mounted where."""

    stage: str
    """The directory that the tree has been written to."""
    kept: Sequence[str]
    """Paths below /sys and /dev that stay the real ones."""


def prepare(view: View, stage: str) -> Mounts:
    """Make room in the written tree for what the real file system has beside it."""
    return Mounts(stage, [path for directory in view.shared_directories() for path in _keep(view, stage, directory)])


def _keep(view: View, stage: str, directory: str) -> Iterator[str]:
    """The entries of a real directory that stay; links are copied, for the rest there is a place to mount on."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return  # there is none here, or we may not look; neither may the program
    for entry in entries:
        if view.has(entry.path):
            continue
        place = f"{stage}{entry.path}"
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)
                continue
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(place)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            yield entry.path


def enter(mounts: Mounts) -> None:
    """Put this process, which is about to become the program, into a namespace with `mounts`. Raises OSError.

    After a failure the process is of no use.
    """
    here = os.getcwd()
    _leave()
    for top in _TOPS:
        _cover(top, mounts)
    with contextlib.suppress(OSError):
        os.chdir(here)  # in the new /sys, if it was in the old


def why_not() -> int:
    """The errno with which a namespace is refused here, tried out in a child; 0 when it is allowed."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        _leave()
        kernel.mount("/dev", "/sys", kernel.MS_BIND)
        os._exit(0)
    except OSError as error:
        os._exit(error.errno or 1)


def _leave() -> None:
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWNS | (kernel.CLONE_NEWUSER if user else 0))
    if user:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    kernel.mount("none", "/", kernel.MS_REC | kernel.MS_SLAVE)  # nothing of this gets out


def _cover(top: str, mounts: Mounts) -> None:
    """Mount the stage over `top`, and what is kept of the old one into it."""
    old = os.open(top, _PATH)
    kernel.mount(f"{mounts.stage}{top}", top, kernel.MS_BIND)
    for path in mounts.kept:
        if path.startswith(f"{top}/"):
            with contextlib.suppress(FileNotFoundError):
                kernel.mount(f"/proc/self/fd/{old}{path[len(top) :]}", path, kernel.MS_BIND | kernel.MS_REC)
    os.close(old)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
