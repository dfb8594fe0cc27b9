"""A call that was refused: the file, the request by its name, the argument's bytes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from ioas.errors import CulpritKind
from ioas.uapi import iommufd, iommufd_test, vfio
from ioas.uapi.base import Struct

if TYPE_CHECKING:
    from typing_extensions import Buffer

Finding = tuple[str, CulpritKind, object]
"""A reason, and the culprit's kind and name."""

_Struct = TypeVar("_Struct", bound=Struct)


class Call:
    """An ioctl: whatever a diagnosis looks at."""

    def __init__(self, fd: int, path: str, request: int, argument: int | Buffer) -> None:
        self.fd = fd
        self.path = path
        self.request = request
        self._argument = argument

    @cached_property
    def name(self) -> str:
        """The request as the headers call it."""
        kind = iommufd if self.path in ("/dev/iommu", "anon_inode:[iommufd]") else vfio
        for module in (kind, iommufd, vfio, iommufd_test):
            for name, value in vars(module).items():
                if value == self.request and name.startswith(("IOMMU_", "VFIO_")):
                    return name
        return f"request {self.request:#x}"

    def struct(self, kind: type[_Struct]) -> _Struct:
        """The argument as a structure: what is missing of it is 0."""
        data = b"" if isinstance(self._argument, int) else memoryview(self._argument).cast("B").tobytes()
        command = kind()
        memoryview(command).cast("B")[:] = data[: len(bytes(command))].ljust(len(bytes(command)), b"\0")
        return command
