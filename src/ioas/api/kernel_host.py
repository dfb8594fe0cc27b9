"""`KernelHost`: the running Linux for Python programs."""

from __future__ import annotations

from ioas.api.files import Session
from ioas.api.host import BaseHost
from ioas.kernel import KernelCaller, KernelHost as Kernel, Pagemap


class KernelHost(BaseHost):
    """The running kernel: its /dev/iommu, and the devices that are bound to vfio-pci. Use it as a context manager.

    >>> with KernelHost() as host, host.iommufd() as iommufd, host.device("0000:01:00.0") as device:
    ...     device.bind(iommufd)
    """

    def __init__(self) -> None:
        """Nothing is opened yet, so this works everywhere."""
        kernel = Kernel()
        self.caller = KernelCaller()
        # The kernel's own counts of pages cannot be set, as `AddressSpace` says; only a software host does that.
        self.physical = Pagemap()
        session = Session(kernel, self.caller, lambda: None, self.physical, pins=True)  # type: ignore[arg-type]
        super().__init__(session, kernel.sysfs)
