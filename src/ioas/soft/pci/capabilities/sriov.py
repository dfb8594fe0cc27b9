"""Single root I/O virtualisation (PCI Express Base 6.0, 9.3.3; extended capability 0x0010): a function with VFs.

The physical function (PF) has the registers that make virtual functions appear, and the windows in which their BARs
lie one after the other. What a VF is like says the class that is declared here, see `ioas.soft.pci.virtual`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import UsageError
from ioas.soft.pci.bars import Bar
from ioas.soft.pci.capabilities.base import Capability

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function
    from ioas.soft.pci.virtual import VirtualFunction

CONTROL = 0x08
INITIAL_VFS = 0x0C
TOTAL_VFS = 0x0E
NUM_VFS = 0x10
FIRST_VF_OFFSET = 0x14
VF_STRIDE = 0x16
VF_DEVICE_ID = 0x1A
SUPPORTED_PAGE_SIZES = 0x1C
SYSTEM_PAGE_SIZE = 0x20
VF_BAR0 = 0x24

VF_ENABLE = 0x01
VF_MEMORY = 0x08
_ARI = 0x10
_PAGE_SIZES = 0x553
"""4 KiB, 8 KiB, 64 KiB, 256 KiB, 1 MiB and 4 MiB, which every function must support."""
_PAGE = 4096


class VfWindow(Bar):
    """The window of BAR `index` of all VFs: its register lies in the capability and tells the size of one VF's."""

    def __init__(self, bar: Bar, count: int, capability: int) -> None:
        """`capability`: where the structure begins in configuration space."""
        super().__init__(bar.index, bar.size, bar.kind, prefetchable=bar.prefetchable)
        self._count = count
        self._capability = capability

    @property
    def _register(self) -> int:
        return self._capability + VF_BAR0 + 4 * self.index

    @property
    def extent(self) -> int:
        """As much as the BARs of all VFs take."""
        return self.size * self._count


class SrIov(Capability):
    """`total` VFs of class `vf`: the first stands at `offset` from its PF, each further one `stride` from the last."""

    id: ClassVar[int] = 0x0010
    extended: ClassVar[bool] = True

    def __init__(self, vf: type[VirtualFunction], total: int, *, offset: int = 0x80, stride: int = 2) -> None:
        """Raises UsageError for numbers that leave the bus of the PF."""
        if total < 1 or offset < 1 or stride < 1 or offset + (total - 1) * stride > 0xF8:
            raise UsageError(f"{total} VFs from {offset:#x} by {stride} do not stand on the bus of their PF")
        self.vf = vf
        self.total = total
        self.offset = offset
        self.stride = stride

    @property
    def length(self) -> int:
        """Header, capabilities, control, numbers, page sizes, BARs, migration state."""
        return 0x40

    def install(self, function: Function, offset: int) -> None:
        """Declare the registers; raises UsageError for a VF of another vendor or with BARs that VFs cannot have."""
        self._check(function)
        config = function.config
        config.declare(offset + CONTROL, 2, 0, writable=VF_ENABLE | VF_MEMORY | _ARI)
        config.declare(offset + INITIAL_VFS, 2, self.total)
        config.declare(offset + TOTAL_VFS, 2, self.total)
        config.declare(offset + NUM_VFS, 2, 0, writable=0xFFFF)
        config.declare(offset + FIRST_VF_OFFSET, 2, self.offset)
        config.declare(offset + VF_STRIDE, 2, self.stride)
        config.declare(offset + VF_DEVICE_ID, 2, self.vf.device_id)
        config.declare(offset + SUPPORTED_PAGE_SIZES, 4, _PAGE_SIZES)
        config.declare(offset + SYSTEM_PAGE_SIZE, 4, 1, writable=0xFFFF_FFFF)
        for window in self.windows(offset):
            window.install(config)
        self._watch(function, offset)

    def _watch(self, function: Function, offset: int) -> None:
        """VFs begin in their reset state whenever VF Enable is set, as after a reset of their PF."""
        config, enabled = function.config, [False]

        def changed() -> None:
            was, enabled[0] = enabled[0], bool(config.get(offset + CONTROL, 2) & VF_ENABLE)
            if enabled[0] and not was:
                for virtual in function.virtual_functions:
                    virtual.reinitialise()

        config.watch(offset + CONTROL, 2, changed)
        config.watch_reset(lambda: enabled.__setitem__(0, False))

    def windows(self, offset: int) -> Sequence[VfWindow]:
        """The windows of the VFs' BARs; `offset` is where the structure begins."""
        return [VfWindow(bar, self.total, offset) for bar in self.vf.declared_bars() if bar is not None]

    def _check(self, function: Function) -> None:
        if self.vf.vendor_id != function.vendor_id:
            raise UsageError(f"{function}: its VFs are of vendor {self.vf.vendor_id:#06x}, which must be its own")
        for bar in self.vf.declared_bars():
            if bar is not None and (bar.is_io or bar.size < _PAGE):
                raise UsageError(f"{function}: BAR {bar.index} of its VFs is not memory of whole pages")
