"""IOMMUs in software: units, domains with page tables in real formats, IOTLBs, requesters, fault records."""

from ioas.soft.iommu.dma import DmaPort
from ioas.soft.iommu.domain import Domain
from ioas.soft.iommu.first_stage import FirstStage
from ioas.soft.iommu.nested import NestedDomain
from ioas.soft.iommu.noiommu import NoIommu
from ioas.soft.iommu.requester import Requester
from ioas.soft.iommu.system import Group, System
from ioas.soft.iommu.taint import Taint
from ioas.soft.iommu.types import FaultReason, FaultRecord, Geometry, Prot, RegionKind, ReservedRegion
from ioas.soft.iommu.unit import AnyDomain, Traits, Unit
from ioas.soft.iommu.units import amd_unit, mock_unit, vtd_unit

__all__ = [
    "AnyDomain",
    "DmaPort",
    "Domain",
    "FaultReason",
    "FaultRecord",
    "FirstStage",
    "Geometry",
    "Group",
    "NestedDomain",
    "NoIommu",
    "Prot",
    "RegionKind",
    "Requester",
    "ReservedRegion",
    "System",
    "Taint",
    "Traits",
    "Unit",
    "amd_unit",
    "mock_unit",
    "vtd_unit",
]
