"""The machine's tree as real directories and files, for descriptors that the kernel itself serves.

A program that opens a directory of /sys gets a real one: reading it, and opening what is in it by a relative path,
then needs no supervisor. The tree is written when it is first needed, under /dev/shm or XDG_RUNTIME_DIR, in a
directory that only this user can enter, and removed at the end. A supervisor that is killed cannot do that; each
stage is therefore locked by its owner (flock), and whoever starts next removes the stages that nobody holds.

Device nodes are made by root with their numbers, by others as character devices 0:0, which any user may make: reading a
directory shows the right kind, while opening one goes through the supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ioas.errors import EnvironmentRefusal
from ioas.soft.pci.nodes import CharDevice, Directory, Link, Node, Text, Tree

_PREFIX = "ioas-stage-"
_NEW = "ioas-new-"
_SECONDS_TO_LOCK = 60


class NoStage(EnvironmentRefusal):
    """There is no place to write the tree to."""


class Stage:
    """A written tree. Nothing is written before the first question."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._root: Path | None = None
        self._lock = -1
        self._written: dict[str, bytes] = {}
        self._kinds: dict[str, object] = {}
        self.version = -1
        """The version of the tree that has been written."""
        self.mounted = False
        """The program sees the stage itself, as its /dev and /sys (`ioas.run.namespace`)."""
        sweep()

    @property
    def root(self) -> str | None:
        """Where it stands; None when it has not been written."""
        return str(self._root) if self._root else None

    def path(self, path: str) -> str:
        """The real path of the machine's `path` (without links in it). Raises NoStage."""
        if self._root is None:
            self._root = self._write()
        return f"{self._root}{path}"

    def text(self, path: str, node: Text) -> str:
        """The real path of a text, with its contents of now."""
        real = self.path(path)
        if self._written.get(path) != node.read():
            self._put(path, node)
        return real

    def update(self) -> None:
        """Add what has been added to the tree since the last time, and remove what has been removed."""
        if self._root is None:
            return
        nodes = dict(self._tree.walk())
        for path in [known for known in reversed(self._kinds) if known not in nodes]:
            self._remove(path)
        for path, node in nodes.items():
            if self._kinds.get(path) != _kind(node):
                self._put(path, node)
        self.version = self._tree.version

    def machine_path(self, real: str) -> str | None:
        """The machine's path of a real path, for descriptors of ours; None for others."""
        if self._root is None:
            return None
        root = str(self._root)
        return real[len(root) :] or "/" if real == root or real.startswith(f"{root}/") else None

    def close(self) -> None:
        """Remove what was written."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            os.close(self._lock)
            self._root = None

    def _write(self) -> Path:
        for place in _places():
            try:
                new = Path(tempfile.mkdtemp(prefix=_NEW, dir=place))
            except OSError:
                continue
            self._lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._root = root = new.rename(new.with_name(new.name.replace(_NEW, _PREFIX)))
            self.update()
            return root
        raise NoStage("no directory to write the machine's sysfs to: neither /dev/shm nor XDG_RUNTIME_DIR")

    def _put(self, path: str, node: Node) -> None:
        """Write one node; what stood there is replaced in one step, so that who has it open keeps the old contents."""
        real = f"{self._root}{path}"
        if isinstance(node, Directory):
            os.mkdir(real)
            os.chmod(real, 0o755)  # whatever the umask
        else:
            self._replace(real, path, node)
        self._kinds[path] = _kind(node)  # what has failed is tried again

    def _replace(self, real: str, path: str, node: Text | CharDevice | Link) -> None:
        fresh = f"{self._root}/fresh"
        try:
            if isinstance(node, Text):
                data = node.read()
                _write_text(fresh, node, data)
                self._written[path] = data
            elif isinstance(node, CharDevice):
                _make_device(fresh, node)
            else:
                os.symlink(node.target, fresh)
            os.rename(fresh, real)
        except OSError:  # no space is left
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            raise

    def _remove(self, path: str) -> None:
        real = f"{self._root}{path}"
        self._written.pop(path, None)
        if self._kinds.pop(path) is Directory:
            shutil.rmtree(real, ignore_errors=True)
        else:
            os.unlink(real)


def _kind(node: Node) -> object:
    """What has to be written anew when it is another; texts look after their contents themselves."""
    return node if isinstance(node, (Link, CharDevice)) else type(node)


def writable_place() -> str | None:
    """Where a stage would be written; None when nowhere."""
    return next((place for place in _places() if os.access(place, os.W_OK | os.X_OK)), None)


def sweep() -> None:
    """Remove this user's stages that nobody holds."""
    for place in _places():
        try:
            names = [name for name in os.listdir(place) if name.startswith((_PREFIX, _NEW))]
        except OSError:
            continue
        for name in names:
            _sweep_one(os.path.join(place, name))


def _sweep_one(path: str) -> None:
    try:
        status = os.lstat(path)
        young = time.time() - status.st_ctime < _SECONDS_TO_LOCK
        if status.st_uid != os.getuid() or (young and os.path.basename(path).startswith(_NEW)):
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # its owner is alive
    finally:
        os.close(fd)


def _places() -> Iterator[str]:
    yield "/dev/shm"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield runtime
    yield tempfile.gettempdir()


def _make_device(path: str, node: CharDevice) -> None:
    for number in (os.makedev(node.major, node.minor), 0):
        try:
            os.mknod(path, stat.S_IFCHR | node.mode, number)
        except PermissionError:
            continue
        os.chmod(path, node.mode)
        return
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, node.mode))  # before Linux 5.8


def _write_text(path: str, node: Text, data: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        if node.size is not None:
            os.ftruncate(fd, node.size)
        os.fchmod(fd, node.mode)
    finally:
        os.close(fd)
