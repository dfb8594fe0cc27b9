"""Page-table formats: what the bits of an entry mean, and nothing else."""

from ioas.soft.iommu.formats.amdv1 import AmdV1
from ioas.soft.iommu.formats.base import Format, Leaf
from ioas.soft.iommu.formats.vtdss import VtdSecondStage
from ioas.soft.iommu.formats.x86_64 import X86First

__all__ = ["AmdV1", "Format", "Leaf", "VtdSecondStage", "X86First"]
