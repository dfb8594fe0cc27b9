"""`Context`: an open /dev/iommu (follows drivers/iommu/iommufd/main.c, 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.host import Caller

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import System


class Context:
    """An open /dev/iommu (implements `ioas.host.File`).

    It lives as long as its file is open or something holds it (`get`): a bound device or an access keeps it
    alive after the program closes its descriptor. The last `put` destroys every object, leaves first.
    """

    def __init__(
        self, system: System, *, test: bool = False, number: tuple[int, int] = (10, 125), vfio: bool = False
    ) -> None:
        """`test` turns on IOMMU_TEST_CMD; `number` is the node's (major, minor).

        `vfio` is for a context opened as /dev/vfio/vfio (locked memory is then counted as VFIO counts it).
        """
        raise NotImplementedError

    def get(self) -> None:
        """Take a reference that keeps the context after its file is closed."""
        raise NotImplementedError

    def put(self) -> None:
        """Give a reference back; the last one destroys everything, synchronously."""
        raise NotImplementedError

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """Carry out one of iommufd's commands, or a VFIO container command."""
        raise NotImplementedError
