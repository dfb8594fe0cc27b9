"""The IOMMU driver of containers whose groups have no IOMMU: it does nothing (vfio_noiommu_ops, container.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import refuse
from ioas.host import Caller
from ioas.soft.vfio.noiommu import check_privilege
from ioas.uapi.vfio import VFIO_NOIOMMU_IOMMU

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import System
    from ioas.soft.vfio.group import VfioGroup


class NoIommuDriver:
    """Type 8 (implements `ioas.soft.vfio.container.IommuDriver`)."""

    serves_noiommu: ClassVar[bool] = True

    def __init__(self, system: System) -> None:
        """Use `open`."""
        self._system = system

    @classmethod
    def knows(cls, extension: int) -> int:
        """Its own type. Only asked in VFIO's unsafe mode."""
        return int(extension == VFIO_NOIOMMU_IOMMU)

    @classmethod
    def open(cls, system: System, caller: Caller, kind: int) -> NoIommuDriver:
        """Raises KernelError: EINVAL for another type, EPERM without CAP_SYS_RAWIO (vfio_noiommu_open)."""
        if kind != VFIO_NOIOMMU_IOMMU:
            raise refuse(
                EINVAL, f"the container serves groups without an IOMMU, not type {kind}", "field", f"type={kind}"
            )
        check_privilege(caller, "a container of type 8")
        return cls(system)

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """Raises KernelError(ENOTTY): there is nothing to map."""
        raise refuse(
            ENOTTY, f"a container without an IOMMU maps nothing and knows no {request:#x}", "request", f"{request:#x}"
        )

    def extension(self, extension: int) -> int:
        """Its own type, in VFIO's unsafe mode."""
        return self.knows(extension) if self._system.unsafe_noiommu else 0

    def attach(self, group: VfioGroup) -> None:
        """Nothing to do."""

    def detach(self, group: VfioGroup) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Nothing to do."""
