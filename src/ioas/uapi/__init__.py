"""The kernel's user API (Linux 7.3) as data: structures, ioctl numbers, flags; one module for each header.

`ioas.uapi.iommufd` (include/uapi/linux/iommufd.h), `ioas.uapi.iommufd_test` (the kernel's selftest interface,
drivers/iommu/iommufd/iommufd_test.h) and `ioas.uapi.vfio` (include/uapi/linux/vfio.h). `ioas.uapi.base` says how
a structure is written.
"""
