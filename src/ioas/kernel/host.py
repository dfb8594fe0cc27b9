"""`KernelHost`: the running Linux behind the seam."""

from __future__ import annotations

import os

from ioas.kernel.diagnosis import why_not_opened
from ioas.kernel.file import KernelFile
from ioas.sysfs import Sysfs


class KernelHost:
    """The running kernel (implements `ioas.host.Host`). It holds nothing: its files are this process's own."""

    def __init__(self) -> None:
        self.sysfs = Sysfs()

    def __repr__(self) -> str:
        return "<KernelHost>"

    def open(self, caller: object, path: str, flags: int) -> KernelFile:
        """Open a device node; `flags` are O_*. Raises KernelError with what inspection found out."""
        try:
            return KernelFile(os.open(path, flags), path)
        except OSError as error:
            raise why_not_opened(self.sysfs, path, error) from None
