"""A text of /sys that has been opened for writing: what is written goes to the machine."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from errno import EFBIG, EINVAL, ENODEV, ENOTTY
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE, Caller
from ioas.run.outcome import Pending
from ioas.soft.pci.nodes import Text
from ioas.soft.pci.sysfs_driver import InUse

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SHOWN = 64
"""Bytes of a value that a refusal repeats."""


class AttributeFile:
    """An open sysfs attribute (implements `ioas.host.File`)."""

    device_number = (0, 0)

    def __init__(self, node: Text) -> None:
        self._node = node
        self._position = 0

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """ENOTTY: texts have none."""
        raise refuse(ENOTTY, "a text of /sys answers no ioctl", "request", f"{request:#x}")

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """Read from `offset`, or from where the last read ended."""
        start = self._position if offset is None else offset
        data = self._node.read()[start : start + length]
        if offset is None:
            self._position += len(data)
        return data

    def seek(self, offset: int, whence: int) -> int:
        """Move the position, as lseek(2) does: the new one. Raises KernelError(EINVAL)."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: PAGE_SIZE}.get(whence)
        if base is None or base + offset < 0:
            raise refuse(EINVAL, "no such position in a text of /sys", "field", "offset")
        self._position = base + offset
        return self._position

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """One write is one command, as in the kernel; a binary file takes the bytes where they are meant for.

        Raises KernelError with the errno of the machine's answer, Pending when its effect has to be waited for.
        """
        if self._node.store is not None:
            return self._store(self._node.store, data, self._position if offset is None else offset, offset is None)
        if self._node.write is None:
            raise refuse(EINVAL, "nothing can be written there", "file", "attribute of /sys")
        if offset is None:
            self._position += len(data)
        try:
            self._node.write(data)
        except KernelError:
            raise
        except InUse as waiting:
            raise Pending(waiting.ended, len(data)) from None
        except OSError as error:
            reason = error.strerror or "the machine does not take this value"
            raise refuse(error.errno or EINVAL, reason, "field", data[:_SHOWN].decode(errors="replace")) from error
        return len(data)

    def _store(self, store: Callable[[int, bytes], None], data: bytes, start: int, moves: bool) -> int:
        """Follows sysfs_kf_bin_write (fs/sysfs/file.c): EFBIG behind the end, and no more than fits."""
        room = len(self._node.read()) - start
        if room <= 0:
            raise refuse(EFBIG, "the file ends before", "field", "offset")
        store(start, data[:room])
        if moves:
            self._position += len(data[:room])
        return len(data[:room])

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV: texts cannot be mapped."""
        raise refuse(ENODEV, "a text of /sys cannot be mapped", "file", "attribute of /sys")

    def poll(self, caller: Caller) -> int:
        """Always ready."""
        return select.POLLIN | select.POLLOUT

    def close(self) -> None:
        """Nothing to release."""
