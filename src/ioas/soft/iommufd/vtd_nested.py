"""IOMMU_HWPT_DATA_VTD_S1: the user's own first-stage tables on a VT-d unit (drivers/iommu/intel/nested.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP

from ioas.errors import refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommu import Domain, FirstStage
from ioas.soft.iommufd.nested import UserDomain
from ioas.soft.iommufd.userdata import UserArray, UserData
from ioas.uapi.iommufd import (
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_DATA_VTD_S1,
    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
    IOMMU_VTD_INV_FLAGS_LEAF,
    IOMMU_VTD_S1_EAFE,
    IOMMU_VTD_S1_SRE,
    iommu_hwpt_vtd_s1,
    iommu_hwpt_vtd_s1_invalidate,
)

_ALL_PAGES = (1 << 64) - 1
_NOT_OFFERED = IOMMU_VTD_S1_SRE | IOMMU_VTD_S1_EAFE


class VtdFirstStage(FirstStage, UserDomain):
    """A first stage with the user's invalidations."""

    def invalidate(self, array: UserArray) -> None:
        """Follows intel_nested_cache_invalidate_user."""
        kind = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1
        if array.kind != kind:
            raise refuse(EINVAL, f"data_type {array.kind:#x} is not that of VTD_S1, {kind}", "field", "data_type")
        for index in range(array.count):
            entry = array.entry(index, kind, iommu_hwpt_vtd_s1_invalidate, "__reserved")
            _check(entry)
            if entry.npages:
                self.flush(entry.addr, min(entry.addr + entry.npages * PAGE_SIZE, 1 << 64) - 1)
            self.drain()
            array.done += 1


def make_first_stage(parent: Domain, flags: int, data: UserData) -> VtdFirstStage:
    """Follows intel_iommu_domain_alloc_nested. Raises KernelError: EOPNOTSUPP, EINVAL, EFAULT."""
    if not parent.unit.nested or flags & ~IOMMU_HWPT_ALLOC_PASID:
        raise refuse(EOPNOTSUPP, f"{parent.unit.name} has no nested tables with flags {flags:#x}", "field", "flags")
    if data.kind != IOMMU_HWPT_DATA_VTD_S1:
        raise refuse(EOPNOTSUPP, f"data_type {data.kind:#x} is not VTD_S1", "field", "data_type")
    asked = data.take(IOMMU_HWPT_DATA_VTD_S1, iommu_hwpt_vtd_s1, "__reserved")
    return VtdFirstStage(parent, asked.pgtbl_addr, asked.addr_width, asked.flags & _NOT_OFFERED)


def _check(entry: iommu_hwpt_vtd_s1_invalidate) -> None:
    if entry.flags & ~IOMMU_VTD_INV_FLAGS_LEAF or entry.__reserved:
        raise refuse(EOPNOTSUPP, f"flags {entry.flags:#x} or a reserved field are not known", "field", "flags")
    if entry.addr % PAGE_SIZE or (entry.npages == _ALL_PAGES and entry.addr):
        raise refuse(EINVAL, f"address {entry.addr:#x} does not go with {entry.npages} pages", "field", "addr")
