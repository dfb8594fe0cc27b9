"""Memory files of this process that mappings keep open: one descriptor for each file, however many mappings.

The kernel holds a file without a descriptor; a host in the same process needs one, out of the program's own limit.
"""

from __future__ import annotations

import os
import threading
from errno import EBADF, EMFILE, ENFILE
from weakref import WeakValueDictionary

from ioas.errors import refuse


class KeptFile:
    """A file, open for reading and writing as far as it allows that; closed when nobody refers to it any more."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        """Takes over `fd`."""
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class KeptFiles:
    """The files kept now, by device and inode. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: WeakValueDictionary[tuple[int, int], KeptFile] = WeakValueDictionary()

    def keep(self, fd: int) -> KeptFile:
        """The file behind `fd`, as long as the caller refers to it. Raises KernelError: EBADF, EMFILE."""
        try:
            status = os.fstat(fd)
            key = status.st_dev, status.st_ino
            with self._lock:
                file = self._files.get(key)
                if file is None:
                    file = self._files[key] = KeptFile(_reopen(fd))
            return file
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE):
                raise refuse(EMFILE, "the process has no free file descriptor", "limit", "RLIMIT_NOFILE") from error
            raise refuse(EBADF, "no such file descriptor", "file", f"fd {fd}") from error


def _reopen(fd: int) -> int:
    """A descriptor for reading and writing, whatever `fd` is open for: pinning does not look at a file's mode."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (EMFILE, ENFILE):
            raise
        return os.dup(fd)  # permissions or seals are in the way: then as far as `fd` goes
