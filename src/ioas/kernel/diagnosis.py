"""What inspection can find out about a call that the kernel refused: the errno alone says little."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.sysfs import Sysfs

if TYPE_CHECKING:
    from typing_extensions import Buffer


def why_not_opened(sysfs: Sysfs, path: str, error: OSError) -> KernelError:
    """The exception for an open(2) that failed."""
    number = error.errno or 0
    return refuse(number, f"{path} cannot be opened: {os.strerror(number)}", "file", path)


def why_refused(path: str, request: int, argument: int | Buffer, error: OSError) -> KernelError:
    """The exception for an ioctl(2) that failed."""
    number = error.errno or 0
    return refuse(number, f"the kernel refuses request {request:#x}: {os.strerror(number)}", "file", path)
