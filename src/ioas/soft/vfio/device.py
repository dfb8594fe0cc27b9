"""`VfioDevice`: a PCI function bound to vfio-pci; one for each function, whoever has it open."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.soft.iommu import System
    from ioas.soft.pci import Function


class VfioDevice:
    """A function under the vfio-pci driver."""

    def __init__(self, system: System, function: Function, index: int, number: tuple[int, int]) -> None:
        """`index` is the N of vfioN; `number` the cdev's (major, minor)."""
        raise NotImplementedError
