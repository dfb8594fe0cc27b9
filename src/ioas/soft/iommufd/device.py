"""`Device`: a device under the control of a context (follows drivers/iommu/iommufd/device.c, 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.soft.iommu import Requester
    from ioas.soft.iommufd.context import Context


class Device:
    """A requester bound to a context: the object that `out_devid` of VFIO_DEVICE_BIND_IOMMUFD names."""

    id: int

    @classmethod
    def bind(cls, context: Context, requester: Requester) -> Device:
        """Claim `requester`'s group for `context` and make the device object.

        Raises KernelError: EPERM when another owner has the group, ENODEV without one.
        """
        raise NotImplementedError

    def attach(self, pt_id: int, pasid: int | None = None) -> int:
        """Attach to an IOAS (an automatic page table is found or made) or a page table; return the page table's id.

        Raises KernelError: ENOENT for an unknown id, EINVAL for an object of another kind or when the group is attached to
        another page table, EBUSY when this device is attached already, EADDRINUSE when mappings stand where the device
        or its IOMMU reserves, EFAULT/ENOMEM when existing mappings cannot be pinned.
        """
        raise NotImplementedError

    def replace(self, pt_id: int, pasid: int | None = None) -> int:
        """As `attach`, for a device that is attached: on failure nothing changes. Raises EINVAL when it is not."""
        raise NotImplementedError

    def detach(self, pasid: int | None = None) -> None:
        """DMA is blocked when this returns. Detaching what is not attached does nothing."""
        raise NotImplementedError

    def unbind(self) -> None:
        """Destroy the device object and give the group back; the caller detaches first."""
        raise NotImplementedError
