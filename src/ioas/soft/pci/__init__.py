"""PCI in software: configuration space, topology, ACS groups, sysfs, and the protocol that device models are written against."""

from ioas.soft.pci.address import Bdf
from ioas.soft.pci.bars import Bar, BarKind, Rom
from ioas.soft.pci.config import Config
from ioas.soft.pci.function import Dma, Function, ResetMethod
from ioas.soft.pci.interrupts import InterruptKind, Interrupts
from ioas.soft.pci.nodes import CharDevice, Directory, Link, Node, Text, Tree
from ioas.soft.pci.sysfs import VfioDevice, build_sysfs
from ioas.soft.pci.timers import ManualTimers, Timer, Timers
from ioas.soft.pci.topology import Topology

__all__ = [
    "Bar",
    "BarKind",
    "Bdf",
    "CharDevice",
    "Config",
    "Directory",
    "Dma",
    "Function",
    "InterruptKind",
    "Interrupts",
    "Link",
    "ManualTimers",
    "Node",
    "ResetMethod",
    "Rom",
    "Text",
    "Timer",
    "Timers",
    "Topology",
    "Tree",
    "VfioDevice",
    "build_sysfs",
]
