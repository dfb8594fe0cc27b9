"""PCI capability structures, one file each."""

from ioas.soft.pci.capabilities.acs import Acs
from ioas.soft.pci.capabilities.aer import Aer
from ioas.soft.pci.capabilities.base import Capability
from ioas.soft.pci.capabilities.msi import Msi
from ioas.soft.pci.capabilities.msix import Msix
from ioas.soft.pci.capabilities.pasid import Pasid
from ioas.soft.pci.capabilities.pcie import Pcie
from ioas.soft.pci.capabilities.pm import PowerManagement
from ioas.soft.pci.capabilities.sriov import SrIov
from ioas.soft.pci.capabilities.ssvid import BridgeSubsystem

__all__ = ["Acs", "Aer", "BridgeSubsystem", "Capability", "Msi", "Msix", "Pasid", "Pcie", "PowerManagement", "SrIov"]
