"""PCI in software: configuration space, topology, ACS groups, sysfs, and the protocol of device models."""

from ioas.soft.pci.address import Bdf
from ioas.soft.pci.bars import Bar, BarKind, Rom
from ioas.soft.pci.capabilities import (
    Acs,
    Aer,
    BridgeSubsystem,
    Capability,
    Msi,
    Msix,
    Pasid,
    Pcie,
    PowerManagement,
    SrIov,
)
from ioas.soft.pci.config import Config
from ioas.soft.pci.dma import Dma
from ioas.soft.pci.failure import Failure
from ioas.soft.pci.function import Function
from ioas.soft.pci.interrupts import InterruptKind, Interrupts
from ioas.soft.pci.migration import Migration
from ioas.soft.pci.nodes import CharDevice, Directory, Link, Node, Text, Tree
from ioas.soft.pci.options import Option, OptionValue
from ioas.soft.pci.placed import Incident
from ioas.soft.pci.ram import Ram, RamPages
from ioas.soft.pci.registers import Register
from ioas.soft.pci.resets import ResetMethod
from ioas.soft.pci.sysfs import VfioNode, build_sysfs
from ioas.soft.pci.timers import ManualTimers, Timer, Timers
from ioas.soft.pci.topology import Topology
from ioas.soft.pci.virtual import VirtualFunction

__all__ = [
    "Acs",
    "Aer",
    "Bar",
    "BarKind",
    "Bdf",
    "BridgeSubsystem",
    "Capability",
    "CharDevice",
    "Config",
    "Directory",
    "Dma",
    "Failure",
    "Function",
    "Incident",
    "InterruptKind",
    "Interrupts",
    "Link",
    "ManualTimers",
    "Migration",
    "Msi",
    "Msix",
    "Node",
    "Option",
    "OptionValue",
    "Pasid",
    "Pcie",
    "PowerManagement",
    "Ram",
    "RamPages",
    "Register",
    "ResetMethod",
    "Rom",
    "SrIov",
    "Text",
    "Timer",
    "Timers",
    "Topology",
    "Tree",
    "VfioNode",
    "VirtualFunction",
    "build_sysfs",
]
