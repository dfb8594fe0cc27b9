"""PASIDs of a function: what the kernel turns on when it finds the function, and what the function can then send.

Follows intel_iommu_probe_finalize (drivers/iommu/intel/iommu.c), pci_enable_pasid (drivers/pci/ats.c) and
pci_configure_eetlp_prefix (drivers/pci/probe.c), 7.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.soft.pci import isolation
from ioas.soft.pci.capabilities import Pasid, Pcie, acs, pasid, pcie

if TYPE_CHECKING:
    from ioas.soft.pci.function import Function

_PATH = acs.REQUEST_REDIRECT | acs.UPSTREAM_FORWARDING
"""Without these a peer could take a request with a PASID for one of its own addresses."""


def set_up(function: Function) -> None:
    """Tell the requester how wide the function's PASIDs are, and turn them on if its unit takes any.

    They stay off where the way to the unit does not carry TLP prefixes or does not isolate. A virtual function has
    those of its PF, as they are.
    """
    holder = _holder(function)
    placed = holder.find(Pasid)
    if placed is None:
        return
    requester = function.requester
    requester.max_pasid_log2 = placed[0].width
    control = placed[1] + pasid.CONTROL
    takes = function is holder and requester.pasid_width
    if takes and _carries_prefixes(function) and isolation.acs_path_enabled(function, _PATH):
        function.config.write(control, (pasid.ENABLE | placed[0].features).to_bytes(2, "little"))
    now = holder.config.get(control, 2)
    requester.pasid_execute = bool(now & pasid.EXECUTE)
    requester.pasid_privileged = bool(now & pasid.PRIVILEGED)


def can_send(function: Function, number: int) -> bool:
    """Whether PASID `number` can leave the function: they are on, and it fits."""
    holder = _holder(function)
    placed = holder.find(Pasid)
    if placed is None:
        return False
    on = holder.config.get(placed[1] + pasid.CONTROL, 2) & pasid.ENABLE
    return bool(on) and 0 <= number < 1 << placed[0].width


def _holder(function: Function) -> Function:
    """Whose capability counts: that of the PF (pci_physfn)."""
    from ioas.soft.pci.virtual import VirtualFunction  # which imports this module by way of `dma`

    return function.physical if isinstance(function, VirtualFunction) else function


def _carries_prefixes(function: Function) -> bool:
    """End-to-end TLP prefixes, here and in the port above."""
    placed = function.find(Pcie)
    if placed is None:
        return False
    if not function.config.get(placed[1] + pcie.DEVICE_CAPABILITIES_2, 4) & pcie.END_TO_END_PREFIXES:
        return False
    port = function.place.bus.port
    return port is None or _carries_prefixes(port)
