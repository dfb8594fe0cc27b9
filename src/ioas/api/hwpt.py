"""`Hwpt`: a hardware page table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ioas.errors import UsageError

if TYPE_CHECKING:
    from ioas.api.iommufd import Iommufd


class Hwpt:
    """A page table, made by `Iommufd.hwpt`, that devices can be attached to. Use it as a context manager."""

    def __init__(self, iommufd: Iommufd, object_id: int) -> None:
        self.iommufd = iommufd
        self.id = object_id
        self._open = True

    def __repr__(self) -> str:
        return f"<Hwpt {self.id}{'' if self._open else ' (closed)'}>"

    def check_open(self) -> None:
        """Raises UsageError when it, or its iommufd, is closed."""
        self.iommufd.check_open()
        if not self._open:
            raise UsageError(f"page table {self.id} is closed")

    def close(self) -> None:
        """Destroy it. Raises Busy while a device is attached. Idempotent."""
        if self._open and not self.iommufd.closed:
            self.iommufd.destroy(self.id)
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
