"""The running Linux as a host: the only package that makes system calls on /dev/iommu and /dev/vfio."""

from ioas.kernel.caller import KernelCaller
from ioas.kernel.file import KernelFile
from ioas.kernel.host import KernelHost
from ioas.kernel.pagemap import Pagemap

__all__ = ["KernelCaller", "KernelFile", "KernelHost", "Pagemap"]
